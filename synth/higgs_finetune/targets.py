"""LoRA on parts of the model, and tokens for marks.

PEFT ignores a target that matches nothing as long as another one matches. So the layers of each target are found and counted here
first, and a target that is not there is an error.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import regex

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS
from synth.higgs_local.prosody_file import TrainedMark

if TYPE_CHECKING:
    import torch

_LAYER = r"model\.layers\.\d+\."
TARGETS: Mapping[str, str] = {
    "attention": rf"{_LAYER}self_attn\.[qkvo]_proj",
    "text-ffn": rf"{_LAYER}mlp\.(?:gate|up|down)_proj",
    "audio-ffn": rf"{_LAYER}audio_mlp\.(?:gate|up|down)_proj",
    "heads": r"(?:audio|text)_lm_head",
}
"""Names of the parts that can get LoRA, with a pattern of the names of their linear layers."""

DEFAULT_TARGETS = ("attention", "audio-ffn")

NO_AUDIO_ATTENTION = (
    "use_audio_out_self_attention is not supported: it adds audio-to-audio attention to every layer, with random weights because "
    "the released checkpoint has none, and so changes the model's output before any training; the model's own attention already "
    "connects text and audio: leave the option out"
)

_LINEARS_PER_LAYER = {"attention": 4, "text-ffn": 3, "audio-ffn": 3}
_RESERVED = regex.compile(r"<\|reserved_special_token_(\d{1,3})\|>")
_FIRST_RESERVED = 10  # Llama or Higgs gave a meaning to some of the lower ones


def parse_targets(value: str) -> tuple[str, ...]:
    """Return the names of `TARGETS` in a comma-separated list such as ``attention,audio_ffn``, with dashes, in their usual order.

    Raises:
        BadInput: a name is unknown, or there is none.
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
    """Return the names of the linear layers of ``model`` for each of ``targets``.

    Raises:
        BadInput: a target matches nothing, or does not match all it should in every layer.
    """
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found: dict[str, list[str]] = {}
    for target in targets:
        pattern = regex.compile(TARGETS[target])
        found[target] = [name for name in linear if pattern.fullmatch(name)]
        expected = (
            _LINEARS_PER_LAYER[target] * model.config.num_hidden_layers
            if target in _LINEARS_PER_LAYER
            else max(1, len(found[target]))
        )
        if len(found[target]) != expected:
            raise BadInput(
                f"the target {target!r} matches {len(found[target])} layers of the model and should match {expected}; "
                "give a checkpoint of Higgs Audio v2 in the format of transformers"
            )
    return found


def add_adapter(
    model: Any, targets: Sequence[str], *, r: int = 16, alpha: int = 32, dropout: float = 0.05, mark_ids: Sequence[int] = ()
) -> Any:
    """Add LoRA (Hu et al., 2021) to a model.

    Args:
        model: the base model, with frozen weights.
        targets: names of `TARGETS`.
        r: rank.
        alpha: scale; the adapter's output is multiplied by alpha / r.
        dropout: dropout before the adapter.
        mark_ids: tokens whose embeddings are trained as well.

    Returns:
        A ``PeftModel`` of ``model`` in which only the adapter's weights and these embeddings are trained.

    Raises:
        BadInput: a target matches nothing.
    """
    from peft import LoraConfig, get_peft_model

    wanted = [name for names in find_targets(model, targets).values() for name in names]
    rows: dict[str, Any] = {"trainable_token_indices": {"embed_tokens": list(mark_ids)}} if mark_ids else {}
    pattern = "|".join(TARGETS[target] for target in targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers is removing
        wrapped = get_peft_model(model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, **rows))
    trained = sum(name.endswith("lora_A.default") for name, _ in wrapped.named_modules())
    if trained != len(wanted):
        raise BadInput(f"PEFT put LoRA on {trained} layers instead of {len(wanted)}; install a supported version of PEFT")
    if mark_ids:
        _avoid_embedding_copy(wrapped.get_base_model().model.embed_tokens.token_adapter)
    return wrapped


def disable_input_cast(model: Any) -> None:
    """Let `torch.autocast` choose the precision of the adapter of ``model``, whose weights are float32.

    By default PEFT casts the input of each layer to float32 and keeps that copy for the backward pass.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def mark_tokens(tokenizer: Any, config: Any, kinds: Sequence[str] = KINDS) -> dict[str, TrainedMark]:
    """Return an unused reserved token for each kind of mark in ``kinds``. The token of a kind does not depend on the other kinds.

    Raises:
        BadInput: the tokenizer has too few.
    """
    used = {value for key, value in config.to_dict().items() if key.endswith("token_id") and isinstance(value, int)}
    free = sorted(
        (int(match[1]), number)
        for token, number in tokenizer.get_added_vocab().items()
        if (match := _RESERVED.fullmatch(token)) and number not in used and number < config.vocab_size
    )
    free = [item for item in free if item[0] >= _FIRST_RESERVED]
    if len(free) < len(KINDS):
        raise BadInput(
            f"the tokenizer has {len(free)} unused reserved tokens, and the marks need {len(KINDS)}; it is not the tokenizer of "
            "Higgs Audio v2: download the checkpoint again"
        )
    tokens = {kind: TrainedMark(f"<|reserved_special_token_{n}|>", number) for kind, (n, number) in zip(KINDS, free, strict=False)}
    return {kind: tokens[kind] for kind in KINDS if kind in kinds}


def _avoid_embedding_copy(layer: Any) -> None:
    """Make PEFT's layer look up trained rows in a table of their own. The result is the same.

    By default it copies the whole embedding in each step and keeps a gradient of the same size, about 1.6 GB for rows of a few kB.
    """
    import torch
    from torch.nn import functional

    def forward(ids: "torch.Tensor") -> "torch.Tensor":
        base = layer.base_layer(ids)
        if layer.disable_adapters or layer.merged:
            return base  # type: ignore[no-any-return]
        (name,) = layer.active_adapters
        tokens = torch.tensor(layer.token_indices[name], device=ids.device)
        matches = ids[..., None] == tokens
        rows = functional.embedding(matches.to(torch.uint8).argmax(-1), layer.trainable_tokens_delta[name])
        return torch.where(matches.any(-1, keepdim=True), rows.to(base.dtype), base)

    layer.forward = forward
