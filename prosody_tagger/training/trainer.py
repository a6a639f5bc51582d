"""The training loop of the tagger: the loss at the slots, an evaluation each epoch, and the best epoch kept.

Each batch is cut in the same parts whoever computes them, each part draws its dropout from a seed of its own, and gradients are
added over the processes. So one process and several train the same model, up to the order of additions, and a run that is cut off
and goes on trains the same model bit for bit on a CPU.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from prosody_tagger.corpus.examples import UNKNOWN, Example
from prosody_tagger.errors import BadInput
from prosody_tagger.evaluation import metrics as evaluate
from prosody_tagger.evaluation.metrics import Guess, Truth
from prosody_tagger.model import Scores, TaggerModel, read
from prosody_tagger.training.batches import Batch, Batches, label_groups, labels_of
from prosody_tagger.training.checkpoint import Checkpoint, Progress

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tokenizers import Tokenizer

    from prosody_tagger.training.distillation import Teacher

CHECKPOINT_SECONDS = 60.0
WARM_UP_STEPS = 60
WARM_UP_SHARE = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to train.

    Attributes:
        batch_size, batch_tokens: texts and padded tokens in a batch at most, over all processes.
        swap_rare: whether rare words are swapped for tokens never seen.
        patience: epochs without a lower evaluation loss before training ends; 0 trains all epochs and keeps the last.
        bfloat16: whether the network computes in it; weights and gradients stay in 32 bit.
        parts: a batch is computed in so many parts, or in as many as there are processes if those are more.
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


def loss_of(
    network: Any, batch: Batch, groups: Sequence[Sequence[int]], counts: "Counts", teacher: "Teacher | None" = None
) -> torch.Tensor:
    """Cross-entropy over each group of labels at the words of the copy, and what a teacher adds, if there is one.

    ``counts`` are those of the whole batch, of which this may be a part.
    """
    core = core_of(network)
    hidden = read(core.transformer, batch.inputs, batch.positions)
    at_words = hidden[batch.rows, batch.columns]
    # The tied rows, taken through the embedding so that an adapter over it counts; the other 50,000 logits are never computed.
    ids = torch.tensor([i for group in groups for i in group], device=hidden.device)
    logits = functional.linear(at_words, core.get_input_embeddings()(ids).to(at_words.dtype)).float()
    parts = torch.split(logits, [len(group) for group in groups], 1)
    total = logits.new_zeros(())
    for column, count in enumerate(counts.labels):
        if count:
            labels = batch.labels[:, column]
            total = total + functional.cross_entropy(parts[column], labels, ignore_index=UNKNOWN, reduction="sum") / count
    if teacher is not None:
        from prosody_tagger.training.teaching import teaching_loss

        total = total + teaching_loss(hidden, parts, batch.texts, counts.words, counts.tokens, teacher)
    return total


@dataclass(frozen=True, slots=True)
class Counts:
    """How many words of a batch have a label of each group, and how many words and tokens its texts have."""

    labels: list[int]
    words: int
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[Batch]) -> "Counts":
        labels = torch.cat([part.labels for part in parts])
        tokens = sum(len(text.ids) for part in parts for text in part.texts)
        return cls((labels != UNKNOWN).sum(0).tolist(), len(labels), tokens)


def evaluation_loss(scores: Scores, labels: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """The loss of scores, as `loss_of` has it, in 64 bit; ``labels`` are [n, groups]."""
    shares = [
        scores.prominence,
        np.column_stack([1 - scores.boundary, scores.boundary]),
        *(np.column_stack([1 - mark, mark]) for mark in scores.marks.T),
    ]
    total = 0.0
    for column, share in enumerate(shares):
        known = labels[:, column] != UNKNOWN
        if known.any():
            right = share.astype(np.float64)[known, labels[known, column]]
            total -= float(np.log(np.maximum(right, 1e-9)).mean())
    return total


class Fit:
    """A training run: a network, its data, and how far it is."""

    def __init__(
        self,
        network: Any,
        tokenizer: "Tokenizer",
        train: Sequence[Example],
        held_out: Sequence[Example],
        settings: FitSettings,
        accelerator: "Accelerator",
        checkpoint: Checkpoint | None = None,
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
        self.truth = Truth.of(self.held_out)
        # What training data say nothing of is not held against the model.
        self.labels = np.concatenate(labels_of(self.held_out))
        self.labels[:, (np.concatenate(labels_of(train)) == UNKNOWN).all(0)] = UNKNOWN
        self.batches = Batches(
            tokenizer,
            train,
            max_tokens=(core_of(network).config.n_positions - 1) // 2,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            swap_rare=settings.swap_rare,
            seed=settings.seed,
        )
        self.trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
        self.epoch_steps = [len(self.batches.plan(epoch)) for epoch in range(settings.epochs)]
        self.progress = Progress()
        self.best: dict[str, torch.Tensor] = {}

    def run(self) -> Progress:
        """Train to the end, or to where it gets no better, and leave the network with the weights of its best epoch."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Bar(*columns, *times, console=Console(stderr=True), disable=not self.accelerator.is_main_process) as bar:
            task = bar.add_task("training", total=sum(self.epoch_steps), rate="")
            bar.update(task, completed=self._steps_done())

            def show(description: str, rate: str) -> None:
                bar.update(task, completed=self._steps_done(), description=description, rate=rate)

            while self.progress.epoch < self.settings.epochs and not self._is_out_of_patience():
                self._train_epoch(show)
                self._end_epoch()
                self._save()
                if self.accelerator.is_main_process:
                    bar.console.print(_line(self.progress.history[-1]), markup=False, highlight=False, soft_wrap=True)
        self._put(self.best)
        self.network.eval()
        return self.progress

    def resume(self) -> bool:
        """Go on from the checkpoint; False if there is none.

        Raises:
            BadInput: the checkpoint is broken or of another run.
        """
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return False
        self._put(state["weights"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        return True

    def scores(self) -> Scores:
        """The network's scores of the words held out, shared out among the processes."""
        from accelerate.utils import gather_object

        self.network.eval()
        model = TaggerModel(core_of(self.network), self.tokenizer)
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        own = range(rank, len(self.held_out), count)
        parts: list[tuple[int, Scores]] = []
        if own:
            scored = evaluate.score_examples(model, [self.held_out[index] for index in own])
            bounds = np.cumsum([len(self.held_out[index].prominence) for index in own])[:-1]
            columns = (np.split(array, bounds) for array in (scored.prominence, scored.boundary, scored.marks))
            parts = [(index, Scores(*part)) for index, part in zip(own, zip(*columns, strict=True), strict=True)]
        found = dict(gather_object(parts) if count > 1 else parts)
        ordered = [found[index] for index in range(len(self.held_out))]
        return Scores(*(np.concatenate([getattr(part, name) for part in ordered]) for name in ("prominence", "boundary", "marks")))

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
        """One step of the optimizer; returns the loss."""
        accelerator, settings = self.accelerator, self.settings
        done = self._steps_done()
        parts = self.batches.parts(texts, max(settings.parts, accelerator.num_processes), self.progress.epoch)
        counts = Counts.of(parts)
        loss = torch.zeros(1, device=accelerator.device)
        for number in range(accelerator.process_index, len(parts), accelerator.num_processes):
            torch.manual_seed((settings.seed * 1_000_003 + done) * 1_009 + number)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bfloat16):
                part = loss_of(self.network, parts[number].to(accelerator.device), self.groups, counts, self.teacher)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        if accelerator.num_processes > 1:
            loss = self._add_up(loss)
        if not math.isfinite(float(loss)):
            raise BadInput(f"the loss became {float(loss)} at step {done + 1}; train anew with a lower --lr than {settings.lr}")
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * schedule(done, sum(self.epoch_steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def _add_up(self, loss: torch.Tensor) -> torch.Tensor:
        """Gradients and loss added over the processes, as one message; a process without a part gives zeros."""
        weights = list(self.trained.values())
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([loss, *(grad.flatten() for grad in grads)])
        flat = torch.as_tensor(self.accelerator.reduce(flat, reduction="sum"))
        for weight, grad in zip(weights, torch.split(flat[1:], [weight.numel() for weight in weights]), strict=True):
            weight.grad = grad.view_as(weight).contiguous()
        return flat[:1]

    def _end_epoch(self) -> None:
        progress = self.progress
        scores = self.scores()
        found = {name: value for name, value in evaluate.figures(self.truth, Guess.of(scores)).items() if value is not None}
        loss = evaluation_loss(scores, self.labels)
        epoch = progress.epoch + 1
        progress.history.append({"epoch": epoch, "loss": progress.loss / progress.texts, "evaluation_loss": loss, **found})
        never_looks_back = not self.settings.patience or not progress.best_epoch
        if never_looks_back or loss < progress.history[progress.best_epoch - 1]["evaluation_loss"]:
            progress.best_epoch = epoch
            self.best = self._weights()
        progress.epoch, progress.step, progress.loss, progress.texts = epoch, 0, 0.0, 0

    def _save(self) -> None:
        if self.checkpoint is not None and self.accelerator.is_main_process:
            state = {"weights": self._weights(), "best": self.best, "optimizer": self.optimizer.state_dict()}
            self.checkpoint.save({**state, "progress": asdict(self.progress)})

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().clone() for name, weight in self.trained.items()}

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(weights[name])

    def _steps_done(self) -> int:
        return sum(self.epoch_steps[: self.progress.epoch]) + self.progress.step

    def _is_out_of_patience(self) -> bool:
        patience, progress = self.settings.patience, self.progress
        return patience > 0 and progress.best_epoch > 0 and progress.epoch - progress.best_epoch >= patience


def core_of(network: Any) -> Any:
    """The GPT-2 itself, under an adapter or bare."""
    return network.base_model.model if hasattr(network, "peft_config") else network


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a linear warm-up, then a cosine down to 2 %."""
    warm_up = min(WARM_UP_STEPS, max(1, round(WARM_UP_SHARE * steps)))
    return min((step + 1) / warm_up, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _line(epoch: dict[str, Any]) -> str:
    named = {"loss": "loss", "evaluation_loss": "evaluation loss", "prominence_2way_accuracy": "2-way", "emph_ap": "class 2 AP"}
    named |= {"sparse_emph_ap": "sparse AP", "pause_f1_nonfinal": "pause F1", "pause_ap_unpunctuated": "unpunctuated AP"}
    return f"epoch {epoch['epoch']}: " + ", ".join(f"{name} {epoch[key]:.4f}" for key, name in named.items() if key in epoch)
