"""Identify the base model of an adapter by its shape and a fingerprint of weights that no adapter changes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prosody_tagger.errors import BadInput, ModelError, first_line
from synth.higgs_local.weights_file import read_header

if TYPE_CHECKING:
    import torch

SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "num_codebooks",
    "codebook_size",
)
"""Configuration values that determine the shapes of an adapter's weights."""

_CONTROL = ("bos_token_id", "eos_token_id", "pad_token_id", "audio_token_id", "audio_bos_token_id", "audio_delay_token_id")
_AUDIO_ROWS = "model.embed_audio_tokens.embed_audio_tokens.weight"
_NORM = "model.norm.weight"
_ROW_STEP = 64  # only every 64th row of the audio embedding is hashed; two trainings differ in all rows


class _WeightReader(Protocol):
    """The weights of a model, in memory or on disk."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every weight, by name."""

    def rows(self, name: str, step: int) -> "torch.Tensor":
        """Return every ``step``-th row of a weight."""


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Identity of a base model.

    Attributes:
        name: hub name or folder that it was loaded from; informative, not compared.
        revision: revision on the hub, if one was given.
        shape: the values of `SHAPE` in its configuration.
        fingerprint: SHA-256 of weights that no adapter changes, rounded to bfloat16, so that it does not depend on the precision.
    """

    name: str
    revision: str | None
    shape: Mapping[str, int]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class BaseDescription:
    """The properties of a base model that an adapter is checked against.

    Attributes:
        base: its identity.
        shapes: shape of every weight, by name.
        control: ids of its control tokens, which no mark may use.
    """

    base: BaseIdentity
    shapes: Mapping[str, tuple[int, ...]]
    control: frozenset[int]


def describe_model(model: Any, name: str, revision: str | None = None) -> BaseDescription:
    """Describe a loaded ``HiggsAudioV2ForConditionalGeneration``; layers that PEFT has added are ignored."""
    return _description(model.config, _InMemory(model), name, revision)


def describe_folder(folder: Path, name: str | None = None, revision: str | None = None) -> BaseDescription:
    """Describe a checkpoint on disk; only headers and a few rows are read.

    Raises:
        ModelError: the folder holds no checkpoint that can be read.
    """
    try:
        from transformers import HiggsAudioV2Config

        config = HiggsAudioV2Config.from_pretrained(folder)
        return _description(config, _OnDisk(folder), name or str(folder), revision)
    except (OSError, ValueError, KeyError, BadInput) as error:
        raise ModelError(f"no Higgs checkpoint can be read in {str(folder)!r}: {first_line(error)}; give its folder") from None


def _description(config: Any, weights: _WeightReader, name: str, revision: str | None) -> BaseDescription:
    shape = {key: int(getattr(config, key)) for key in SHAPE}
    digest = sha256()
    for weight, step in ((_NORM, 1), (_AUDIO_ROWS, _ROW_STEP)):
        digest.update(_bytes(weights.rows(weight, step)))
    control = frozenset(value for key in _CONTROL if isinstance(value := getattr(config, key, None), int))
    return BaseDescription(BaseIdentity(name, revision, shape, digest.hexdigest()), weights.shapes, control)


def _bytes(rows: "torch.Tensor") -> bytes:
    import torch

    data: bytes = rows.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()
    return data


class _InMemory:
    def __init__(self, model: Any) -> None:
        self._weights = {_plain(name): weight for name, weight in model.named_parameters()}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(weight.shape) for name, weight in self._weights.items()}

    def rows(self, name: str, step: int) -> "torch.Tensor":
        weight: torch.Tensor = self._weights[name]
        return weight[::step]


class _OnDisk:
    """Weights in one safetensors file, or several with an index."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
        files = [read_header(folder / name) for name in sorted(names)]
        self._files = {name: file.path for file in files for name in file.tensors}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: file.shape(name) for file in files for name in file.tensors}

    def rows(self, name: str, step: int) -> "torch.Tensor":
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt") as file:
            rows: torch.Tensor = file.get_slice(name)[:][::step]
        return rows


def _plain(name: str) -> str:
    """Return the name that a weight has without PEFT's wrappers."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
