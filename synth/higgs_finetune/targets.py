"""Which of the model's weights are trained: found by what they are, counted, and never a target that is not there.

PEFT is silent about a target that matches nothing as long as another one matches, so the layers are looked for here first.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import regex

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS
from synth.higgs_local.adapter import TrainedMark

if TYPE_CHECKING:
    import torch

_LAYER = r"model\.layers\.\d+\."
TARGETS: Mapping[str, str] = {
    "attention": rf"{_LAYER}self_attn\.[qkvo]_proj",
    "text-ffn": rf"{_LAYER}mlp\.(?:gate|up|down)_proj",
    "audio-ffn": rf"{_LAYER}audio_mlp\.(?:gate|up|down)_proj",
    "heads": r"(?:audio|text)_lm_head",
}
"""What can be trained, and the names of its linear layers."""

DEFAULT_TARGETS = ("attention", "audio-ffn")

NO_AUDIO_ATTENTION = (
    "use_audio_out_self_attention is refused: it puts audio-to-audio attention with random weights into every layer, which "
    "changes what the model says before anything is trained, and the released weights hold none for it; text and audio see each "
    "other in the model's own attention already: leave it out"
)

_A_LAYER = {"attention": 4, "text-ffn": 3, "audio-ffn": 3}
_RESERVED = regex.compile(r"<\|reserved_special_token_(\d{1,3})\|>")
_FIRST_RESERVED = 10  # those below have, or had, a meaning in Llama or Higgs


def parse_targets(value: str) -> tuple[str, ...]:
    """The groups of `TARGETS` in ``attention,audio-ffn``; underscores are as good as dashes.

    Raises:
        BadInput: one that there is not, or none.
    """
    names = [name.strip().lower().replace("_", "-") for name in value.split(",") if name.strip()]
    for name in names:
        if "audio-attn" in name or name in ("use-audio-out-self-attention", "audio-attention"):
            raise BadInput(NO_AUDIO_ATTENTION)
        if name not in TARGETS:
            raise BadInput(f"there is no target {name!r}; the targets are {', '.join(TARGETS)}")
    if not names:
        raise BadInput(f"no target is given; the targets are {', '.join(TARGETS)}")
    return tuple(name for name in TARGETS if name in names)


def find_targets(model: Any, targets: Sequence[str]) -> dict[str, list[str]]:
    """The linear layers of ``model`` that each of ``targets`` means, by name.

    Raises:
        BadInput: a target that matches nothing, or not all of every layer.
    """
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found: dict[str, list[str]] = {}
    for target in targets:
        pattern = regex.compile(TARGETS[target])
        found[target] = [name for name in linear if pattern.fullmatch(name)]
        expected = _A_LAYER[target] * model.config.num_hidden_layers if target in _A_LAYER else max(1, len(found[target]))
        if len(found[target]) != expected:
            raise BadInput(
                f"the target {target!r} matches {len(found[target])} layers of the model and should match {expected}; "
                "is it Higgs Audio v2 in the form of transformers?"
            )
    return found


def add_adapter(
    model: Any, targets: Sequence[str], *, r: int = 16, alpha: int = 32, dropout: float = 0.05, mark_ids: Sequence[int] = ()
) -> Any:
    """``model`` with LoRA on ``targets`` and trained rows for ``mark_ids``: a ``PeftModel`` whose other weights are frozen.

    Raises:
        BadInput: a target that matches nothing.
    """
    from peft import LoraConfig, get_peft_model

    wanted = [name for names in find_targets(model, targets).values() for name in names]
    rows: dict[str, Any] = {"trainable_token_indices": {"embed_tokens": list(mark_ids)}} if mark_ids else {}
    pattern = "|".join(TARGETS[target] for target in targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by names that are going
        wrapped = get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, **rows))
    trained = sum(name.endswith("lora_A.default") for name, _ in wrapped.named_modules())
    if trained != len(wanted):
        raise BadInput(f"PEFT put LoRA on {trained} layers and not on {len(wanted)}; install the version that is asked for")
    if mark_ids:
        _look_up_rows(wrapped.get_base_model().model.embed_tokens.token_adapter)
    return wrapped


def compute_in_half(model: Any) -> None:
    """Let the adapter of ``model``, whose weights are float32, be computed as `torch.autocast` has it: PEFT would make every input
    of a layer float32 first, and keep that for the gradient."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def mark_tokens(tokenizer: Any, config: Any, kinds: Sequence[str] = KINDS) -> dict[str, TrainedMark]:
    """A reserved token that nothing uses for each kind of mark: always the same one for a kind, whichever others are trained.

    Raises:
        BadInput: the tokenizer has too few.
    """
    used = {value for key, value in config.to_dict().items() if key.endswith("token_id") and isinstance(value, int)}
    free = sorted(
        (int(match[1]), number)
        for token, number in tokenizer.get_added_vocab().items()
        if (match := _RESERVED.fullmatch(token)) and number not in used and number < config.vocab_size
    )
    free = [one for one in free if one[0] >= _FIRST_RESERVED]
    if len(free) < len(KINDS):
        raise BadInput(
            f"the tokenizer has {len(free)} reserved tokens that nothing uses, and the marks need {len(KINDS)}; it is not that of "
            "Higgs Audio v2: download the checkpoint again"
        )
    tokens = {kind: TrainedMark(f"<|reserved_special_token_{n}|>", number) for kind, (n, number) in zip(KINDS, free, strict=False)}
    return {kind: tokens[kind] for kind in KINDS if kind in kinds}


def _look_up_rows(layer: Any) -> None:
    """Let PEFT's layer look trained rows up beside the embedding, and not in a copy of all of it made at every step, whose gradient
    would be as large again: some 1.6 GB for rows that take a few kB. The numbers are the same."""
    import torch
    from torch.nn import functional

    def forward(ids: "torch.Tensor") -> "torch.Tensor":
        base = layer.base_layer(ids)
        if layer.disable_adapters or layer.merged:
            return base  # type: ignore[no-any-return]
        (name,) = layer.active_adapters
        tokens = torch.tensor(layer.token_indices[name], device=ids.device)
        same = ids[..., None] == tokens
        rows = functional.embedding(same.to(torch.uint8).argmax(-1), layer.trainable_tokens_delta[name])
        return torch.where(same.any(-1, keepdim=True), rows.to(base.dtype), base)

    layer.forward = forward
