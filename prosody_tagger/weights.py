"""Read a GPT-2 and a LoRA adapter from their safetensors files, and merge them, in numpy alone.

The matrices of the layers are small and become float32. The token embedding is the largest matrix and a text needs few of its rows,
so it stays in its file, mapped into memory.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from prosody_tagger.errors import ModelError, first_line

Floats = NDArray[np.float32]

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
"""Names the files of a base whose weights are in several."""
ADAPTER_FILE = "adapter_model.safetensors"
TOKEN_EMBEDDING = "wte.weight"
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Types of numbers that are read; numpy has no bfloat16, so its bits are read and widened."""
ACTIVATIONS = {
    "gelu": "gelu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu with tanh"),
    "relu": "relu",
    "tanh": "tanh",
    **dict.fromkeys(("silu", "swish"), "silu"),
}
"""Activation functions by the names of transformers, some of which mean the same function."""
UNSUPPORTED = ("use_dora", "alora_invocation_tokens", "layer_replication", "target_parameters", "use_qalora", "use_bdlora")
"""Settings of an adapter that change more than the matrices and rows that are read here."""


@dataclass(frozen=True, slots=True)
class Gpt2Config:
    """The shape of a GPT-2, under the names of its config.json, with the defaults of transformers."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def of(cls, data: Any) -> "Gpt2Config":
        """Read the content of a config.json.

        Raises:
            ValueError: it is not that of a GPT-2 whose output matrix is its token embedding.
        """
        kind = data.get("model_type") if isinstance(data, dict) else None
        if kind != "gpt2":
            raise ValueError(f"config.json is of a model of type {kind!r}, not a GPT-2")
        config = cls(**{name: data[name] for name in cls.__slots__ if name in data})
        if config.activation_function not in ACTIVATIONS:
            raise ValueError(f"its activation function {config.activation_function!r} is none of {', '.join(ACTIVATIONS)}")
        if not config.tie_word_embeddings:
            raise ValueError("its output matrix is not its token embedding (tie_word_embeddings in config.json)")
        return config

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and shape of each tensor."""
        width, inner = self.n_embd, self.n_inner or 4 * self.n_embd
        yield TOKEN_EMBEDDING, (self.vocab_size, width)
        yield "wpe.weight", (self.n_positions, width)
        for layer in range(self.n_layer):
            for name, before, after in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, inner),
                ("mlp.c_proj", inner, width),
            ):
                yield f"h.{layer}.{name}.weight", (before, after)
                yield f"h.{layer}.{name}.bias", (after,)
        for norm in (*(f"h.{layer}.ln_{number}" for layer in range(self.n_layer) for number in (1, 2)), "ln_f"):
            yield f"{norm}.weight", (width,)
            yield f"{norm}.bias", (width,)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """The rows of a token embedding: a table as it is stored, and the rows that an adapter trained in place of its own.

    Attributes:
        table: [tokens, dimensions].
        ids: [n] ascending ids of the trained rows.
        rows: [n, dimensions] the trained rows.
    """

    table: NDArray[Any]
    ids: NDArray[np.int64]
    rows: Floats

    def __getitem__(self, wanted: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Return the rows of n token ids, [n, dimensions]."""
        wanted = np.asarray(wanted, np.int64)
        found = widened(self.table[np.minimum(wanted, len(self.table) - 1)])
        if len(self.ids):
            at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
            trained = self.ids[at] == wanted
            found[trained] = self.rows[at[trained]]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Gpt2Weights:
    """A GPT-2: its shape, the rows of its tokens, and the other tensors by their names without the prefix `transformer.`."""

    config: Gpt2Config
    tokens: TokenRows
    tensors: Mapping[str, Floats]


def widened(array: NDArray[Any]) -> Floats:
    """Return stored numbers as float32, in memory of their own; 16-bit integers are the bits of bfloat16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Map the tensors of a safetensors file into memory, without those of other types than `NUMPY_TYPES`.

    Raises:
        Exception: the file is missing or broken.
    """
    with safe_open(path, "np"):  # refuses a file whose header or length is wrong
        pass
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    return {
        name: data[slice(*entry["data_offsets"])].view(NUMPY_TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") in NUMPY_TYPES
    }


def read_base(source: str) -> Gpt2Weights:
    """Read a GPT-2 from a folder, or from the model hub by its name.

    Raises:
        ModelError: it cannot be found or read, or is not a GPT-2.
    """
    try:
        config = Gpt2Config.of(json.loads(_file_of(source, "config.json").read_text(encoding="utf-8")))
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in _base_tensors(source).items()}
        for name, shape in config.shapes():
            if name not in tensors or tensors[name].shape != shape:
                found = f"{name} has the shape {tensors[name].shape}" if name in tensors else f"{name} is missing"
                raise ValueError(f"{found}, but config.json asks for {shape}")
    except Exception as error:
        raise ModelError(f"cannot load the tagger's base {source!r}: {first_line(error)}; give a folder or a hub name") from None
    nothing = np.zeros((0, config.n_embd), np.float32)
    layers = {name: widened(tensors[name]) for name, _ in config.shapes() if name != TOKEN_EMBEDDING}
    return Gpt2Weights(config, TokenRows(tensors[TOKEN_EMBEDDING], np.zeros(0, np.int64), nothing), layers)


def _base_tensors(source: str) -> dict[str, NDArray[Any]]:
    """The tensors of a base, which a folder holds in one file or in several, in the order in which transformers looks for them."""
    folder = Path(source)
    if (folder / INDEX_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
        parts = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()
        return {name: tensor for part in sorted(set(parts)) for name, tensor in read_tensors(folder / part).items()}
    return read_tensors(_file_of(source, WEIGHTS_FILE))


def _file_of(source: str, name: str) -> Path:
    """Return the path of a file of a base, which the hub's client fetches where ``source`` is the name of a model there."""
    folder = Path(source)
    if folder.is_dir() or folder.is_absolute():
        return folder / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, name))


def fingerprint(positions: NDArray[Any]) -> str:
    """Return the fingerprint of a base: the SHA-256 of its position embeddings in 16 bit, the precision they may be stored in."""
    return hashlib.sha256(np.ascontiguousarray(positions, np.float16).tobytes()).hexdigest()


def base_of_adapter(adapter: Path) -> str:
    """Return the base that an adapter folder names: a hub name, or a path relative to the folder that starts with a dot.

    Raises:
        ModelError: the folder is none of an adapter, or names no base.
    """
    named = _adapter_config(adapter).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelError(f"{adapter / 'adapter_config.json'} names no base_model_name_or_path; restore the folder")
    return named


def _adapter_config(adapter: Path) -> dict[str, Any]:
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"no tagger in {adapter}: adapter_config.json is missing; give the folder of a trained adapter "
            "(--tagger or PROSODY_TAGGER__ADAPTER)"
        ) from None
    except ValueError as error:
        raise ModelError(f"{adapter / 'adapter_config.json'} is broken: {error}; restore the folder") from None
    return config if isinstance(config, dict) else {}


def refuse_another_base(adapter: Path, base: Gpt2Weights, source: str) -> None:
    """Check that the base has the fingerprint in the adapter's `training.json`.

    Raises:
        ModelError: it was trained over another base.
    """
    try:
        trained: Any = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    record = trained.get("base") if isinstance(trained, dict) else None
    if isinstance(record, dict) and record.get("fingerprint", "") not in ("", fingerprint(base.tensors["wpe.weight"])):
        raise ModelError(
            f"the adapter {adapter} was trained over another base than {source!r}, namely {record.get('name')!r}; "
            "give that one, or train an adapter over this base with train-tagger"
        )


def merge_adapter(base: Gpt2Weights, adapter: Path, source: str) -> Gpt2Weights:
    """Return the base with a LoRA adapter of PEFT merged into it, in float32, so that a pass costs no more than that of the base.

    An adapter holds a pair of small matrices for each matrix that it changes, the rows of the tokens that it trained, and the
    tensors that it replaces as a whole.

    Raises:
        ModelError: the adapter is broken, or does not fit the base.
    """
    try:
        return _merged(base, _adapter_config(adapter), read_tensors(adapter / ADAPTER_FILE))
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"the adapter {adapter} does not fit the base {source!r}: {reason}; train it over this base") from None


def _merged(base: Gpt2Weights, config: Mapping[str, Any], stored: Mapping[str, NDArray[Any]]) -> Gpt2Weights:
    used = [name for name in UNSUPPORTED if config.get(name)]
    if used or config.get("peft_type") != "LORA":
        raise ValueError(f"it is no plain LoRA adapter ({', '.join(used) or config.get('peft_type')})")
    tensors, tokens = dict(base.tensors), base.tokens
    for key, tensor in stored.items():
        name = re.sub(r"^base_model\.model\.(transformer\.)?|\.base_layer(?=\.)|\.modules_to_save(?=\.)", "", key)
        module, _, rest = name.partition(".lora_")
        if rest == "A.weight":
            first, second = widened(tensor), widened(stored[key.replace("lora_A", "lora_B")])
            tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + _scale(config, module, len(first)) * (second @ first).T
        elif rest == "B.bias":
            rank = len(stored[key.replace("lora_B.bias", "lora_A.weight")])
            tensors[f"{module}.bias"] = tensors[f"{module}.bias"] + _scale(config, module, rank) * widened(tensor)
        elif rest == "B.weight" and key.replace("lora_B", "lora_A") in stored:
            pass  # merged with its other half
        elif name == "wte.token_adapter.trainable_tokens_delta":
            ids = np.array(_trained_ids(config), np.int64)
            order = np.argsort(ids)
            tokens = TokenRows(tokens.table, ids[order], _fitting(name, widened(tensor)[order], (len(ids), base.config.n_embd)))
        elif name in (TOKEN_EMBEDDING, "lm_head.weight"):
            tokens = TokenRows(tensor, tokens.ids, tokens.rows)
        elif name in tensors:
            tensors[name] = _fitting(name, widened(tensor), tensors[name].shape)
        else:
            raise ValueError(f"the base has no place for {key}")
    return Gpt2Weights(base.config, tokens, tensors)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> np.float32:
    """Return the factor of a module's product: alpha over the rank, or over its root."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alphas = [value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", f"transformer.{module}")]
    alpha = alphas[0] if alphas else config["lora_alpha"]
    return np.float32(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _trained_ids(config: Mapping[str, Any]) -> Sequence[int]:
    ids = config["trainable_token_indices"]
    return next(iter(ids.values())) if isinstance(ids, dict) else ids


def _fitting(name: str, array: Floats, shape: tuple[int, ...]) -> Floats:
    if array.shape != shape:
        raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
    return array
