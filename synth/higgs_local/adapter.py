"""A LoRA adapter on disk: PEFT's two files, and beside them ``prosody.json``, which says what was trained.

    {"format": 1,
     "marks": {"emph": {"token": "<|reserved_special_token_10|>", "id": 128018}, ...},
     "base": {"name": ..., "revision": ..., "shape": {...}, "fingerprint": ...},
     "targets": 196,
     "versions": {"peft": ..., "torch": ..., "transformers": ...}}

PEFT ignores a target that is not there and loads an adapter onto whatever model has layers of the right names. So the base and
the count of targets are written down by who trains, and compared by who loads. An adapter without the file is a voice: it may be
used, and no mark is sent to it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import regex

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS
from synth.higgs_local.base_model import BaseModel, Opened
from synth.higgs_local.weights_file import read_header

PROSODY_FILE = "prosody.json"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TEXT_HEAD = "text_lm_head"

_FORMAT = 1
_MOST_BYTES = 1_000_000  # of a JSON file; a larger one is something else
_PACKAGES = ("peft", "torch", "transformers")

# What plain LoRA on linear layers does not have: other arithmetic, or other weights that change.
_UNSUPPORTED = (
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "use_qalora",
    "alora_invocation_tokens",
    "target_parameters",
    "use_bdlora",
    "arrow_config",
)
_LORA = regex.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<part>[AB])\.weight")
_ROWS = regex.compile(r"base_model\.model\.(?P<module>[\w.]+)\.token_adapter\.trainable_tokens_delta")
_NAME = regex.compile(r"[\p{L}\p{N}][\p{L}\p{M}\p{N}._ -]{0,127}+")


class AdapterError(BadInput):
    """An adapter that is broken, or does not belong to the model that it is to be used with."""


@dataclass(frozen=True, slots=True)
class TrainedMark:
    """A token that a mark was trained as: how the tokenizer writes it, and its id."""

    token: str
    id: int


@dataclass(frozen=True, slots=True)
class Prosody:
    """What ``prosody.json`` says.

    Attributes:
        marks: for each kind of mark that the adapter was trained on, its token.
        base: the model that it was trained on.
        targets: how many linear layers it changes.
        versions: of the packages that trained it.
    """

    marks: Mapping[str, TrainedMark]
    base: BaseModel
    targets: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as its files describe it; its weights are read by `synth.higgs_local.lora`.

    Attributes:
        name: that of its folder.
        folder: where it is.
        rank: the largest of its layers.
        modules: the layers that it changes, with (inputs, rank, outputs) of each.
        rows: ids of the rows of ``embed_tokens`` that it changes.
        config: PEFT's.
        prosody: None if it was not trained on marks.
    """

    name: str
    folder: Path
    rank: int
    modules: Mapping[str, tuple[int, int, int]]
    rows: tuple[int, ...]
    config: Mapping[str, Any]
    prosody: Prosody | None

    @property
    def marks(self) -> Mapping[str, TrainedMark]:
        """The marks that it was trained on."""
        return self.prosody.marks if self.prosody else {}


def find_adapters(folder: Path) -> dict[str, Path]:
    """The adapters in ``folder`` by name: each folder in it with PEFT's configuration; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.iterdir() if (path / CONFIG_FILE).is_file())
    return {path.name: path for path in found if _NAME.fullmatch(path.name)}


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter's files say; its weights stay on disk.

    Raises:
        AdapterError: a file is missing or broken, or it is of a kind that cannot be used here.
    """
    config = _read_json(folder / CONFIG_FILE, "give the folder that PEFT's save_pretrained wrote")
    _check_kind(folder, config)
    modules, rows = _layers(folder, config)
    prosody = read_prosody(folder)
    if prosody is not None and prosody.targets != len(modules):
        raise AdapterError(
            f"the adapter {str(folder)!r} changes {len(modules)} layers, and its {PROSODY_FILE} says {prosody.targets}: "
            "its files do not belong together; copy the whole folder again"
        )
    rank = max(rank for _, rank, _ in modules.values())
    return Adapter(folder.resolve().name, folder, rank, modules, rows, config, prosody)


def check_fit(adapter: Adapter, opened: Opened) -> tuple[str, ...]:
    """Refuse an adapter that does not belong to a base model.

    Returns:
        What is odd about it, in words, though it can be used.

    Raises:
        AdapterError: it was trained on another model, a layer of it is not there or has another shape, or a mark's token means
            something else.
    """
    prosody = adapter.prosody
    if prosody is not None:
        _check_base(adapter, prosody.base, opened.base)
    for module, (inputs, _, outputs) in adapter.modules.items():
        shape = opened.shapes.get(f"{module}.weight")
        if shape is None and module == TEXT_HEAD:
            continue  # it writes text, and a voice is loaded without it
        if shape != (outputs, inputs):
            there = "is not there" if shape is None else f"has {' x '.join(map(str, shape))} weights, not {outputs} x {inputs}"
            raise AdapterError(
                f"the adapter {adapter.name!r} changes {module}, which {there} in {opened.base.name!r}; {_OTHER_BASE}"
            )
    vocabulary = opened.base.shape["vocab_size"]
    for what, number in [("row", row) for row in adapter.rows] + [(f"<{k}>", m.id) for k, m in adapter.marks.items()]:
        if not 0 <= number < vocabulary or number in opened.control:
            why = "has no such token" if number not in opened.control else "needs that token for something else"
            raise AdapterError(
                f"the adapter {adapter.name!r} has {what} at token {number}, but {opened.base.name!r} {why}; {_OTHER_BASE}"
            )
    return _oddities(adapter)


def read_prosody(folder: Path) -> Prosody | None:
    """``prosody.json`` of a folder; None if it has none.

    Raises:
        AdapterError: it cannot be used.
    """
    path = folder / PROSODY_FILE
    if not path.exists():
        return None
    data = _read_json(path, "train the adapter again, or take the file away to use it as a voice without marks")
    try:
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r}, where {_FORMAT} is known")
        base = data["base"]
        prosody = Prosody(
            {_kind(kind): TrainedMark(_text(mark["token"]), _count(mark["id"])) for kind, mark in data["marks"].items()},
            BaseModel(
                _text(base["name"]),
                None if base["revision"] is None else _text(base["revision"]),
                {_text(key): _count(value) for key, value in base["shape"].items()},
                _text(base["fingerprint"]),
            ),
            _count(data["targets"]),
            {_text(key): _text(value) for key, value in data["versions"].items()},
        )
        _check_distinct(prosody.marks)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AdapterError(f"{str(path)!r} cannot be used: {what}; it is written by the trainer, not by hand") from None
    return prosody


def write_prosody(folder: Path, base: BaseModel, marks: Mapping[str, TrainedMark]) -> Prosody:
    """Write ``prosody.json`` beside an adapter that was saved before.

    Args:
        folder: PEFT's, with its weights in it: the targets are counted there.
        base: the model that it was trained on (`base_model.of_model(model, name).base`).
        marks: for each kind of mark that it was trained on, its token.

    Raises:
        AdapterError: no adapter is there, an unknown mark, or two marks with one token.
    """
    config = _read_json(folder / CONFIG_FILE, "save the adapter first")
    modules, _ = _layers(folder, config)
    try:
        checked = {_kind(kind): TrainedMark(_text(mark.token), _count(mark.id)) for kind, mark in marks.items()}
        _check_distinct(checked)
    except ValueError as error:
        raise AdapterError(f"the marks cannot be written: {error}") from None
    prosody = Prosody(checked, base, len(modules), {package: version(package) for package in _PACKAGES})
    path, unfinished = folder / PROSODY_FILE, folder / f"{PROSODY_FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps({"format": _FORMAT, **asdict(prosody)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return prosody


_OTHER_BASE = "use the model that it was trained on, or train it on this one"


def _check_base(adapter: Adapter, trained: BaseModel, here: BaseModel) -> None:
    for key in sorted({*trained.shape, *here.shape}):
        if trained.shape.get(key) != here.shape.get(key):
            raise AdapterError(
                f"the adapter {adapter.name!r} was trained on {trained.name!r} with {key} {trained.shape.get(key)}, and "
                f"{here.name!r} has {here.shape.get(key)}; {_OTHER_BASE}"
            )
    if trained.fingerprint != here.fingerprint:
        raise AdapterError(
            f"the adapter {adapter.name!r} was trained on {trained.name!r}, and {here.name!r} has other weights of the same shape; "
            f"{_OTHER_BASE}"
        )


def _oddities(adapter: Adapter) -> tuple[str, ...]:
    if adapter.prosody is None:
        return (f"it has no {PROSODY_FILE}: its base cannot be compared, and no mark is sent to it",)
    untrained = [kind for kind, mark in adapter.marks.items() if mark.id not in adapter.rows]
    return (f"the tokens of {', '.join(untrained)} were left as they are in the base",) if untrained else ()


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{str(folder)!r} holds an adapter of the type {kind!r}; only LORA can be used")
    odd = [key for key in _UNSUPPORTED if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if odd:
        raise AdapterError(f"the adapter {str(folder)!r} sets {', '.join(odd)}; only plain LoRA on linear layers can be used")


def _layers(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, int, int]], tuple[int, ...]]:
    """The layers that an adapter's weights change, with (inputs, rank, outputs), and the rows of the text embedding."""
    try:
        weights = read_header(folder / WEIGHTS_FILE)
    except BadInput as error:
        raise AdapterError(f"the adapter {str(folder)!r} has no weights that can be used: {error}") from None
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    rows: tuple[int, ...] = ()
    for name in weights.tensors:
        shape = weights.shape(name)
        if match := _LORA.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = shape
        elif (match := _ROWS.fullmatch(name)) and match["module"].endswith("embed_tokens"):
            rows = trained_rows(config)
            if len(rows) != shape[0] or len(set(rows)) != len(rows):
                raise AdapterError(f"the adapter {str(folder)!r} has {shape[0]} trained rows for {len(rows)} tokens; save it again")
        else:
            raise AdapterError(
                f"the adapter {str(folder)!r} holds {name!r}, which is neither LoRA nor a token's row; "
                "save it with save_embedding_layers=False"
            )
    modules = {module: _dimensions(folder, module, part) for module, part in parts.items()}
    if not modules:
        raise AdapterError(f"the adapter {str(folder)!r} changes no layer at all; train it with targets that the model has")
    _check_targets(folder, config, modules)
    return modules, rows


def trained_rows(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids of the tokens whose rows PEFT trained, in the order in which it saves them."""
    indices = config.get("trainable_token_indices") or ()
    found = (
        next((ids for name, ids in indices.items() if name.endswith("embed_tokens")), ()) if isinstance(indices, dict) else indices
    )
    return tuple(map(int, found))


def _dimensions(folder: Path, module: str, part: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    a, b = part.get("A", ()), part.get("B", ())
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not a[0]:
        raise AdapterError(f"the adapter {str(folder)!r} has weights of {a} and {b} for {module}, which do not fit; save it again")
    return a[1], a[0], b[0]


def _check_targets(folder: Path, config: Mapping[str, Any], modules: Mapping[str, object]) -> None:
    """Every target of a list must have hit a layer: PEFT is silent about one that did not. A pattern's hits only count."""
    targets = config.get("target_modules")
    for target in targets if isinstance(targets, list) else ():
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise AdapterError(
                f"the adapter {str(folder)!r} was to change {target!r}, but has no weights for it: the model that it was trained "
                "on has no such layer; train it again with targets that there are"
            )


def _check_distinct(marks: Mapping[str, TrainedMark]) -> None:
    if len({mark.id for mark in marks.values()}) != len(marks) or len({mark.token for mark in marks.values()}) != len(marks):
        raise ValueError(f"two of the marks {', '.join(marks)} share a token")


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"unknown mark {value!r} (the marks are {', '.join(KINDS)})")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _read_json(path: Path, advice: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"over {_MOST_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise AdapterError(f"there is no {path.name} in {str(path.parent)!r}; {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{str(path)!r} cannot be read ({error}); {advice}") from None
    return data
