"""The training loop of the tagger: loss at the words of the copy, evaluation after each epoch, and selection of the best epoch.

Each batch is cut into the same parts, however many processes compute them; each part seeds its own dropout, and gradients are
summed over the processes. One process and several therefore train the same model up to the order of floating-point additions, and a
resumed run on a CPU trains the same model bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText
from prosody_tagger.errors import BadInput
from prosody_tagger.evaluation.metrics import Predictions, WordLabels, concatenate_scores, measure, score_examples
from prosody_tagger.model import Scores
from prosody_tagger.training.batches import BatchBuilder, TokenBatch, group_labels, label_groups
from prosody_tagger.training.checkpoint import TrainingCheckpoint, TrainingProgress
from prosody_tagger.training.torch_network import read, torch_tagger_model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tokenizers import Tokenizer

    from prosody_tagger.training.distillation import Teacher

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints within an epoch; there is one after each epoch as well."""
WARM_UP_STEPS = 60
"""Maximum number of warm-up steps."""
WARM_UP_SHARE = 0.06
"""Share of the steps that warm up the learning rate, up to `WARM_UP_STEPS`."""
FINAL_RATE = 0.02
"""Learning rate at the end of the cosine schedule, as a share of its peak."""
GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Settings of the training loop.

    Attributes:
        epochs: maximum number of passes over the data.
        lr: peak learning rate.
        batch_size, batch_tokens: maximum texts and padded tokens in a batch, over all processes.
        seed: of the batches and of dropout.
        patience: number of epochs without a lower evaluation loss after which training stops; 0 trains all epochs and keeps the
            last.
        bfloat16: compute the forward pass in bfloat16; weights and gradients stay in float32.
        parts: number of parts in which a batch is computed; at least the number of processes is used.
        swap_rare: replace some rare tokens by tokens that never occur.
    """

    epochs: int
    lr: float
    batch_size: int
    batch_tokens: int
    seed: int
    patience: int
    bfloat16: bool
    parts: int = 4
    swap_rare: bool = False


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Numbers of a whole batch by which its losses are divided.

    Attributes:
        labels: known labels of each group.
        words, tokens: words and tokens of the texts.
    """

    labels: list[int]
    words: int
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[TokenBatch]) -> "LabelCounts":
        """Count over all parts of a batch."""
        labels = torch.cat([part.labels for part in parts])
        tokens = sum(len(text.ids) for part in parts for text in part.texts)
        return cls((labels != UNKNOWN).sum(0).tolist(), len(labels), tokens)


def batch_loss(
    network: Any, batch: TokenBatch, groups: Sequence[Sequence[int]], counts: LabelCounts, teacher: "Teacher | None" = None
) -> torch.Tensor:
    """Return the cross-entropy of each label group at the words of the copies, plus the distillation loss if there is a teacher.

    Args:
        network: a GPT-2, bare or under an adapter.
        batch: a batch, or a part of one.
        groups: the competing tokens of each label column, from `label_groups`.
        counts: those of the whole batch.
        teacher: reads the same texts.
    """
    gpt2 = unwrap_gpt2(network)
    hidden = read(gpt2.transformer, batch.inputs, batch.positions)
    at_words = hidden[batch.rows, batch.columns]
    # Only the logits of the labels are computed, not those of the whole vocabulary. Their rows of the tied output matrix are taken
    # through the input embedding, because there an adapter's trained rows are applied.
    ids = torch.tensor([i for group in groups for i in group], device=hidden.device)
    logits = functional.linear(at_words, gpt2.get_input_embeddings()(ids).to(at_words.dtype)).float()
    group_logits = torch.split(logits, [len(group) for group in groups], 1)
    total = logits.new_zeros(())
    for column, count in enumerate(counts.labels):
        if count:
            labels = batch.labels[:, column]
            entropy = functional.cross_entropy(group_logits[column], labels, ignore_index=UNKNOWN, reduction="sum")
            total = total + entropy / count
    if teacher is not None:
        from prosody_tagger.training.distillation import distillation_loss

        total = total + distillation_loss(hidden, group_logits, batch.texts, counts.words, counts.tokens, teacher)
    return total


def evaluation_loss(scores: Scores, labels: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Return the label part of `batch_loss`, in float64, from scores of n words and their labels [n, groups]."""
    probabilities = [
        scores.prominence,
        np.column_stack([1 - scores.boundary, scores.boundary]),
        *(np.column_stack([1 - mark, mark]) for mark in scores.marks.T),
    ]
    total = 0.0
    for column, probability in enumerate(probabilities):
        known = labels[:, column] != UNKNOWN
        if known.any():
            of_label = probability.astype(np.float64)[known, labels[known, column]]
            total -= float(np.log(np.maximum(of_label, 1e-9)).mean())
    return total


class TaggerTrainer:
    """A training run: the network, its data, and its progress.

    Args:
        network: a GPT-2, bare or under an adapter; every weight that requires a gradient is trained.
        tokenizer: its tokenizer, with our tokens.
        train: the training data.
        held_out: the evaluation data.
        settings: of the loop.
        accelerator: the processes of the run.
        checkpoint: where to save the state; None: nowhere.
        teacher: for the distillation loss; None: labels only.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: "Tokenizer",
        train: Sequence[LabelledText],
        held_out: Sequence[LabelledText],
        settings: LoopSettings,
        accelerator: "Accelerator",
        checkpoint: TrainingCheckpoint | None = None,
        teacher: "Teacher | None" = None,
    ) -> None:
        self.teacher = None if teacher is None else teacher.to(accelerator.device).requires_grad_(False).eval()
        self.network = network.to(accelerator.device)
        self.tokenizer = tokenizer
        self.held_out = list(held_out)
        self.settings = settings
        self.accelerator = accelerator
        self.checkpoint = checkpoint
        self.groups = label_groups(tokenizer)
        self.word_labels = WordLabels.of(self.held_out)
        # Groups without any training label are left out of the evaluation loss.
        self.labels = np.concatenate(group_labels(self.held_out))
        self.labels[:, (np.concatenate(group_labels(train)) == UNKNOWN).all(0)] = UNKNOWN
        self.batches = BatchBuilder(
            tokenizer,
            train,
            max_tokens=(unwrap_gpt2(network).config.n_positions - 1) // 2,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            swap_rare=settings.swap_rare,
            seed=settings.seed,
        )
        self.trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
        self.epoch_steps = [len(self.batches.plan(epoch)) for epoch in range(settings.epochs)]
        self.progress = TrainingProgress()
        self.best: dict[str, torch.Tensor] = {}

    def run(self) -> TrainingProgress:
        """Train until the last epoch or until the patience is exhausted; leave the weights of the best epoch in the network.

        Raises:
            BadInput: the loss became infinite or not a number.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), disable=not self.accelerator.is_main_process) as bar:
            task = bar.add_task("training", total=sum(self.epoch_steps), rate="")
            bar.update(task, completed=self._completed_steps())

            def show(description: str, rate: str) -> None:
                bar.update(task, completed=self._completed_steps(), description=description, rate=rate)

            while self.progress.epoch < self.settings.epochs and not self._is_out_of_patience():
                self._train_epoch(show)
                self._end_epoch()
                self._save()
                if self.accelerator.is_main_process:
                    bar.console.print(_epoch_summary(self.progress.history[-1]), markup=False, highlight=False, soft_wrap=True)
        self._set_weights(self.best)
        self.network.eval()
        return self.progress

    def resume(self) -> bool:
        """Restore the state of the checkpoint; return False if there is none.

        Raises:
            BadInput: the checkpoint is broken, or belongs to another run.
        """
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return False
        self._set_weights(state["weights"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])
        return True

    def score_held_out(self) -> Scores:
        """Return the network's scores of all held-out words; the processes share the work."""
        from accelerate.utils import gather_object

        self.network.eval()
        model = torch_tagger_model(unwrap_gpt2(self.network), self.tokenizer)
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        own = range(rank, len(self.held_out), count)
        parts: list[tuple[int, Scores]] = []
        if own:
            scores = score_examples(model, [self.held_out[index] for index in own])
            bounds = np.cumsum([len(self.held_out[index].prominence) for index in own])[:-1]
            columns = (np.split(array, bounds) for array in (scores.prominence, scores.boundary, scores.marks))
            parts = [(index, Scores(*part)) for index, part in zip(own, zip(*columns, strict=True), strict=True)]
        gathered = dict(gather_object(parts) if count > 1 else parts)
        return concatenate_scores([gathered[index] for index in range(len(self.held_out))])

    def _train_epoch(self, show: Callable[[str, str], None]) -> None:
        self.network.train()
        progress = self.progress
        plan = self.batches.plan(progress.epoch)
        began, texts = time.perf_counter(), 0
        saved = began
        while progress.step < len(plan):
            batch = plan[progress.step]
            progress.loss += self._step(batch) * len(batch)
            progress.texts += len(batch)
            progress.step += 1
            texts += len(batch)
            now = time.perf_counter()
            loss = progress.loss / progress.texts
            show(f"epoch {progress.epoch + 1}/{self.settings.epochs} loss {loss:.3f}", f"{texts / (now - began):.0f} texts/s")
            if now - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.perf_counter()

    def _step(self, texts: Sequence[range]) -> float:
        """Take one optimizer step on a batch and return its loss."""
        accelerator, settings = self.accelerator, self.settings
        completed = self._completed_steps()
        parts = self.batches.parts(texts, max(settings.parts, accelerator.num_processes), self.progress.epoch)
        counts = LabelCounts.of(parts)
        loss = torch.zeros(1, device=accelerator.device)
        for number in range(accelerator.process_index, len(parts), accelerator.num_processes):
            torch.manual_seed((settings.seed * 1_000_003 + completed) * 1_009 + number)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bfloat16):
                part = batch_loss(self.network, parts[number].to(accelerator.device), self.groups, counts, self.teacher)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        if accelerator.num_processes > 1:
            loss = self._sum_over_processes(loss)
        if not math.isfinite(float(loss)):
            raise BadInput(f"the loss became {float(loss)} at step {completed + 1}; start again with --lr below {settings.lr}")
        torch.nn.utils.clip_grad_norm_(self.trained.values(), GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_share(completed, sum(self.epoch_steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def _sum_over_processes(self, loss: torch.Tensor) -> torch.Tensor:
        """Sum gradients and loss over the processes in one message, and return the loss; missing gradients count as zeros."""
        weights = list(self.trained.values())
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([loss, *(grad.flatten() for grad in grads)])
        flat = torch.as_tensor(self.accelerator.reduce(flat, reduction="sum"))
        for weight, grad in zip(weights, torch.split(flat[1:], [weight.numel() for weight in weights]), strict=True):
            weight.grad = grad.view_as(weight).contiguous()
        return flat[:1]

    def _end_epoch(self) -> None:
        """Evaluate, add the epoch to the history, and keep its weights if it is the best or if there is no patience."""
        progress = self.progress
        scores = self.score_held_out()
        measures = measure(self.word_labels, Predictions.of(scores))
        known = {name: value for name, value in measures.items() if value is not None}
        loss = evaluation_loss(scores, self.labels)
        epoch = progress.epoch + 1
        progress.history.append({"epoch": epoch, "loss": progress.loss / progress.texts, "evaluation_loss": loss, **known})
        keeps_last = not self.settings.patience or not progress.best_epoch
        if keeps_last or loss < progress.history[progress.best_epoch - 1]["evaluation_loss"]:
            progress.best_epoch = epoch
            self.best = self._copy_weights()
        progress.epoch, progress.step, progress.loss, progress.texts = epoch, 0, 0.0, 0

    def _save(self) -> None:
        if self.checkpoint is not None and self.accelerator.is_main_process:
            state = {"weights": self._copy_weights(), "best": self.best, "optimizer": self.optimizer.state_dict()}
            self.checkpoint.save({**state, "progress": asdict(self.progress)})

    def _copy_weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().clone() for name, weight in self.trained.items()}

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(weights[name])

    def _completed_steps(self) -> int:
        return sum(self.epoch_steps[: self.progress.epoch]) + self.progress.step

    def _is_out_of_patience(self) -> bool:
        patience, progress = self.settings.patience, self.progress
        return patience > 0 and progress.best_epoch > 0 and progress.epoch - progress.best_epoch >= patience


def unwrap_gpt2(network: Any) -> Any:
    """Return the GPT-2 itself, whether it is bare or under an adapter."""
    return network.base_model.model if hasattr(network, "peft_config") else network


def learning_rate_share(step: int, steps: int) -> float:
    """Return the learning rate at a step as a share of its peak: linear warm-up, then a cosine down to `FINAL_RATE`."""
    warm_up = min(WARM_UP_STEPS, max(1, round(WARM_UP_SHARE * steps)))
    cosine = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min((step + 1) / warm_up, cosine)


def _epoch_summary(epoch: dict[str, Any]) -> str:
    names = {
        "loss": "loss",
        "evaluation_loss": "evaluation loss",
        "prominence_2way_accuracy": "2-way",
        "emph_ap": "prominence 2 AP",
        "sparse_emph_ap": "sparse AP",
        "pause_f1_nonfinal": "pause F1",
        "pause_ap_unpunctuated": "unpunctuated AP",
    }
    return f"epoch {epoch['epoch']}: " + ", ".join(f"{name} {epoch[key]:.4f}" for key, name in names.items() if key in epoch)
