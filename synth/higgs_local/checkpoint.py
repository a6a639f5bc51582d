"""Load Higgs Audio v2 (model, tokenizer and codec) from a folder or the Hugging Face hub, with one-line errors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from prosody_tagger.errors import first_line
from prosody_tagger.extras import install_command
from synth.errors import BackendUnavailable
from synth.higgs_local.codec_model import codec_class
from synth.higgs_local.settings import HiggsLocalSettings

MODEL_TYPE, CODEC_TYPE = "higgs_audio_v2", "higgs_audio_v2_tokenizer"
DEFAULT_CODEC = "bosonai/higgs-audio-v2-tokenizer"

_OLD_KEYS = ("text_config", "audio_adapter_type", "audio_encoder_config", "n_q")
_PATTERNS = ["*.json", "*.jinja", "*.safetensors"]
_HUB_NAME = regex.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_HUB_SECONDS = 10.0  # time limit for the hub's answer
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SPARE_BYTES = 1_000_000_000  # for activations and the KV cache


@dataclass(frozen=True, slots=True)
class HiggsCheckpoint:
    """A loaded model with its tokenizer and codec.

    Attributes:
        model: ``HiggsAudioV2ForConditionalGeneration`` on its device.
        tokenizer: the model's.
        codec: ``HiggsAudioV2TokenizerModel`` on the same device, in float32.
        folder: where the model's files are.
    """

    model: Any
    tokenizer: Any
    codec: Any
    folder: Path


def load_checkpoint(settings: HiggsLocalSettings) -> HiggsCheckpoint:
    """Load the model, tokenizer and codec that the settings name.

    Raises:
        BackendUnavailable: the checkpoint is missing, unreachable, in the old format or incomplete; there is no GPU, or too little
            memory.
    """
    try:
        import torch
        from transformers import AutoTokenizer, HiggsAudioV2ForConditionalGeneration
        from transformers.utils import logging

        codec_type = codec_class()
    except ImportError as error:
        raise BackendUnavailable(
            f"Higgs cannot run here: {first_line(error)}; install the extra: {install_command('higgs')}"
        ) from None
    logging.disable_progress_bar()
    device = torch.device(choose_device(settings))
    dtype = settings.dtype if settings.dtype != "auto" else ("bfloat16" if device.type == "cuda" else "float32")
    folder = find_checkpoint(settings.model, settings.revision, MODEL_TYPE, "model")
    codec_folder = find_codec(settings, folder)
    _check_memory(folder, codec_folder, device, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = load_pretrained(HiggsAudioV2ForConditionalGeneration, folder, getattr(torch, dtype))
        codec = load_pretrained(codec_type, codec_folder, torch.float32)
        return HiggsCheckpoint(model.to(device), tokenizer, codec.to(device), folder)
    except torch.cuda.OutOfMemoryError:
        raise BackendUnavailable(f"the memory of {device} is full; {_LESS_MEMORY}") from None


def choose_device(settings: HiggsLocalSettings) -> str:
    """Return the torch device that the settings name; auto is the first GPU, else the CPU.

    Raises:
        BackendUnavailable: the GPU does not exist.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.device == "auto":
        return "cuda:0" if count else "cpu"
    kind, _, number = settings.device.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        reason = f"torch {torch.__version__} sees {count} GPUs" if count else f"torch {torch.__version__} sees no GPU"
        raise BackendUnavailable(
            f"there is no {settings.device}: {reason}; set device to cpu, or install a torch built for your GPU"
        )
    return f"cuda:{number or 0}" if kind == "cuda" else "cpu"


def find_checkpoint(name: str, revision: str | None, model_type: str, what: str) -> Path:
    """Return the folder of a checkpoint, downloading it unless it is a folder or in the hub's cache.

    Args:
        name: folder or hub name.
        revision: revision on the hub; None for the newest.
        model_type: the ``model_type`` that its config.json must have.
        what: "model" or "codec", for messages.

    Raises:
        BackendUnavailable: it does not exist, cannot be downloaded, or is another kind of checkpoint.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not _HUB_NAME.fullmatch(name):
            raise BackendUnavailable(
                f"there is no folder {name!r} for the {what}; give a folder, or a name on the hub such as owner/name"
            )
        folder = _from_hub(name, revision, what)
    _check_kind(folder, model_type, what)
    return folder


def is_local(name: str, revision: str | None) -> bool:
    """Whether a checkpoint is on this machine: a folder, or in the hub's cache. Nothing is loaded or downloaded."""
    if Path(name).expanduser().is_dir():
        return True
    if not _HUB_NAME.fullmatch(name):
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _from_hub(name: str, revision: str | None, what: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    at = f"{name} at {revision}" if revision else name
    for local in (True, False):
        try:
            found = snapshot_download(
                name, revision=revision, allow_patterns=_PATTERNS, local_files_only=local, etag_timeout=_HUB_SECONDS
            )
        except (OSError, ValueError, EntryNotFoundError, httpx.HTTPError) as error:
            reason = first_line(error)
            continue
        if not local or _is_whole(Path(found)):
            return Path(found)
        reason = "it is only in part in the local store"
    raise BackendUnavailable(
        f"the {what} {at} is not on this machine and cannot be downloaded: {reason}; check name and network, "
        "or download it elsewhere and give its folder"
    )


def find_codec(settings: HiggsLocalSettings, folder: Path) -> Path:
    """Return the folder of the codec: the settings', else one within or beside the model's folder, else the one in the model's
    processor configuration, else `DEFAULT_CODEC`."""
    if settings.codec is not None:
        return find_checkpoint(settings.codec, settings.codec_revision, CODEC_TYPE, "codec")
    for candidate in (folder / "codec", folder.parent / "codec"):
        if candidate.is_dir():
            return find_checkpoint(str(candidate), None, CODEC_TYPE, "codec")
    named = _json(folder / "processor_config.json").get("audio_tokenizer") or {}
    name = named.get("audio_tokenizer_name_or_path") if isinstance(named, dict) else None
    # A processor that was saved from a folder names that folder, which may not exist here.
    is_usable = isinstance(name, str) and (Path(name).is_dir() or _HUB_NAME.fullmatch(name))
    return find_checkpoint(str(name) if is_usable else DEFAULT_CODEC, settings.codec_revision, CODEC_TYPE, "codec")


def _check_kind(folder: Path, model_type: str, what: str) -> None:
    config = _json(folder / "config.json")
    shown = repr(str(folder))
    if not config:
        raise BackendUnavailable(
            f"{shown} holds no {what}: it has no config.json that can be read; give the folder of a checkpoint"
        )
    if config.get("model_type") != model_type:
        if any(key in config for key in _OLD_KEYS):
            raise BackendUnavailable(
                f"the {what} in {shown} has boson_multimodal's old form; convert it with: prosody higgs convert {shown} NEW_FOLDER"
            )
        raise BackendUnavailable(
            f"the {what} in {shown} is of the type {config.get('model_type')!r}, not {model_type!r}; give Higgs Audio v2"
        )
    if not _is_whole(folder):
        raise BackendUnavailable(f"the {what} in {shown} is incomplete: weights are missing; download it again")


def _is_whole(folder: Path) -> bool:
    """Whether all weight files that a checkpoint lists exist."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json(index).get("weight_map", {})
        return bool(shards) and all((folder / str(shard)).is_file() for shard in set(shards.values()))
    return (folder / "model.safetensors").is_file()


_LESS_MEMORY = "close what else uses it, lower max_batch, or use another device"


def _check_memory(folder: Path, codec: Path, device: Any, dtype: str) -> None:
    """Check that the model fits into memory, before the system would kill the process.

    Raises:
        BackendUnavailable: it does not fit.
    """
    free = _free_bytes(device)
    if free is None:
        return
    config = _json(folder / "config.json")
    stored = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    needed = _file_bytes(folder) * _BYTES[dtype] // stored + _file_bytes(codec)
    if needed > _SPARE_BYTES:  # a toy model, as in the tests, needs nothing more
        needed += _SPARE_BYTES
    if needed > free:
        raise BackendUnavailable(
            f"the model needs about {needed / 1e9:.1f} GB in {dtype} and {device} has {free / 1e9:.1f} GB free; {_LESS_MEMORY}"
        )


def _free_bytes(device: Any) -> int | None:
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = regex.search(r"(?m)^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load_pretrained(kind: Any, folder: Path, dtype: Any) -> Any:
    """Load a model from a folder.

    Args:
        kind: its transformers class.
        folder: its checkpoint.
        dtype: type of its weights.

    Raises:
        BackendUnavailable: the checkpoint cannot be read, or weights are missing.
    """
    from safetensors import SafetensorError

    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise BackendUnavailable(f"{str(folder)!r} cannot be loaded: {first_line(error)}; download the checkpoint again") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackendUnavailable(
            f"{str(folder)!r} lacks {len(missing)} of the model's weights, {missing[0]!r} first; download the checkpoint again, or "
            "convert it again if it was converted"
        )
    return model.eval().requires_grad_(False)


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
