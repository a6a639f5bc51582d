"""Which rows make a step, and who computes them.

The rows of a step are drawn as for one large batch and then cut up among processes and, within one, among batches that are computed
one after the other. So what a step learns does not depend on how many there are of either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.batch_sampler import LengthGroups
from synth.higgs_finetune.examples import IGNORED, Example, collate

if TYPE_CHECKING:
    import torch

Parts = list["Mapping[str, torch.Tensor]"]
"""The batches of one step that one process computes, one after the other."""


class Steps:
    """The steps of a run, from any place in it.

    Args:
        examples: what is trained on.
        config: the model's.
        batch_size, parts: rows of a batch, and batches a step, on each of ``ranks`` processes; ``rank`` is this one.
        workers: processes that prepare batches.
        pin: put batches where a GPU fetches them from.
    """

    def __init__(
        self,
        examples: "Examples",
        config: Any,
        *,
        batch_size: int,
        parts: int = 1,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self._examples, self._config = examples, config
        self._size, self._parts, self._rank, self._ranks = batch_size, parts, rank, ranks
        self._workers, self._pin = workers, pin
        self.place = LengthGroups(examples.lengths, batch_size * parts * ranks, seed=seed)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.place)

    def rest_of_epoch(self) -> Iterator[Parts]:
        """What this process computes in each step that is left of this epoch. ``place`` is moved on by who trains."""
        import torch
        from torch.utils.data import DataLoader

        own = [part for step in self.place for part in self._own(step)]
        rows: Any = _Rows(self._examples)
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_sampler=own,
            collate_fn=_Collate(self._config),
            num_workers=self._workers,
            pin_memory=self._pin,
            generator=torch.Generator().manual_seed(0),  # or else it would draw from the one that dropout draws from
        )
        batches = iter(loader)
        for _ in range(len(own) // self._parts):
            yield [next(batches) for _ in range(self._parts)]

    def _own(self, step: Sequence[int]) -> list[list[tuple[int, bool]]]:
        """This process's batches of a step: rows, and whether they count. A batch for which none is left takes one that does not.

        Neighbours in length stay together, and each round of batches goes to all processes, so that none waits for another.
        """
        inorder = sorted(step, key=lambda index: (self._examples.lengths[index], index))
        wanted = self._parts * self._ranks
        size = -(-len(inorder) // wanted)
        cut = [inorder[start : start + size] for start in range(0, len(inorder), size)]
        chunks = [[(index, True) for index in chunk] for chunk in cut]
        chunks += [[(inorder[0], False)]] * (wanted - len(chunks))
        return chunks[self._rank :: self._ranks]


class Examples:
    """Examples with their lengths in tokens. Give this class another source by giving it anything that can be indexed."""

    def __init__(self, source: Sequence[Example], lengths: Sequence[int] | None = None) -> None:
        self._source = source
        self.lengths = [len(one) for one in source] if lengths is None else list(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        return self._source[index]


class _Rows:
    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, wanted: tuple[int, bool]) -> Example:
        index, counts = wanted
        return self._examples[index] if counts else unscored(self._examples[index])


class _Collate:
    def __init__(self, config: Any) -> None:
        self._config = config

    def __call__(self, examples: Sequence[Example]) -> "dict[str, torch.Tensor]":
        return collate(examples, self._config)


def unscored(example: Example) -> Example:
    """The same without labels."""
    import torch

    return replace(
        example,
        text_labels=torch.full_like(example.text_labels, IGNORED),
        audio_labels=torch.full_like(example.audio_labels, IGNORED),
    )
