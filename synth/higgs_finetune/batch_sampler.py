"""Which examples make a batch: those of similar length, so that little of it is padding."""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput

_POOL = 50  # batches' worth of examples that are sorted together


class LengthGroups:
    """Batches of indices: a ``batch_sampler`` for torch's DataLoader.

    Together, the ranks' batches of a step are the batch that one rank with ``ranks * batch_size`` would have. A rank for which an
    epoch's last step has nothing left takes one example of it again, so that all ranks have as many steps. The longest example
    comes in an epoch's first step: memory that does not suffice is found out at once.

    The place is moved on by `done`, when a batch has been trained on, and not by drawing: a loader draws ahead.

    Args:
        lengths: of each example, in tokens.
        batch_size: examples of a batch, on each rank.
        seed: with the epoch, all that the order depends on.
        rank: this process, from 0.
        ranks: how many there are.

    Attributes:
        epoch: the one that is under way, from 0.
        step: how many of its steps are done.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> None:
        if not len(lengths) or batch_size < 1 or not 0 <= rank < ranks:
            raise BadInput(
                f"{len(lengths)} examples in batches of {batch_size} for rank {rank} of {ranks}: there is nothing to draw"
            )
        self._lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self._together = batch_size * ranks
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self.epoch = self.step = 0

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-len(self._lengths) // self._together)

    def __iter__(self) -> Iterator[list[int]]:
        """What is left of this epoch, from the place on."""
        return iter(self.batches(self.epoch)[self.step :])

    def batches(self, epoch: int) -> list[list[int]]:
        """This rank's batches of a whole epoch."""
        return [self._share(batch) for batch in self._all(epoch)]

    def done(self) -> None:
        """A step is done: on to the next, and after an epoch's last to the next epoch."""
        self.step += 1
        if self.step == len(self):
            self.epoch, self.step = self.epoch + 1, 0

    def state(self) -> dict[str, int]:
        """The place, to be saved. It holds on any number of ranks whose batches together are as large."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load(self, state: Mapping[str, int]) -> None:
        """Go to a saved place.

        Raises:
            BadInput: it is of other examples, another size of batches or another seed.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise BadInput(f"the saved place is of {key} {state.get(key)}, and this run has {value}; begin anew")
        if state["epoch"] < 0 or not 0 <= state["step"] < len(self):
            raise BadInput(f"there is no step {state['step']} in epoch {state['epoch']}; begin anew")
        self.epoch, self.step = state["epoch"], state["step"]

    def _all(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._lengths))
        size = self._together
        pools = [order[start : start + _POOL * size] for start in range(0, len(order), _POOL * size)]
        ordered = np.concatenate([pool[np.argsort(-self._lengths[pool], kind="stable")] for pool in pools])
        batches = [ordered[start : start + size].tolist() for start in range(0, len(ordered), size)]
        random.shuffle(batches)
        longest = max(range(len(batches)), key=lambda index: int(self._lengths[batches[index]].max()))
        batches[0], batches[longest] = batches[longest], batches[0]
        return batches

    def _share(self, batch: list[int]) -> list[int]:
        return batch[self._rank :: self._ranks] or [batch[self._rank % len(batch)]]

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self._seed,
            "examples": len(self._lengths),
            "examples of a step": self._together,
            "checksum of the lengths": zlib.crc32(self._lengths.tobytes()),
        }
