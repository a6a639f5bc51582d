"""The training loop: steps, evaluations, checkpoints, and going on after an end that nobody planned."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prosody_tagger.errors import ProsodyError
from prosody_tagger.extras import install_command
from synth.errors import BackendUnavailable
from synth.higgs_finetune.balance import Balance
from synth.higgs_finetune.checkpoints import Checkpoints, State, check_course, read_state, restore, save_adapter
from synth.higgs_finetune.data_loader import Examples, Parts, Steps
from synth.higgs_finetune.loss import HiggsLoss, label_counts
from synth.higgs_finetune.metrics_log import Journal
from synth.higgs_finetune.settings import JOURNAL, FinetuneSettings, checkpoints

if TYPE_CHECKING:
    import torch

Figures = dict[str, Any]
Evaluate = Callable[[Any, int], Figures]
"""Scores the module that is trained after so many steps. Every process calls it and gets the same figures. Only the first needs
``samples``, those of rows that were spoken."""


class Watcher(Protocol):
    """Is told how a run goes; by the first process alone."""

    def started(self, step: int, steps: int) -> None: ...

    def stepped(self, step: int, figures: Figures) -> None: ...

    def evaluated(self, step: int, figures: Figures) -> None: ...

    def warned(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: steps done, of how many, and what the last evaluation found."""

    step: int
    steps: int
    held_out: Figures


def train(
    settings: FinetuneSettings,
    model: Any,
    examples: Examples,
    output: Path,
    *,
    watcher: Watcher,
    evaluate: Evaluate | None = None,
    save: Callable[[Path], None] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    accelerator: Any = None,
) -> Outcome:
    """Train the adapter of ``model``, which is a ``PeftModel`` on its device, on ``examples``.

    Args:
        output: the run's folder: its journal and its checkpoints.
        save: writes the adapter into a folder, for checkpoints; by default as PEFT does.
        resume: go on from the latest checkpoint there; from the start if there is none.
        accelerator: of accelerate; by default one that takes the processes that there are.

    Raises:
        BadInput: a run that cannot be gone on with.
        BackendUnavailable: the memory is full.
        ProsodyError: a gradient that is not finite, or a leak (see `evaluating`).
    """
    import torch

    run = _Run(settings, model, examples, output, watcher, accelerator or make_accelerator(model.device.type), evaluate)
    if save is not None:
        run.write_adapter = save
    run.begin(resume=resume, tensorboard=tensorboard)
    try:
        return run.go()
    except torch.cuda.OutOfMemoryError:
        raise BackendUnavailable(
            f"the memory of the GPU is full at step {run.step + 1}; lower --batch-size and raise --grad-accum by as much: "
            "the result is the same"
        ) from None
    finally:
        if run.journal is not None:
            run.journal.close()


def make_accelerator(device: str) -> Any:
    """accelerate's, for the processes that torchrun or ``accelerate launch`` started.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise BackendUnavailable(
            f"training needs accelerate ({error}); install the extra: {install_command('train-higgs')}"
        ) from None

    # The others wait while the first encodes recordings.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
    # Buffers are tables that nobody changes; sending them around would make evaluation wait for every process.
    wrapping = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[wrapping, patience])


def learning_rate(settings: FinetuneSettings, step: int, steps: int) -> float:
    """Of step ``step``, counted from 0, of ``steps``: a line up, half a cosine down."""
    rising = max(1, round(settings.warmup * steps))
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


class _Run:
    def __init__(
        self,
        settings: FinetuneSettings,
        model: Any,
        examples: Examples,
        output: Path,
        watcher: Watcher,
        accelerator: Any,
        evaluate: Evaluate | None,
    ) -> None:
        import torch

        self.settings, self.model, self.output = settings, model, output
        self.watcher, self.accelerator, self.evaluate = watcher, accelerator, evaluate
        native = model.get_base_model()
        self.device, self.codebooks = native.device, native.config.num_codebooks
        loss = HiggsLoss(
            model,
            text_weight=settings.text_loss_weight,
            audio_weight=settings.audio_loss_weight,
            half=native.dtype == torch.bfloat16,
            checkpointing=settings.gradient_checkpointing,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch is renaming what accelerate passes on
            self.module = accelerator.prepare_model(loss)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=self.device.type == "cuda"
        )
        self.data = Steps(
            examples,
            native.config,
            batch_size=settings.batch_size,
            parts=settings.grad_accum,
            seed=settings.seed,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            workers=settings.loader_workers,
            pin=self.device.type == "cuda",
        )
        self.steps = len(self.data) * settings.num_epochs
        self.until = min(self.steps, settings.max_steps or self.steps)
        self.checkpoints = Checkpoints(checkpoints(output), settings.keep_checkpoints)
        self.write_adapter: Callable[[Path], None] = partial(save_adapter, model)
        self.balance = Balance()
        self.step = 0
        self.held_out: Figures = {}
        self.journal: Journal | None = None

    @property
    def _course(self) -> dict[str, Any]:
        return {**self.settings.course(), "processes": self.accelerator.num_processes}

    def begin(self, *, resume: bool, tensorboard: bool) -> None:
        """Start anew, or go on from the latest checkpoint."""
        latest = self.checkpoints.to_go_on_from(resume=resume)
        if latest is not None:
            state = read_state(latest)
            check_course(state, self._course)
            self.data.place.load(state.place)
            self.balance = Balance(state.found)
            restore(latest, self.model, self.optimizer, rank=self.accelerator.process_index)
            self.step = state.step
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            board = self.output / "tensorboard" if tensorboard else None
            self.journal = Journal(self.output / JOURNAL, self.step, board)
            self.watcher.started(self.step, self.until)

    def go(self) -> Outcome:
        self.module.train()
        while self.step < self.until:
            for parts in self.data.rest_of_epoch():
                self._step(parts)
                if self.step >= self.until:
                    break
        if not self.held_out:
            self._evaluate()
        if self.checkpoints.latest() is None or self.step % self.settings.save_every:
            self._save()
        return Outcome(self.step, self.steps, self.held_out)

    def _step(self, parts: Parts) -> None:
        start = time.perf_counter()
        rate = learning_rate(self.settings, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, totals = self._gradients(parts)
        norm = self.accelerator.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self._check_finite(float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.data.place.done()
        self.step += 1
        figures = losses_of(sums, totals, self.settings)
        figures |= {"learning_rate": rate, "gradient_norm": float(norm), **self._speed(parts, time.perf_counter() - start)}
        self._tell_step(figures)
        at_end = self.data.place.step == 0 if not self.settings.eval_every else self.step % self.settings.eval_every == 0
        self.held_out = {}
        if at_end:
            self._evaluate()
        if self.step % self.settings.save_every == 0:
            self._save()

    def _gradients(self, parts: Parts) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Add up the gradients of a step; returns the sums of its losses and the counts of its labels, of all processes."""
        import torch

        text = self.settings.text_loss_weight > 0
        counts = torch.stack([label_counts(batch, self.codebooks, text=text) for batch in parts]).sum(0)
        totals = self.accelerator.reduce(counts.to(self.device), "sum")
        sums = torch.zeros_like(totals)
        for number, batch in enumerate(parts, 1):
            here = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            with self._together(number == len(parts)):
                losses = self.module(here, totals)
                # The wrapper averages over processes what is to be added up.
                (losses.loss * self.accelerator.num_processes).backward()
            sums += losses.sums
        return self.accelerator.reduce(sums, "sum"), totals

    def _together(self, is_last: bool) -> AbstractContextManager[Any]:
        """Processes tell each other their gradients once a step."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.module)

    def _check_finite(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise ProsodyError(
                f"the gradient of step {self.step + 1} is not finite; lower --learning-rate, in another --output-dir"
            )

    def _speed(self, parts: Parts, seconds: float) -> Figures:
        import torch

        tokens = sum(int(batch["attention_mask"].sum()) for batch in parts) * self.accelerator.num_processes
        figures: Figures = {"seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds, 1)}
        if self.device.type == "cuda":
            figures["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)
        return figures

    def _tell_step(self, figures: Figures) -> None:
        warning = self.balance.add(figures)
        if self.journal is None:
            return
        self.journal.write("train", self.step, figures)
        self.watcher.stepped(self.step, figures)
        if warning:
            self.watcher.warned(f"step {self.step}: {warning}")

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.module.eval()
        self.held_out = self.evaluate(self.module, self.step)
        self.module.train()
        samples = self.held_out.pop("samples", [])
        if self.journal is not None:
            self.journal.write("held_out", self.step, self.held_out)
            for sample in samples:
                self.journal.write("sample", self.step, sample)
            self.watcher.evaluated(self.step, self.held_out)

    def _save(self) -> None:
        state = State(self.step, self.data.place.state(), self._course, self.balance.state())
        accelerator = self.accelerator
        self.checkpoints.save(
            state, self.write_adapter, self.optimizer, rank=accelerator.process_index, wait=accelerator.wait_for_everyone
        )


def losses_of(sums: "torch.Tensor", counts: "torch.Tensor", settings: FinetuneSettings) -> Figures:
    """Mean losses in nats by name, of `HiggsLoss`'s sums and counts. What has no label is left out."""
    text, *books = [None if count == 0 else total / count for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
    figures: Figures = {}
    loss = 0.0
    if text is not None:
        figures["text"] = text
        loss += settings.text_loss_weight * text
    if any(book is not None for book in books):
        figures["audio"] = sum(book for book in books if book is not None) / len(books)
        figures["codebooks"] = [0.0 if book is None else book for book in books]
        loss += settings.audio_loss_weight * figures["audio"]
    if "text" in figures and "audio" in figures:
        figures["text_to_audio"] = figures["text"] / max(figures["audio"], 1e-9)
    return {"loss": loss, **figures}
