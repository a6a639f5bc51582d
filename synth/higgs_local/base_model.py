"""Which model an adapter was trained on: its shape, and a fingerprint of weights that no adapter changes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prosody_tagger.errors import BadInput, ModelError
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
"""What of a model's configuration an adapter's weights depend on."""

_CONTROL = ("bos_token_id", "eos_token_id", "pad_token_id", "audio_token_id", "audio_bos_token_id", "audio_delay_token_id")
_AUDIO_ROWS = "model.embed_audio_tokens.embed_audio_tokens.weight"
_NORM = "model.norm.weight"
_STEP = 64  # every so-manieth row of the audio codes is enough to tell two trainings apart


class Weights(Protocol):
    """The weights of a model, in memory or on disk."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every weight, by its name."""

    def rows(self, name: str, step: int) -> "torch.Tensor":
        """Every ``step``-th row of a weight."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that adapters are trained on.

    Attributes:
        name: what it was loaded by: a hub name or a folder. It says where to get it; whether it is the same is in the others.
        revision: of the hub name, if one was asked for.
        shape: `SHAPE` of its configuration.
        fingerprint: SHA-256 over weights that no adapter changes, rounded to bfloat16: the same whatever precision it is held in.
    """

    name: str
    revision: str | None
    shape: Mapping[str, int]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A base model as far as an adapter is checked against it: who it is, its weights' shapes, the ids that mean something."""

    base: BaseModel
    shapes: Mapping[str, tuple[int, ...]]
    control: frozenset[int]


def of_model(model: Any, name: str, revision: str | None = None) -> Opened:
    """A loaded ``HiggsAudioV2ForConditionalGeneration``; layers that PEFT has put into it do not count."""
    return _opened(model.config, _InMemory(model), name, revision)


def of_folder(folder: Path, name: str | None = None, revision: str | None = None) -> Opened:
    """A checkpoint on disk, of which only the headers and a few rows are read.

    Raises:
        ModelError: there is none that can be read.
    """
    try:
        from transformers import HiggsAudioV2Config

        config = HiggsAudioV2Config.from_pretrained(folder)
        return _opened(config, _OnDisk(folder), name or str(folder), revision)
    except (OSError, ValueError, KeyError, BadInput) as error:
        raise ModelError(f"no Higgs checkpoint can be read in {str(folder)!r}: {_first_line(error)}; give its folder") from None


def _opened(config: Any, weights: Weights, name: str, revision: str | None) -> Opened:
    shape = {key: int(getattr(config, key)) for key in SHAPE}
    digest = sha256()
    for weight, step in ((_NORM, 1), (_AUDIO_ROWS, _STEP)):
        digest.update(_bytes(weights.rows(weight, step)))
    control = frozenset(value for key in _CONTROL if isinstance(value := getattr(config, key, None), int))
    return Opened(BaseModel(name, revision, shape, digest.hexdigest()), weights.shapes, control)


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
    """One safetensors file, or several with an index."""

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
    """A weight's name as it is without PEFT."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
