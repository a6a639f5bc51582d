"""Merge an adapter's weights into a loaded model in place, and restore the base bit by bit.

A merged adapter adds no cost to decoding: the layers are the same modules at the same addresses, so compiled code and CUDA graphs
stay valid. The base weights are kept and copied back, because adding and then subtracting would not restore them exactly.

LoRA: W + (alpha / r) B A (Hu et al., 2021); with rslora, alpha / sqrt(r) (Kalajdzievski, 2023).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import regex

from synth.higgs_local.adapter import TEXT_HEAD, Adapter, AdapterError
from synth.higgs_local.peft_files import WEIGHTS_FILE

if TYPE_CHECKING:
    import torch

_EMBEDDING = "model.embed_tokens.weight"
_PATTERN_SECONDS = 1.0  # time limit for matching a pattern of alpha_pattern, which comes from a file
_MIN_FREE_BYTES = 6_000_000_000  # of GPU memory that stay free for KV cache and codec


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The update of one weight, ``scale * b @ a``, with a of shape [rank, inputs] and b of shape [outputs, rank]."""

    a: "torch.Tensor"
    b: "torch.Tensor"
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """An adapter's weights in host memory.

    Attributes:
        adapter: the description of the adapter.
        layers: the update of each layer that it changes.
        rows: the new rows of the text embedding, [len(adapter.rows), hidden size]; None if it changes none.
    """

    adapter: Adapter
    layers: Mapping[str, LoraFactors]
    rows: "torch.Tensor | None"


def load_weights(adapter: Adapter) -> AdapterWeights:
    """Read the weights of an adapter.

    Raises:
        AdapterError: they cannot be read, or contain NaN or infinity.
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
        module: LoraFactors(
            tensors[f"{prefix}{module}.lora_A.weight"], tensors[f"{prefix}{module}.lora_B.weight"], _scale(adapter, module, rank)
        )
        for module, (_, rank, _) in adapter.modules.items()
    }
    rows = next((tensor for name, tensor in tensors.items() if name.endswith("trainable_tokens_delta")), None)
    return AdapterWeights(adapter, layers, rows)


class AdapterSwitch:
    """Switches the adapter of a model. Not thread-safe: it belongs to the worker that owns the model.

    Args:
        model: the base model, without an adapter.

    Attributes:
        active: the adapter that is merged into the model; None for the base.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[str, torch.Tensor] = {}  # base weights of every layer changed so far
        self._dirty: set[str] = set()  # names of weights that differ from the base
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None  # ids and base values of the changed embedding rows
        self.active: AdapterWeights | None = None

    def activate(self, wanted: AdapterWeights | None) -> None:
        """Merge ``wanted`` into the model in place of the active adapter; None restores the base. On an error, restore the base.

        The adapter must fit the model (see `adapter.check_fit`).
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

    def _change(self, wanted: AdapterWeights | None) -> None:
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

    def _layers(self, wanted: AdapterWeights | None) -> dict[str, LoraFactors]:
        """Return the updates by the names of the weights, without the text head if the model was loaded without it."""
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
        """Return a copy of a base weight: in GPU memory if there is room, else in host memory."""
        if name not in self._kept:
            import torch

            if weight.is_cuda and torch.cuda.mem_get_info(weight.device)[0] < _MIN_FREE_BYTES:
                self._kept[name] = weight.cpu().pin_memory()
            else:
                self._kept[name] = weight.clone()
        return self._kept[name]


def _scale(adapter: Adapter, module: str, rank: int) -> float:
    alpha = float(_pattern_value(adapter.config.get("alpha_pattern"), module, adapter.config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)


def _pattern_value(patterns: object, module: str, default: object) -> Any:
    """Return the value of the first pattern that matches the end of a layer's name, as PEFT does."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS):
                return value
        except (regex.error, TimeoutError):
            raise AdapterError(f"the pattern {pattern!r} of alpha_pattern cannot be used; name the layers") from None
    return default
