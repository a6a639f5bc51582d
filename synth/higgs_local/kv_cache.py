"""The memory of rows that are decoded together: keys and values, and where each row is. Nothing in it ever moves or grows."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from synth.higgs_local.sampling import MAX_RAS_WINDOW, Sampling

if TYPE_CHECKING:
    import torch

NEVER = 1 << 30
"""A frame that is not reached."""

RUNNING, ENDED, CUT = range(3)
"""What the last column of `Places.out` says of a row: it goes on, it ended by itself, it had all its frames."""


@dataclass(slots=True, eq=False)
class Rows:
    """Where each row is; one entry a place.

    Attributes:
        codes: the frame before, [places, codebooks].
        position: where that frame's keys and values go.
        frame: number of the frame that comes next; 0 is the stream's BOS.
        first_end: the first frame with an EOS.
        last: the last frame that it may have.
        ended: it has ended, and its frames mean nothing.
        temperature, top_p, top_k, ras_window, ras_repeats: its `Sampling`.
        recent: its last frames, [places, MAX_RAS_WINDOW, codebooks], -1 where it is not a code.
        draws: all its chance, [places, frames, 2, codebooks].
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
    def empty(cls, places: int, positions: int, codebooks: int, device: Any) -> "Rows":
        import torch

        def numbers(*shape: int) -> torch.Tensor:
            return torch.zeros(places, *shape, dtype=torch.int64, device=device)

        def shares(*shape: int) -> torch.Tensor:
            return torch.zeros(places, *shape, dtype=torch.float32, device=device)

        return cls(
            codes=numbers(codebooks),
            position=numbers(),
            frame=numbers(),
            first_end=numbers(),
            last=numbers(),
            ended=torch.ones(places, dtype=torch.bool, device=device),
            temperature=shares(),
            top_p=shares(),
            top_k=numbers(),
            ras_window=numbers(),
            ras_repeats=numbers(),
            recent=numbers(MAX_RAS_WINDOW, codebooks),
            draws=shares(positions, 2, codebooks),
        )

    def all(self) -> list["torch.Tensor"]:
        return [getattr(self, one.name) for one in fields(self)]


@dataclass(slots=True, eq=False)
class Places:
    """Memory for so many rows of so many positions.

    Attributes:
        keys, values: for each layer [places, key-value heads, positions, head size]. Zeros, as NaN would get through a mask.
        rows: where each row is.
        out: what the last step found: its codes, and `RUNNING`, `ENDED` or `CUT`; int64 [places, codebooks + 1].
        recorded: CUDA graphs of steps over this memory.
    """

    keys: list["torch.Tensor"]
    values: list["torch.Tensor"]
    rows: Rows
    out: "torch.Tensor"
    recorded: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def empty(cls, config: Any, places: int, device: Any, dtype: Any) -> "Places":
        """Memory for a model of ``config``."""
        import torch

        positions = config.max_position_embeddings
        shape = (places, config.num_key_value_heads, positions, config.head_dim)
        keys, values = ([torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)] for _ in "kv")
        rows = Rows.empty(places, positions, config.num_codebooks, device)
        return cls(keys, values, rows, torch.zeros(places, config.num_codebooks + 1, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.out)

    def begin(self, place: int, cache: Any, length: int, sampling: Sampling, last: int, begin_id: int) -> None:
        """Put a row there that has been read up to ``length``: the stream's BOS is its frame 0, and 1 comes next."""
        for layer, keys, values in zip(cache.layers, self.keys, self.values, strict=True):
            keys[place, :, :length] = layer.keys[0]
            values[place, :, :length] = layer.values[0]
        rows = self.rows
        rows.codes[place] = begin_id
        rows.position[place] = length
        rows.frame[place] = 1
        rows.first_end[place] = NEVER
        rows.last[place] = last
        rows.ended[place] = False
        if sampling.greedy:
            rows.temperature[place] = 0.0
            rows.ras_window[place] = 0
            return
        rows.temperature[place] = sampling.temperature
        rows.top_p[place] = sampling.top_p
        rows.top_k[place] = min(sampling.top_k, NEVER)
        rows.ras_window[place] = sampling.ras_window
        rows.ras_repeats[place] = sampling.ras_repeats
        rows.recent[place] = -1
        rows.draws[place, : last + 1] = sampling.draws(last + 1, rows.draws.shape[-1]).to(rows.draws.device)

    def move(self, place: int, to: int, length: int) -> None:
        """Copy a row of at most ``length`` positions to another place."""
        for tensor in (*self.keys, *self.values):
            tensor[to, :, :length] = tensor[place, :, :length]
        for state in self.rows.all():
            state[to] = state[place]
