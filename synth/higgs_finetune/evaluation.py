"""Held-out losses, and the leak test: losses on the same rows with their codes shuffled in time.

A model that is scored on tokens it was just shown has a loss near zero, which looks like success. So each evaluation also shuffles
the codes of each row in time, every codebook by itself. Their order is then random: a model that knows which codes a row has, but
nothing of their order, needs ln(number of orders) / codes nats per code on average. This is the unigram entropy of the codes,
counted exactly; for long rows the two are equal. A lower loss means that the labels leak into the input, and stops the run.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prosody_tagger.errors import ProsodyError
from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.examples import IGNORED, TrainingExample, collate
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.trainer import StepMetrics, mean_losses

if TYPE_CHECKING:
    import torch

_MAX_SHUFFLED = 64  # rows of the leak test


class HeldOutEvaluation:
    """Computes held-out losses, and stops the run if the labels leak.

    Args:
        examples: the held-out rows.
        config: configuration of the model.
        settings: settings of the run.
        accelerator: ``accelerate.Accelerator``; each process scores its share of the rows.
    """

    def __init__(self, examples: ExampleDataset, config: Any, settings: FinetuneSettings, accelerator: Any) -> None:
        self._examples, self._config, self._settings, self._accelerator = examples, config, settings, accelerator

    def __call__(self, module: Any, step: int) -> StepMetrics:
        """Return the losses of ``module``, a `HiggsLoss` or a wrapper of one, by the names of the metrics log.

        Raises:
            ProsodyError: the labels leak.
        """
        order = sorted(range(len(self._examples)), key=self._examples.lengths.__getitem__)
        metrics = mean_losses(*self._score(module, [self._examples[index] for index in self._own_share(order)]), self._settings)
        tested = sorted(order[:: max(1, len(order) // _MAX_SHUFFLED)][:_MAX_SHUFFLED])
        own = [(index, self._examples[index]) for index in self._own_share(tested)]
        shuffled = [shuffle_codes(example, self._config, seed=index) for index, example in own]
        return {**metrics, **self._test_for_leak(module, shuffled)}

    def _own_share(self, order: Sequence[int]) -> Sequence[int]:
        return order[self._accelerator.process_index :: self._accelerator.num_processes]

    def _test_for_leak(self, module: Any, shuffled: list[TrainingExample]) -> StepMetrics:
        import torch

        sums, counts = self._score(module, [only_code_labels(example, self._config) for example in shuffled])
        entropy = torch.zeros(2, dtype=torch.float64)
        for example in shuffled:
            entropy += torch.tensor(order_entropy(example, self._config), dtype=torch.float64)
        nats, codes = self._accelerator.reduce(entropy.to(sums.device), "sum").tolist()
        if not codes:
            return {}
        loss, floor = float(sums[1:].sum() / counts[1:].sum()), nats / codes
        if loss < floor:
            raise ProsodyError(
                f"leak: with codes shuffled in time, the held-out audio loss is {loss:.3f} nats, below the unigram entropy of "
                f"{floor:.3f}; the model sees the labels in its input, so its losses mean nothing: check that labels are shifted"
            )
        return {"shuffled": loss, "shuffled_least": floor}

    def _score(self, module: Any, examples: Sequence[TrainingExample]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return sums and counts as in `BatchLoss`, added up over all processes."""
        import torch

        device = self._accelerator.device
        totals = torch.zeros(2, 1 + self._config.num_codebooks, device=device)
        size = self._settings.batch_size
        with torch.no_grad():
            for start in range(0, len(examples), size):
                batch = collate(examples[start : start + size], self._config)
                losses = module({name: tensor.to(device) for name, tensor in batch.items()})
                totals += torch.stack([losses.sums, losses.counts])
        reduced = self._accelerator.reduce(totals, "sum")
        return reduced[0], reduced[1]


def shuffle_codes(example: TrainingExample, config: Any, *, seed: int) -> TrainingExample:
    """Return a copy whose learnt codes are shuffled in time, each codebook by itself. Everything else stays in place."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    frames, labels = example.audio_ids.clone(), example.audio_labels.clone()
    for book in range(config.num_codebooks):
        positions = _is_code(labels[:, book], config).nonzero()[:, 0]
        sources = positions[torch.randperm(len(positions), generator=generator)]
        frames[positions, book] = frames[sources, book].clone()
        labels[positions, book] = frames[positions, book]
    return replace(example, audio_ids=frames, audio_labels=labels)


def only_code_labels(example: TrainingExample, config: Any) -> TrainingExample:
    """Return a copy with labels for codes alone: none for text and none for EOS."""
    import torch

    labels = example.audio_labels.masked_fill(~_is_code(example.audio_labels, config), IGNORED)
    return replace(example, text_labels=torch.full_like(example.text_labels, IGNORED), audio_labels=labels)


def order_entropy(example: TrainingExample, config: Any) -> tuple[float, int]:
    """Return the logarithm of the number of orders of the learnt codes, summed over codebooks, in nats, and the number of codes."""
    import torch

    nats, codes = 0.0, 0
    for book in range(config.num_codebooks):
        labels = example.audio_labels[:, book]
        found = labels[_is_code(labels, config)]
        repeated = torch.lgamma(torch.bincount(found).double() + 1).sum()
        nats += float(torch.lgamma(torch.tensor(len(found) + 1.0, dtype=torch.float64)) - repeated)
        codes += len(found)
    return nats, codes


def _is_code(labels: "torch.Tensor", config: Any) -> "torch.Tensor":
    first_control: int = min(config.audio_stream_bos_id, config.audio_stream_eos_id)
    return (labels >= 0) & (labels < first_control)
