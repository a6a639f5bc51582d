"""Length-grouped sampler: batches of examples of similar length, so that little of a batch is padding."""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput

_POOL_BATCHES = 50  # batches of examples that are sorted by length together; batches are shuffled after that


class LengthGroupedSampler:
    """Batches of example indices, usable as a ``batch_sampler`` of torch's DataLoader.

    The order depends on ``seed`` and the epoch alone. The batches that all ranks draw for one step add up to the batch that a
    single rank with ``ranks * batch_size`` would draw. If the last step of an epoch has no example for some rank, that rank repeats
    one, so all ranks take the same number of steps. The first step of an epoch holds the longest example: a run that needs too much
    memory fails at once and not after hours.

    Drawing does not change the position, because a data loader prefetches. Call `advance` after each step that was trained on.

    Args:
        lengths: number of tokens of each example.
        batch_size: examples in a batch, on each rank.
        seed: seed of the shuffling.
        rank: index of this process, from 0.
        ranks: number of processes.

    Attributes:
        epoch: the current epoch, from 0.
        step: steps of the current epoch that are done.

    Raises:
        BadInput: there are no examples, or a batch size or rank is out of range.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int = 0, rank: int = 0, ranks: int = 1) -> None:
        if not len(lengths) or batch_size < 1 or not 0 <= rank < ranks:
            raise BadInput(
                f"cannot draw batches of {batch_size} from {len(lengths)} examples for rank {rank} of {ranks}; "
                "give at least one example, a batch size of 1 or more, and a rank below the number of ranks"
            )
        self._lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self._global_batch = batch_size * ranks
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self.epoch = self.step = 0

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self._lengths) // self._global_batch)

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over this rank's batches from the current position to the end of the epoch."""
        return iter(self.batches(self.epoch)[self.step :])

    def batches(self, epoch: int) -> list[list[int]]:
        """Return all of this rank's batches of an epoch."""
        return [self._own_share(batch) for batch in self._global_batches(epoch)]

    def advance(self) -> None:
        """Move the position on by one step, from the last step of an epoch to the next epoch."""
        self.step += 1
        if self.step == len(self):
            self.epoch, self.step = self.epoch + 1, 0

    def state(self) -> dict[str, int]:
        """Return the position for a checkpoint. It is valid for any number of ranks with the same examples per step."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Restore a position that `state` returned.

        Raises:
            BadInput: the position belongs to other examples, another number of examples per step or another seed.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise BadInput(
                    f"the checkpoint was made with another {key}, {state.get(key)}, and this run has {value}; "
                    "resume with the same data and batch size, or start a new run"
                )
        if state["epoch"] < 0 or not 0 <= state["step"] < len(self):
            raise BadInput(
                f"the checkpoint has step {state['step']} of epoch {state['epoch']}, and an epoch has {len(self)} steps; "
                "start a new run"
            )
        self.epoch, self.step = state["epoch"], state["step"]

    def _global_batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch that all ranks share. Each lists the longest example first."""
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._lengths))
        size = self._global_batch
        pools = [order[start : start + _POOL_BATCHES * size] for start in range(0, len(order), _POOL_BATCHES * size)]
        ordered = np.concatenate([pool[np.argsort(-self._lengths[pool], kind="stable")] for pool in pools])
        batches = [ordered[start : start + size].tolist() for start in range(0, len(ordered), size)]
        random.shuffle(batches)
        longest = max(range(len(batches)), key=lambda index: int(self._lengths[batches[index]].max()))
        batches[0], batches[longest] = batches[longest], batches[0]
        return batches

    def _own_share(self, batch: list[int]) -> list[int]:
        return batch[self._rank :: self._ranks] or [batch[self._rank % len(batch)]]

    def _identity(self) -> dict[str, int]:
        """Return what must be equal for a position to be valid. The keys are part of the checkpoint format."""
        return {
            "seed": self._seed,
            "examples": len(self._lengths),
            "examples of a step": self._global_batch,
            "checksum of the lengths": zlib.crc32(self._lengths.tobytes()),
        }
