"""Merge an adapter into its base: a checkpoint that servers without LoRA support can load."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosody_tagger.errors import BadInput, ProsodyError, os_reason
from synth.higgs_local.adapter import TEXT_HEAD, check_fit, read_adapter
from synth.higgs_local.base_model import BaseDescription, describe_folder
from synth.higgs_local.lora import AdapterSwitch, load_weights
from synth.higgs_local.prosody_file import PROSODY_FILE

if TYPE_CHECKING:
    import torch

MAX_ERROR = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 1e-2}
"""Largest accepted distance between the logits of the merged model and those with PEFT's adapter, relative to the norm of the
latter, by the type of the weights."""

_TOKENS, _FRAMES = 24, 8  # text tokens and audio frames of the prompt on which both are compared
_NOT_COPIED = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged checkpoint.

    Attributes:
        folder: where it was written.
        targets: number of layers that the adapter changed.
        error: distance of its logits from those with PEFT's adapter, relative to the norm of the latter.
        warnings: what the user should know about the adapter.
    """

    folder: Path
    targets: int
    error: float
    warnings: tuple[str, ...]


def merge(adapter_folder: Path, base_folder: Path, output: Path, report: Callable[[str], None] = lambda _: None) -> MergeResult:
    """Write the base model with an adapter merged into it, in the precision of the base, with the other files of its folder.

    Before writing, the logits of a prompt with text and audio are compared with those that PEFT's unmerged adapter gives.

    Args:
        adapter_folder: PEFT's folder of the adapter.
        base_folder: the base checkpoint in transformers' format.
        output: a folder that does not exist or is empty.
        report: called with the name of each stage as it begins.

    Raises:
        AdapterError: the adapter is broken, or does not fit this base.
        BadInput: the output exists already, or cannot be written.
        ProsodyError: the merged model's logits differ from the adapter's by more than `MAX_ERROR`.
    """
    _check_output(output)
    adapter = read_adapter(adapter_folder)
    base = describe_folder(base_folder)
    warnings = check_fit(adapter, base)
    report("loading the base")
    model = _load(base_folder, base)
    prompt = _prompt(model.config)
    report("comparing with PEFT")
    model, expected = _logits_by_peft(model, adapter_folder, prompt)
    AdapterSwitch(model).activate(load_weights(adapter))
    error = _relative_distance(_logits(model, prompt), expected)
    limit = MAX_ERROR.get(str(model.dtype), 0.0)
    if not error <= limit:
        raise ProsodyError(
            f"the merged model's scores are {error:.1e} of their norm away from the adapter's, more than {limit:g}; nothing was "
            "written: merge it with PEFT, and report this adapter"
        )
    report("writing")
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        model.save_pretrained(partial)
        for file in base_folder.iterdir():
            if file.is_file() and not file.name.endswith(_NOT_COPIED) and not (partial / file.name).exists():
                shutil.copyfile(file, partial / file.name)
        if adapter.prosody is not None:
            shutil.copyfile(adapter_folder / PROSODY_FILE, partial / PROSODY_FILE)
        if output.exists():
            output.rmdir()
        partial.rename(output)
    except OSError as problem:
        raise BadInput(f"cannot write {output}: {os_reason(problem)}; make room or choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return MergeResult(output, len(adapter.modules), error, warnings)


def _check_output(output: Path) -> None:
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise BadInput(f"{str(output)!r} exists already; give a new folder")
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {output}: {os_reason(error)}; choose another folder") from None


def _load(folder: Path, base: BaseDescription) -> Any:
    from transformers import HiggsAudioV2ForConditionalGeneration

    has_text_head = f"{TEXT_HEAD}.weight" in base.shapes
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, dtype="auto", use_text_head=has_text_head).eval()


def _prompt(config: Any) -> dict[str, "torch.Tensor"]:
    """Return a random prompt of text followed by audio, so that both feed-forward networks of each layer are used."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    known = torch.arange(min(config.vocab_size, config.audio_bos_token_id))
    text = known[torch.randint(len(known), (_TOKENS,), generator=drawn)]
    ids = torch.cat([text, torch.tensor([config.audio_bos_token_id]), torch.full((_FRAMES,), config.audio_token_id)])
    frames = torch.randint(config.codebook_size - 2, (1, _FRAMES, config.num_codebooks), generator=drawn)
    return {"input_ids": ids[None], "audio_input_ids": frames, "attention_mask": torch.ones_like(ids)[None]}


def _logits(model: Any, prompt: dict[str, "torch.Tensor"]) -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(**prompt, audio_input_ids_mask=torch.ones(1, _FRAMES, dtype=torch.bool)).logits
    return logits.float()


def _logits_by_peft(model: Any, folder: Path, prompt: dict[str, "torch.Tensor"]) -> tuple[Any, "torch.Tensor"]:
    """Return the model without the adapter, and its logits with it."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, folder).eval()
    logits = _logits(wrapped, prompt)
    return wrapped.unload(), logits


def _relative_distance(a: "torch.Tensor", b: "torch.Tensor") -> float:
    return float((a - b).norm() / b.norm())
