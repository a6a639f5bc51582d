"""PEFT's files of a LoRA adapter: the configuration, and which layers and token rows the weights change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex

from prosody_tagger.errors import BadInput
from synth.higgs_local.weights_file import read_header

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_MAX_JSON_BYTES = 1_000_000  # a larger file is no configuration

# Options of PEFT that compute something other than plain LoRA on linear layers, or change other weights.
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
_LORA_WEIGHT = regex.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<factor>[AB])\.weight")
_TOKEN_ROWS = regex.compile(r"base_model\.model\.(?P<module>[\w.]+)\.token_adapter\.trainable_tokens_delta")


class AdapterError(BadInput):
    """An adapter that is broken, or does not fit the model that it is to be used with."""


def read_config(folder: Path, advice: str) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter.

    Raises:
        AdapterError: there is none that can be read; the message ends with ``advice``.
    """
    return read_json(folder / CONFIG_FILE, advice)


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that an adapter is plain LoRA on linear layers.

    Raises:
        AdapterError: it is of another type, or sets an option that is not supported.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{str(folder)!r} holds an adapter of the type {kind!r}; only LORA can be used")
    unsupported = [key for key in _UNSUPPORTED if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if unsupported:
        raise AdapterError(
            f"the adapter {str(folder)!r} sets {', '.join(unsupported)}; only plain LoRA on linear layers can be used"
        )


def changed_layers(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, int, int]], tuple[int, ...]]:
    """Read from the header of the weights which parts of the model an adapter changes.

    Returns:
        For each linear layer its (inputs, rank, outputs); and the ids of the rows of the text embedding that were trained.

    Raises:
        AdapterError: the weights cannot be read, or are not those of plain LoRA.
    """
    try:
        weights = read_header(folder / WEIGHTS_FILE)
    except BadInput as error:
        raise AdapterError(f"the adapter {str(folder)!r} has no weights that can be used: {error}") from None
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    rows: tuple[int, ...] = ()
    for name in weights.tensors:
        shape = weights.shape(name)
        if match := _LORA_WEIGHT.fullmatch(name):
            factors.setdefault(match["module"], {})[match["factor"]] = shape
        elif (match := _TOKEN_ROWS.fullmatch(name)) and match["module"].endswith("embed_tokens"):
            rows = trained_rows(config)
            if len(rows) != shape[0] or len(set(rows)) != len(rows):
                raise AdapterError(f"the adapter {str(folder)!r} has {shape[0]} trained rows for {len(rows)} tokens; save it again")
        else:
            raise AdapterError(
                f"the adapter {str(folder)!r} holds {name!r}, which is neither LoRA nor a token's row; "
                "save it with save_embedding_layers=False"
            )
    modules = {module: _dimensions(folder, module, shapes) for module, shapes in factors.items()}
    if not modules:
        raise AdapterError(f"the adapter {str(folder)!r} changes no layer at all; train it with targets that the model has")
    _check_targets(folder, config, modules)
    return modules, rows


def trained_rows(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids of the tokens whose embedding rows PEFT trained, in the order in which it saves the rows."""
    indices = config.get("trainable_token_indices") or ()
    found = (
        next((ids for name, ids in indices.items() if name.endswith("embed_tokens")), ()) if isinstance(indices, dict) else indices
    )
    return tuple(map(int, found))


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        AdapterError: the file is missing, too large, or holds no JSON object; the message ends with ``advice``.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"over {_MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise AdapterError(f"there is no {path.name} in {str(path.parent)!r}; {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{str(path)!r} cannot be read ({error}); {advice}") from None
    return data


def _dimensions(folder: Path, module: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    a, b = shapes.get("A", ()), shapes.get("B", ())
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not a[0]:
        raise AdapterError(f"the adapter {str(folder)!r} has weights of {a} and {b} for {module}, which do not fit; save it again")
    return a[1], a[0], b[0]


def _check_targets(folder: Path, config: Mapping[str, Any], modules: Mapping[str, object]) -> None:
    """Check that every listed target matched a layer, because PEFT ignores one that did not. Patterns cannot be checked."""
    targets = config.get("target_modules")
    for target in targets if isinstance(targets, list) else ():
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise AdapterError(
                f"the adapter {str(folder)!r} was to change {target!r}, but has no weights for it: the model that it was trained "
                "on has no such layer; train it again with targets that exist"
            )
