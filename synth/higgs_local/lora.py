"""An adapter's weights on a loaded model: added into the layers themselves, and taken out again to the bit.

Added in, an adapter costs nothing while a voice speaks: the decode loop runs over the same modules at the same addresses, and
whatever was compiled or captured for them stays true. What stood there before is kept beside the model and put back, since
adding and subtracting again would not give the same numbers.

LoRA: W + (alpha / r) B A (Hu et al., 2021); with rslora, alpha / sqrt(r) (Kalajdzievski, 2023).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import regex

from synth.higgs_local.adapter import TEXT_HEAD, WEIGHTS_FILE, Adapter, AdapterError

if TYPE_CHECKING:
    import torch

_EMBEDDING = "model.embed_tokens.weight"
_PATTERN_SECONDS = 1.0
_LEAST_FREE = 6_000_000_000  # bytes on the accelerator that are left to caches and to the codec


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one weight: ``scale * b @ a``, with a of [rank, inputs] and b of [outputs, rank]."""

    a: "torch.Tensor"
    b: "torch.Tensor"
    scale: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter's weights in the host's memory: of each layer the factors, of the text embedding the new rows."""

    adapter: Adapter
    layers: Mapping[str, Factors]
    rows: "torch.Tensor | None"


def load(adapter: Adapter) -> Loaded:
    """Read the weights of an adapter.

    Raises:
        AdapterError: they cannot be read, or are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(adapter.folder / WEIGHTS_FILE)
    except (OSError, SafetensorError, ValueError) as error:
        raise AdapterError(f"the weights of the adapter {adapter.name!r} cannot be read: {error}; copy the folder again") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(f"the adapter {adapter.name!r} has NaN or infinite numbers in {name}; train it again")
    prefix = "base_model.model."
    layers = {
        module: Factors(
            tensors[f"{prefix}{module}.lora_A.weight"], tensors[f"{prefix}{module}.lora_B.weight"], _scale(adapter, module, rank)
        )
        for module, (_, rank, _) in adapter.modules.items()
    }
    rows = next((tensor for name, tensor in tensors.items() if name.endswith("trainable_tokens_delta")), None)
    return Loaded(adapter, layers, rows)


class Switch:
    """Which adapter a model speaks with. Not for several threads: it belongs to the worker that owns the model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[str, torch.Tensor] = {}  # of the layers: they stay for the next adapter, which likely changes the same
        self._dirty: set[str] = set()
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None  # of the text embedding: ids, and what stood there
        self.active: Loaded | None = None

    def to(self, wanted: Loaded | None) -> None:
        """Make the model that of ``wanted``, or the base itself. If that fails, it is the base.

        The adapter must fit the model (`adapter.check_fit`).
        """
        if wanted is self.active:
            return
        import torch

        with torch.no_grad():
            try:
                self._change(wanted)
            except BaseException:
                self._change(None)
                raise

    def _change(self, wanted: Loaded | None) -> None:
        import torch

        self.active = None
        layers = self._layers(wanted)
        for name in self._dirty - layers.keys():
            self._weight(name).copy_(self._kept[name])
        self._dirty &= layers.keys()
        if self._rows is not None:
            ids, before = self._rows
            self._weight(_EMBEDDING)[ids] = before
            self._rows = None
        for name, factors in layers.items():
            weight = self._weight(name)
            base = self._keep(name, weight)
            a, b = (part.to(weight.device).float() for part in (factors.a, factors.b))
            self._dirty.add(name)
            weight.copy_(torch.addmm(base.to(weight.device).float(), b, a, alpha=factors.scale))  # rounded once, at the end
        if wanted is not None and wanted.rows is not None:
            self._change_rows(wanted.adapter.rows, wanted.rows)
        self.active = wanted

    def _change_rows(self, rows: Sequence[int], values: "torch.Tensor") -> None:
        import torch

        weight = self._weight(_EMBEDDING)
        ids = torch.tensor(rows, device=weight.device)
        self._rows = (ids, weight[ids].clone())
        weight[ids] = values.to(weight)

    def _layers(self, wanted: Loaded | None) -> dict[str, Factors]:
        """What changes, by the weights' names. A model without its text head is not changed there, and speaks no worse."""
        layers = wanted.layers if wanted is not None else {}
        return {
            f"{module}.weight": factors
            for module, factors in layers.items()
            if module != TEXT_HEAD or self._model.text_lm_head is not None
        }

    def _weight(self, name: str) -> "torch.Tensor":
        weight: torch.Tensor = self._model.get_parameter(name)
        return weight.data

    def _keep(self, name: str, weight: "torch.Tensor") -> "torch.Tensor":
        """What stands in a weight of the base: on the accelerator if there is room, else in the host's memory."""
        if name not in self._kept:
            import torch

            if weight.is_cuda and torch.cuda.mem_get_info(weight.device)[0] < _LEAST_FREE:
                self._kept[name] = weight.cpu().pin_memory()
            else:
                self._kept[name] = weight.clone()
        return self._kept[name]


def _scale(adapter: Adapter, module: str, rank: int) -> float:
    alpha = float(_special(adapter.config.get("alpha_pattern"), module, adapter.config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)


def _special(patterns: object, module: str, default: object) -> Any:
    """What a pattern of PEFT's configuration says of a layer: the first whose end matches the layer's name."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS):
                return value
        except (regex.error, TimeoutError):
            raise AdapterError(f"the pattern {pattern!r} of alpha_pattern cannot be used; name the layers") from None
    return default
