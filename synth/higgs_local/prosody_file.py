"""``prosody.json``, which a trainer writes beside an adapter: the marks that it was trained on, and its base model.

    {"format": 1,
     "marks": {"emph": {"token": "<|reserved_special_token_10|>", "id": 128018}, ...},
     "base": {"name": ..., "revision": ..., "shape": {...}, "fingerprint": ...},
     "targets": 196,
     "versions": {"peft": ..., "torch": ..., "transformers": ...}}

PEFT ignores targets that the model lacks, and loads an adapter onto any model with layers of the right names. The trainer therefore
records the base model and the number of changed layers, and the loader compares them. An adapter without the file can be used as a
voice, and receives no marks.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from prosody_tagger.files import write_file
from prosody_tagger.markup import KINDS
from synth.higgs_local.base_model import BaseIdentity
from synth.higgs_local.peft_files import AdapterError, changed_layers, read_config, read_json

PROSODY_FILE = "prosody.json"

_FORMAT = 1
_PACKAGES = ("peft", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class TrainedMark:
    """The token that stands for a kind of mark: its text in the tokenizer, and its id."""

    token: str
    id: int


@dataclass(frozen=True, slots=True)
class ProsodyMetadata:
    """The content of ``prosody.json``.

    Attributes:
        marks: the token of each kind of mark that the adapter was trained on.
        base: the model that it was trained on.
        targets: number of linear layers that it changes.
        versions: of the packages that trained it.
    """

    marks: Mapping[str, TrainedMark]
    base: BaseIdentity
    targets: int
    versions: Mapping[str, str]


def read_prosody(folder: Path) -> ProsodyMetadata | None:
    """Return the metadata in a folder; None if it has no ``prosody.json``.

    Raises:
        AdapterError: the file cannot be read, or its content is not valid.
    """
    path = folder / PROSODY_FILE
    if not path.exists():
        return None
    data = read_json(path, "train the adapter again, or delete the file to use it as a voice without marks")
    try:
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r} is not supported, only {_FORMAT}")
        base = data["base"]
        metadata = ProsodyMetadata(
            {_mark_kind(kind): TrainedMark(_string(mark["token"]), _count(mark["id"])) for kind, mark in data["marks"].items()},
            BaseIdentity(
                _string(base["name"]),
                None if base["revision"] is None else _string(base["revision"]),
                {_string(key): _count(value) for key, value in base["shape"].items()},
                _string(base["fingerprint"]),
            ),
            _count(data["targets"]),
            {_string(key): _string(value) for key, value in data["versions"].items()},
        )
        _check_distinct(metadata.marks)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AdapterError(f"{str(path)!r} cannot be used: {what}; it is written by the trainer, not by hand") from None
    return metadata


def write_prosody(folder: Path, base: BaseIdentity, marks: Mapping[str, TrainedMark]) -> ProsodyMetadata:
    """Write ``prosody.json`` beside a saved adapter, and return its content.

    Args:
        folder: PEFT's folder, with the weights, whose layers are counted.
        base: the model that it was trained on (`base_model.describe_model(model, name).base`).
        marks: the token of each kind of mark that it was trained on.

    Raises:
        AdapterError: the folder holds no adapter, a mark is unknown, or two marks share a token.
    """
    modules, _ = changed_layers(folder, read_config(folder, "save the adapter first"))
    try:
        checked = {_mark_kind(kind): TrainedMark(_string(mark.token), _count(mark.id)) for kind, mark in marks.items()}
        _check_distinct(checked)
    except ValueError as error:
        raise AdapterError(f"the marks cannot be written: {error}") from None
    metadata = ProsodyMetadata(checked, base, len(modules), {package: version(package) for package in _PACKAGES})
    text = json.dumps({"format": _FORMAT, **asdict(metadata)}, indent=1, ensure_ascii=False)
    write_file(folder / PROSODY_FILE, f"{text}\n")
    return metadata


def _check_distinct(marks: Mapping[str, TrainedMark]) -> None:
    if len({mark.id for mark in marks.values()}) != len(marks) or len({mark.token for mark in marks.values()}) != len(marks):
        raise ValueError(f"two of the marks {', '.join(marks)} share a token")


def _mark_kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"unknown mark {value!r} (the marks are {', '.join(KINDS)})")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{value!r} is not a string")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not an integer of 0 or more")
    return value
