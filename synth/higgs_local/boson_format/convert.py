"""Convert checkpoints, adapters and codecs of boson_multimodal to the format of transformers.

Except for the codec (see `codec`), both formats hold the same tensors under different names (see `names`). Files are copied with
new headers and configurations are rewritten. A checkpoint that transformers' model cannot represent is refused before anything is
written.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput, ProsodyError, os_reason
from synth.higgs_local.boson_format.codec import WEIGHTS, native_codec, read_tensors
from synth.higgs_local.boson_format.names import native_adapter_config, native_config, native_generation, native_name, native_tensor
from synth.higgs_local.weights_file import WeightsFile, read_header, write_renamed

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the total."""

_KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "prosody.json", "LICENSE", "NOTICE")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"
_TEXT_HEAD = "text_lm_head"


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """Result of a conversion.

    Attributes:
        path: the new folder.
        tensors: number of its tensors.
        size: their total size in bytes.
        notes: messages for the user.
    """

    path: Path
    tensors: int
    size: int
    notes: tuple[str, ...] = ()


def convert_checkpoint(old: Path, new: Path, progress: Progress | None = None) -> ConversionResult:
    """Convert a checkpoint.

    Args:
        old: its folder, with the tokenizer.
        new: the folder to create. It appears once it is complete.
        progress: called after every block.

    Raises:
        BadInput: ``old`` is not a checkpoint in the old format, is broken or cannot be represented, or ``new`` exists.
        ProsodyError: the disk is full.
    """
    old, new = _folder(old), _free(new)
    config = native_config(read_json(old / "config.json"), _special_tokens(old))
    shards = [read_header(path) for path in _shards(old)]
    names = _native_names(shards)
    _check_shapes(config, {names[name]: shard.shape(name) for shard in shards for name in shard.tensors})
    with _new_folder(new) as folder:
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", native_generation(_optional_json(old / "generation_config.json"), config))
        _copy_kept(old, folder)
        _copy_weights(shards, folder, names, progress)
        if len(shards) > 1 or shards[0].path.name != _SINGLE:
            where = {names[name]: shard.path.name for shard in shards for name in shard.tensors}
            total = sum(shard.size for shard in shards)
            _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})
    note = "the codec is not part of a checkpoint: convert the old one too, or name a native one (bosonai/higgs-audio-v2-tokenizer)"
    return ConversionResult(new, len(names), sum(shard.size for shard in shards), (note,))


def is_codec(folder: Path) -> bool:
    """Whether a folder holds a codec in the old format."""
    return (folder / WEIGHTS).is_file()


def convert_codec(old: Path, new: Path) -> ConversionResult:
    """Convert a codec.

    Args:
        old: its folder, with config.json and model.pth.
        new: the folder to create. It appears once it is complete.

    Raises:
        BadInput: ``old`` is not a codec in the old format, is broken or cannot be represented, or ``new`` exists.
        ProsodyError: the disk is full.
    """
    from safetensors.torch import save_file

    old, new = _folder(old), _free(new)
    config, tensors = native_codec(read_json(old / "config.json"), read_tensors(old / WEIGHTS))
    with _new_folder(new) as folder:
        _write_json(folder / "config.json", config)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _SINGLE, {"format": "pt"})
        _copy_kept(old, folder)
    return ConversionResult(new, len(tensors), sum(tensor.nbytes for tensor in tensors.values()))


def convert_adapter(old: Path, new: Path, base: str | None = None, progress: Progress | None = None) -> ConversionResult:
    """Convert a LoRA adapter that PEFT saved for the old model.

    The new configuration lists its target modules by full name, so that it changes exactly the modules that it was trained on.

    Args:
        old: its folder.
        new: the folder to create. It appears once it is complete.
        base: folder or hub name of the converted base model; None keeps the name in the configuration.
        progress: called after every block.

    Raises:
        BadInput: ``old`` is not such an adapter, is broken or changes modules that the new model lacks, or ``new`` exists.
        ProsodyError: the disk is full.
    """
    old, new = _folder(old), _free(new)
    config = read_json(old / "adapter_config.json")
    if not (old / _ADAPTER).is_file():
        raise BadInput(f"{old} has no {_ADAPTER}; save the adapter again with safe_serialization=True")
    weights = read_header(old / _ADAPTER)
    names = {name: native_tensor(name) for name in weights.tensors}
    written = native_adapter_config(config, names.values(), base)
    with _new_folder(new) as folder:
        _write_json(folder / "adapter_config.json", written)
        _copy_kept(old, folder)
        _copy_weights([weights], folder, names, progress)
    return ConversionResult(new, len(names), weights.size, tuple(_adapter_notes(written, names.values(), base)))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        BadInput: the file is missing, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {os_reason(error)}; give a folder that has it") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no JSON object; download it again")
    return found


def _adapter_notes(config: Mapping[str, Any], names: Iterable[str], base: str | None) -> Iterator[str]:
    if base is None:
        yield f"it still names {config.get('base_model_name_or_path')!r} as its base; --base names the converted one"
    if any(f".{_TEXT_HEAD}." in name for name in names):
        yield "it also changes the text head, which speaking does not use: load its base with use_text_head=True, or leave it out"


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BadInput(f"there is no folder {str(path)!r}; download the checkpoint first, and give its folder")
    return path


def _free(path: Path) -> Path:
    """Return ``path`` as an absolute path that does not exist yet."""
    path = Path(os.path.abspath(path))  # without resolving a link, which would exist already
    try:
        if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            raise BadInput(f"{path} exists already; give the name of a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def _special_tokens(folder: Path) -> dict[str, int]:
    """Return the ids of the special tokens."""
    found = read_json(folder / "tokenizer.json").get("added_tokens")
    entries = found if isinstance(found, list) else []
    return {
        entry["content"]: entry["id"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    }


def _shards(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's tensors."""
    if (folder / _INDEX).exists():
        where = read_json(folder / _INDEX).get("weight_map")
        names = sorted({str(name) for name in where.values()}) if isinstance(where, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise BadInput(f"{folder / _INDEX} does not say which files hold the tensors; download it again")
        return [folder / name for name in names]
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    kind = "weights in pickled files alone" if any(folder.glob("*.bin")) else "no weights"
    raise BadInput(f"{folder} has {kind}; give a folder with {_SINGLE} or {_INDEX}")


def _native_names(shards: Iterable[WeightsFile]) -> dict[str, str]:
    names: dict[str, str] = {}
    for shard in shards:
        if twice := names.keys() & shard.tensors.keys():
            raise BadInput(f"{shard.path} holds {min(twice)}, as another file of the checkpoint does; download it again")
        names |= {name: native_name(name) for name in shard.tensors}
    return names


def _check_shapes(config: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the model that transformers builds from ``config`` has exactly these tensors; the text head is optional.

    Raises:
        BadInput: a tensor is missing, unknown or of another shape.
    """
    wanted = _native_shapes(config)
    for name, shape in found.items():
        if name not in wanted:
            raise BadInput(f"the checkpoint holds {name}, which its config.json leaves no place for; it is of another model")
        if shape != wanted[name]:
            raise BadInput(
                f"{name} has the shape {list(shape)} where config.json asks for {list(wanted[name])}; download both again"
            )
    for name in wanted:
        if name not in found and not name.startswith(_TEXT_HEAD):
            raise BadInput(f"the checkpoint lacks {name}; download it again")


def _native_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the new model's tensors, from a model on the meta device, which allocates no memory."""
    import torch
    from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

    try:
        with torch.device("meta"):
            model = HiggsAudioV2ForConditionalGeneration(HiggsAudioV2Config(**config), use_text_head=True)
    except Exception as error:  # transformers raises errors of many types for invalid numbers
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise BadInput(f"config.json describes no model that can be built: {reason}; download it again") from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _copy_kept(old: Path, folder: Path) -> None:
    for name in _KEPT:
        if (old / name).is_file():
            shutil.copyfile(old / name, folder / name)


def _copy_weights(files: Iterable[WeightsFile], folder: Path, names: Mapping[str, str], progress: Progress | None) -> None:
    files = list(files)
    total = sum(file.size for file in files)
    done = 0

    def copied(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    for file in files:
        write_renamed(file, folder / file.path.name, names, copied)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder partial ``target``; move it to ``target`` on success, delete it on an error."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.mkdir()
        yield partial
        partial.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> ProsodyError:
    reason = os_reason(error)
    if isinstance(error, FileExistsError | NotADirectoryError | PermissionError):
        return BadInput(f"cannot write {target}: {reason}; choose another folder")
    return ProsodyError(f"cannot write {target}: {reason}; make room or choose another folder")
