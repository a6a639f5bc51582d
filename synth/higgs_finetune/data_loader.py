"""The micro-batches of each optimizer step.

The rows of a step are drawn as one large batch. They are then divided among the processes and, within a process, among
micro-batches that are computed one after the other. So the result of a step does not depend on the number of processes or
micro-batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.batch_sampler import LengthGroupedSampler
from synth.higgs_finetune.examples import IGNORED, TrainingExample, collate

if TYPE_CHECKING:
    import torch

MicroBatches = list["Mapping[str, torch.Tensor]"]
"""The batches of one step that one process computes one after the other."""


class StepLoader:
    """Loader of the steps of a run, from any position.

    Args:
        examples: the training data.
        config: configuration of the model.
        batch_size: rows in a micro-batch.
        micro_batches: micro-batches in a step, on each process.
        seed: seed of the order of rows.
        rank: index of this process.
        ranks: number of processes.
        workers: processes that prepare batches; 0 prepares them in this one.
        pin: put batches in page-locked memory, for faster copies to a GPU.

    Attributes:
        sampler: draws the rows of a step for all processes; its position is the position of the run.
    """

    def __init__(
        self,
        examples: "ExampleDataset",
        config: Any,
        *,
        batch_size: int,
        micro_batches: int = 1,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self._examples, self._config = examples, config
        self._micro_batches, self._rank, self._ranks = micro_batches, rank, ranks
        self._workers, self._pin = workers, pin
        self.sampler = LengthGroupedSampler(examples.lengths, batch_size * micro_batches * ranks, seed=seed)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return len(self.sampler)

    def remaining_steps(self) -> Iterator[MicroBatches]:
        """Yield this process's micro-batches of each remaining step of the epoch. The caller advances ``sampler``."""
        import torch
        from torch.utils.data import DataLoader

        batches = [batch for step in self.sampler for batch in self._own_batches(step)]
        dataset: Any = _LabelledDataset(self._examples)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_Collator(self._config),
            num_workers=self._workers,
            pin_memory=self._pin,
            generator=torch.Generator().manual_seed(0),  # its own, so that it takes nothing from the generator of dropout
        )
        loaded = iter(loader)
        for _ in range(len(batches) // self._micro_batches):
            yield [next(loaded) for _ in range(self._micro_batches)]

    def _own_batches(self, step: Sequence[int]) -> list[list[tuple[int, bool]]]:
        """Return this process's micro-batches of a step: indices of rows, each with whether its labels count.

        If there are fewer rows than micro-batches, the others get a row whose labels do not count. Rows of similar length stay
        together, and micro-batches are dealt out in turn, so that processes do not wait for each other.
        """
        by_length = sorted(step, key=lambda index: (self._examples.lengths[index], index))
        wanted = self._micro_batches * self._ranks
        size = -(-len(by_length) // wanted)
        cut = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        batches = [[(index, True) for index in batch] for batch in cut]
        batches += [[(by_length[0], False)]] * (wanted - len(batches))
        return batches[self._rank :: self._ranks]


class ExampleDataset:
    """Training examples and their lengths in tokens.

    Args:
        source: any sequence of examples, such as one that builds them when they are indexed.
        lengths: tokens of each; by default counted from ``source``.
    """

    def __init__(self, source: Sequence[TrainingExample], lengths: Sequence[int] | None = None) -> None:
        self._source = source
        self.lengths = [len(one) for one in source] if lengths is None else list(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TrainingExample:
        return self._source[index]


class _LabelledDataset:
    """Examples by index and whether their labels count."""

    def __init__(self, examples: ExampleDataset) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, key: tuple[int, bool]) -> TrainingExample:
        index, counts = key
        return self._examples[index] if counts else without_labels(self._examples[index])


class _Collator:
    """`collate` for one model; a class, so that it can be pickled for other processes."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __call__(self, examples: Sequence[TrainingExample]) -> "dict[str, torch.Tensor]":
        return collate(examples, self._config)


def without_labels(example: TrainingExample) -> TrainingExample:
    """Return a copy of an example in which no label counts."""
    import torch

    return replace(
        example,
        text_labels=torch.full_like(example.text_labels, IGNORED),
        audio_labels=torch.full_like(example.audio_labels, IGNORED),
    )
