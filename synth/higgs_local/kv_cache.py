"""Preallocated KV cache and per-slot decoding state; addresses are fixed for CUDA graphs."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from synth.higgs_local.sampling import MAX_RAS_WINDOW, Sampling

if TYPE_CHECKING:
    import torch

NEVER = 1 << 30
"""A frame number that no row reaches."""

RUNNING, ENDED, CUT = range(3)
"""Status of a row in the last column of `KVCache.out`: it continues, the model ended it, or it has reached its frame limit."""


@dataclass(slots=True, eq=False)
class SlotStates:
    """Decoding state of every slot. The first dimension of each tensor is the slot; a row occupies one slot.

    Attributes:
        codes: the last frame, int64 [slots, codebooks].
        position: position of that frame's keys and values.
        frame: number of the next frame; frame 0 is the stream's BOS.
        first_end: number of the first frame with an EOS, `NEVER` before it.
        last: number of the last frame that the row may have.
        ended: whether the row has ended; its further frames are padding.
        temperature, top_p, top_k, ras_window, ras_repeats: the row's `Sampling`.
        recent: the last frames, int64 [slots, MAX_RAS_WINDOW, codebooks]; -1 for BOS, EOS and frames before the first.
        draws: random numbers of the whole row, float32 [slots, frames, 2, codebooks].
    """

    codes: "torch.Tensor"
    position: "torch.Tensor"
    frame: "torch.Tensor"
    first_end: "torch.Tensor"
    last: "torch.Tensor"
    ended: "torch.Tensor"
    temperature: "torch.Tensor"
    top_p: "torch.Tensor"
    top_k: "torch.Tensor"
    ras_window: "torch.Tensor"
    ras_repeats: "torch.Tensor"
    recent: "torch.Tensor"
    draws: "torch.Tensor"

    @classmethod
    def empty(cls, slots: int, positions: int, codebooks: int, device: Any) -> "SlotStates":
        """Return the state of ``slots`` free slots."""
        import torch

        def integers(*shape: int) -> torch.Tensor:
            return torch.zeros(slots, *shape, dtype=torch.int64, device=device)

        def floats(*shape: int) -> torch.Tensor:
            return torch.zeros(slots, *shape, dtype=torch.float32, device=device)

        return cls(
            codes=integers(codebooks),
            position=integers(),
            frame=integers(),
            first_end=integers(),
            last=integers(),
            ended=torch.ones(slots, dtype=torch.bool, device=device),
            temperature=floats(),
            top_p=floats(),
            top_k=integers(),
            ras_window=integers(),
            ras_repeats=integers(),
            recent=integers(MAX_RAS_WINDOW, codebooks),
            draws=floats(positions, 2, codebooks),
        )

    def tensors(self) -> list["torch.Tensor"]:
        """Return all tensors of the state."""
        return [getattr(self, attribute.name) for attribute in fields(self)]


@dataclass(slots=True, eq=False)
class KVCache:
    """Preallocated memory of a batch.

    Attributes:
        keys, values: one tensor per layer, [slots, key-value heads, positions, head size]. Initialised with zeros, because a NaN
            would survive the attention mask.
        states: decoding state of each slot.
        out: result of the last step, int64 [slots, codebooks + 1]: the codes, then `RUNNING`, `ENDED` or `CUT`.
        graphs: CUDA graphs of steps over this memory, by width, length and candidates.
    """

    keys: list["torch.Tensor"]
    values: list["torch.Tensor"]
    states: SlotStates
    out: "torch.Tensor"
    graphs: dict[tuple[int, int, int], Any] = field(default_factory=dict)

    @classmethod
    def empty(cls, config: Any, slots: int, device: Any, dtype: Any) -> "KVCache":
        """Allocate memory for ``slots`` rows of a model of ``config``, each up to the model's longest sequence."""
        import torch

        positions = config.max_position_embeddings
        shape = (slots, config.num_key_value_heads, positions, config.head_dim)
        keys, values = ([torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)] for _ in "kv")
        states = SlotStates.empty(slots, positions, config.num_codebooks, device)
        return cls(keys, values, states, torch.zeros(slots, config.num_codebooks + 1, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.out)

    def fill(self, slot: int, prefill: Any, length: int, sampling: Sampling, last: int, begin_id: int) -> None:
        """Start a row in ``slot`` after its prompt: frame 0 is the stream's BOS, and frame 1 comes next.

        Args:
            slot: a free slot.
            prefill: the transformers cache with the keys and values of the prompt.
            length: tokens of the prompt.
            sampling: how the row's codes are drawn.
            last: number of the last frame that the row may have.
            begin_id: code of the stream's BOS.
        """
        for layer, keys, values in zip(prefill.layers, self.keys, self.values, strict=True):
            keys[slot, :, :length] = layer.keys[0]
            values[slot, :, :length] = layer.values[0]
        states = self.states
        states.codes[slot] = begin_id
        states.position[slot] = length
        states.frame[slot] = 1
        states.first_end[slot] = NEVER
        states.last[slot] = last
        states.ended[slot] = False
        if sampling.greedy:
            states.temperature[slot] = 0.0
            states.ras_window[slot] = 0
            return
        states.temperature[slot] = sampling.temperature
        states.top_p[slot] = sampling.top_p
        states.top_k[slot] = min(sampling.top_k, NEVER)
        states.ras_window[slot] = sampling.ras_window
        states.ras_repeats[slot] = sampling.ras_repeats
        states.recent[slot] = -1
        states.draws[slot, : last + 1] = sampling.draws(last + 1, states.draws.shape[-1]).to(states.draws.device)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the row in slot ``source``, of at most ``length`` positions, to slot ``target``."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]
        for state in self.states.tensors():
            state[target] = state[source]
