"""An adapter made part of its base: a checkpoint that servers without LoRA can load."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosody_tagger.errors import BadInput, ProsodyError
from synth.higgs_local.adapter import PROSODY_FILE, TEXT_HEAD, check_fit, read_adapter
from synth.higgs_local.base_model import Opened, of_folder
from synth.higgs_local.lora import Switch, load

if TYPE_CHECKING:
    import torch

MOST_ERROR = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 1e-2}
"""The most that the merged model's scores may differ from those with PEFT's adapter, as a share of their norm, by the type."""

_TOKENS, _FRAMES = 24, 8  # of the prompt that the two are compared on
_NOT_COPIED = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of it: where it is, the layers that changed, and how far its scores are from those with PEFT's adapter."""

    folder: Path
    targets: int
    error: float
    warnings: tuple[str, ...]


def merge(adapter_folder: Path, base_folder: Path, output: Path, said: Callable[[str], None] = lambda _: None) -> Merged:
    """Write the base with an adapter in it, in the form and precision of the base, with all that stands beside its weights.

    The scores of a prompt with text and audio are compared with those that PEFT's own, unmerged adapter gives.

    Args:
        adapter_folder: PEFT's.
        base_folder: a checkpoint in the form of transformers.
        output: a folder that is not there yet, or empty.
        said: is told what is being done.

    Raises:
        AdapterError: the adapter is broken, or not for this base.
        BadInput: the output is there already, or cannot be written.
        ProsodyError: the merged model does not give the adapter's scores.
    """
    _check_output(output)
    adapter = read_adapter(adapter_folder)
    base = of_folder(base_folder)
    warnings = check_fit(adapter, base)
    said("loading the base")
    model = _load(base_folder, base)
    prompt = _prompt(model.config)
    said("comparing with PEFT")
    wanted, scores = _scores_by_peft(model, adapter_folder, prompt)
    Switch(wanted).to(load(adapter))
    error = _difference(_scores(wanted, prompt), scores)
    most = MOST_ERROR.get(str(wanted.dtype), 0.0)
    if not error <= most:
        raise ProsodyError(
            f"the merged model's scores are {error:.1e} of their norm away from the adapter's, more than {most:g}; nothing was "
            "written: merge it with PEFT, and report this adapter"
        )
    said("writing")
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        wanted.save_pretrained(beside)
        for file in base_folder.iterdir():
            if file.is_file() and not file.name.endswith(_NOT_COPIED) and not (beside / file.name).exists():
                shutil.copyfile(file, beside / file.name)
        if adapter.prosody is not None:
            shutil.copyfile(adapter_folder / PROSODY_FILE, beside / PROSODY_FILE)
        if output.exists():
            output.rmdir()
        beside.rename(output)
    except OSError as problem:
        raise BadInput(
            f"cannot write {output}: {(problem.strerror or str(problem)).lower()}; make room or give another place"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Merged(output, len(adapter.modules), error, warnings)


def _check_output(output: Path) -> None:
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise BadInput(f"{str(output)!r} is there already; give a folder that is not")
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {output}: {(error.strerror or str(error)).lower()}; give another place") from None


def _load(folder: Path, base: Opened) -> Any:
    from transformers import HiggsAudioV2ForConditionalGeneration

    has_text_head = f"{TEXT_HEAD}.weight" in base.shapes
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, dtype="auto", use_text_head=has_text_head).eval()


def _prompt(config: Any) -> dict[str, "torch.Tensor"]:
    """Text and then audio, so that both of each layer's networks take part."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    known = torch.arange(min(config.vocab_size, config.audio_bos_token_id))
    text = known[torch.randint(len(known), (_TOKENS,), generator=drawn)]
    ids = torch.cat([text, torch.tensor([config.audio_bos_token_id]), torch.full((_FRAMES,), config.audio_token_id)])
    frames = torch.randint(config.codebook_size - 2, (1, _FRAMES, config.num_codebooks), generator=drawn)
    return {"input_ids": ids[None], "audio_input_ids": frames, "attention_mask": torch.ones_like(ids)[None]}


def _scores(model: Any, prompt: dict[str, "torch.Tensor"]) -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        scores: torch.Tensor = model(**prompt, audio_input_ids_mask=torch.ones(1, _FRAMES, dtype=torch.bool)).logits
    return scores.float()


def _scores_by_peft(model: Any, folder: Path, prompt: dict[str, "torch.Tensor"]) -> tuple[Any, "torch.Tensor"]:
    """The model as it was, and its scores with PEFT's adapter."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, folder).eval()
    scores = _scores(wrapped, prompt)
    return wrapped.unload(), scores


def _difference(a: "torch.Tensor", b: "torch.Tensor") -> float:
    return float((a - b).norm() / b.norm())
