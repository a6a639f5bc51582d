"""What a run is measured by: losses on held-out rows, and on the same rows with their codes shuffled, where nothing can be known.

A model that is scored on what it was just shown gets a loss near zero that says nothing. So at every evaluation the codes of each
row are shuffled in time, each codebook by itself. Which order they come in is then pure chance: whoever knows which codes a row
has, and nothing of their order, needs ln(number of orders) / codes nats for each on average. That is their unigram entropy, counted
exactly: for long rows the two are the same. A loss below it cannot be honest.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prosody_tagger.errors import ProsodyError
from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.examples import Example, collate
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.trainer import Figures, losses_of

if TYPE_CHECKING:
    import torch

_MOST_SHUFFLED = 64  # rows


class Evaluation:
    """Held-out losses, and the search for a leak.

    Args:
        examples: the held-out rows.
        config: the model's.
        settings: the run's.
        accelerator: of accelerate; every process scores its share.
    """

    def __init__(self, examples: Examples, config: Any, settings: FinetuneSettings, accelerator: Any) -> None:
        self._examples, self._config, self._settings, self._accelerator = examples, config, settings, accelerator

    def __call__(self, module: Any, step: int) -> Figures:
        """Score ``module``, a `HiggsLoss` or a wrapper of one.

        Raises:
            ProsodyError: a leak.
        """
        order = sorted(range(len(self._examples)), key=self._examples.lengths.__getitem__)
        figures = losses_of(*self._score(module, [self._examples[index] for index in self._own(order)]), self._settings)
        chance = sorted(order[:: max(1, len(order) // _MOST_SHUFFLED)][:_MOST_SHUFFLED])
        own = [(index, self._examples[index]) for index in self._own(chance)]
        return {**figures, **self._shuffled(module, [shuffled(one, self._config, seed=index) for index, one in own])}

    def _own(self, order: Sequence[int]) -> Sequence[int]:
        return order[self._accelerator.process_index :: self._accelerator.num_processes]

    def _shuffled(self, module: Any, examples: list[Example]) -> Figures:
        import torch

        sums, counts = self._score(module, [only_codes(one, self._config) for one in examples])
        least = torch.zeros(2, dtype=torch.float64)
        for one in examples:
            least += torch.tensor(order_entropy(one, self._config), dtype=torch.float64)
        nats, codes = self._accelerator.reduce(least.to(sums.device), "sum").tolist()
        if not codes:
            return {}
        loss, floor = float(sums[1:].sum() / counts[1:].sum()), nats / codes
        if loss < floor:
            raise ProsodyError(
                f"leak: with its codes shuffled in time, held-out audio has a loss of {loss:.3f} nats, below the "
                f"{floor:.3f} of their unigram entropy; the model is scored on what it was shown, so its losses mean nothing: the "
                "labels are not shifted"
            )
        return {"shuffled": loss, "shuffled_least": floor}

    def _score(self, module: Any, examples: Sequence[Example]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Sums and counts of all processes."""
        import torch

        device = self._accelerator.device
        sums = torch.zeros(2, 1 + self._config.num_codebooks, device=device)
        size = self._settings.batch_size
        with torch.no_grad():
            for start in range(0, len(examples), size):
                batch = collate(examples[start : start + size], self._config)
                losses = module({name: tensor.to(device) for name, tensor in batch.items()})
                sums += torch.stack([losses.sums, losses.counts])
        found = self._accelerator.reduce(sums, "sum")
        return found[0], found[1]


def shuffled(example: Example, config: Any, *, seed: int) -> Example:
    """The same with the codes that are learnt in another order, each codebook in one of its own. Nothing else moves."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    frames, labels = example.audio_ids.clone(), example.audio_labels.clone()
    for book in range(config.num_codebooks):
        places = _codes(labels[:, book], config).nonzero()[:, 0]
        moved = places[torch.randperm(len(places), generator=chance)]
        frames[places, book] = frames[moved, book].clone()
        labels[places, book] = frames[places, book]
    return replace(example, audio_ids=frames, audio_labels=labels)


def only_codes(example: Example, config: Any) -> Example:
    """The same with labels for codes alone: none for text or an end."""
    import torch

    labels = example.audio_labels.masked_fill(~_codes(example.audio_labels, config), -100)
    return replace(example, text_labels=torch.full_like(example.text_labels, -100), audio_labels=labels)


def order_entropy(example: Example, config: Any) -> tuple[float, int]:
    """The logarithm of how many orders the learnt codes have, over all codebooks, and how many codes there are."""
    import torch

    nats, codes = 0.0, 0
    for book in range(config.num_codebooks):
        labels = example.audio_labels[:, book]
        found = labels[_codes(labels, config)]
        each = torch.lgamma(torch.bincount(found).double() + 1).sum()
        nats += float(torch.lgamma(torch.tensor(len(found) + 1.0, dtype=torch.float64)) - each)
        codes += len(found)
    return nats, codes


def _codes(labels: "torch.Tensor", config: Any) -> "torch.Tensor":
    first_control: int = min(config.audio_stream_bos_id, config.audio_stream_eos_id)
    return (labels >= 0) & (labels < first_control)
