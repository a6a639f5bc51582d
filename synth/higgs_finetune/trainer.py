"""Training loop: optimizer steps, evaluations, checkpoints, and resuming after an interruption."""

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
from synth.higgs_finetune.checkpoints import CheckpointStore, RunState, check_resume_key, read_state, restore, save_adapter
from synth.higgs_finetune.data_loader import ExampleDataset, MicroBatches, StepLoader
from synth.higgs_finetune.loss import HiggsLoss, label_counts
from synth.higgs_finetune.metrics_log import LossMonitor, MetricsLog
from synth.higgs_finetune.settings import METRICS_FILE, FinetuneSettings, checkpoints_folder

if TYPE_CHECKING:
    import torch

StepMetrics = dict[str, Any]
"""Metrics of a step or an evaluation, by the names of the metrics log."""

Evaluate = Callable[[Any, int], StepMetrics]
"""Evaluates the trained module after a number of steps. Every process calls it and must get the same metrics. Only the result of
the first process needs ``samples``: the metrics of generated samples."""


class TrainingObserver(Protocol):
    """Callbacks of a run. Only the first process calls them."""

    def on_start(self, step: int, steps: int) -> None:
        """Training starts, with ``step`` of ``steps`` steps done."""

    def on_step(self, step: int, metrics: StepMetrics) -> None:
        """Step number ``step`` is done."""

    def on_evaluation(self, step: int, metrics: StepMetrics) -> None:
        """The evaluation after ``step`` steps is done."""

    def on_warning(self, text: str) -> None:
        """The run continues, and the user should know ``text``."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a run: steps that are done, steps of the full schedule, and the metrics of the last evaluation."""

    step: int
    steps: int
    held_out: StepMetrics


def train(
    settings: FinetuneSettings,
    model: Any,
    examples: ExampleDataset,
    output: Path,
    *,
    observer: TrainingObserver,
    evaluate: Evaluate | None = None,
    save: Callable[[Path], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    accelerator: Any = None,
) -> TrainingResult:
    """Train the adapter of ``model``, a ``PeftModel`` on its device.

    Args:
        settings: hyperparameters.
        model: the model with its adapter.
        examples: the training data.
        output: folder for the metrics log and the checkpoints.
        observer: callbacks.
        evaluate: computes held-out metrics; None does not evaluate.
        save: writes the adapter of a checkpoint into a folder; by default in PEFT's format.
        resume: continue from the latest checkpoint in ``output``, or start if there is none.
        overwrite: delete any checkpoints in ``output`` and start.
        tensorboard: write TensorBoard's files too.
        accelerator: ``accelerate.Accelerator``; by default one for the processes that were launched.

    Raises:
        BadInput: the run cannot be resumed, or ``output`` holds a run that is neither to be resumed nor overwritten.
        BackendUnavailable: the GPU is out of memory, or accelerate or TensorBoard is not installed.
        ProsodyError: a gradient is not finite, or the labels leak (see `synth.higgs_finetune.evaluation`).
    """
    import torch

    trainer = _Trainer(settings, model, examples, output, observer, accelerator or make_accelerator(model.device.type), evaluate)
    if save is not None:
        trainer.write_adapter = save
    trainer.start(resume=resume, overwrite=overwrite, tensorboard=tensorboard)
    try:
        return trainer.run()
    except torch.cuda.OutOfMemoryError:
        raise BackendUnavailable(
            f"the GPU is out of memory at step {trainer.step + 1}; "
            "divide --batch-size and multiply --grad-accum by the same number, which gives the same result"
        ) from None
    finally:
        if trainer.log is not None:
            trainer.log.close()


def make_accelerator(device: str) -> Any:
    """Return an ``Accelerator`` for the processes that torchrun or ``accelerate launch`` started.

    Raises:
        BackendUnavailable: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise BackendUnavailable(
            f"training needs accelerate ({error}); install the extra: {install_command('train-higgs')}"
        ) from None

    # The other processes wait while the first one encodes all recordings, which can take hours.
    process_group = InitProcessGroupKwargs(timeout=timedelta(days=2))
    # Buffers are constant tables. Broadcasting them would make each forward pass of an evaluation wait for all processes.
    data_parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[data_parallel, process_group])


def learning_rate(settings: FinetuneSettings, step: int, steps: int) -> float:
    """Return the learning rate of step ``step``, from 0, of ``steps``: linear warm-up, then half a cosine."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class _Trainer:
    """State of a run while it trains."""

    def __init__(
        self,
        settings: FinetuneSettings,
        model: Any,
        examples: ExampleDataset,
        output: Path,
        observer: TrainingObserver,
        accelerator: Any,
        evaluate: Evaluate | None,
    ) -> None:
        import torch

        self.settings, self.model, self.output = settings, model, output
        self.observer, self.accelerator, self.evaluate = observer, accelerator, evaluate
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
            warnings.simplefilter("ignore", FutureWarning)  # accelerate passes torch an argument that torch is renaming
            self.module = accelerator.prepare_model(loss)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=self.device.type == "cuda"
        )
        self.data = StepLoader(
            examples,
            native.config,
            batch_size=settings.batch_size,
            micro_batches=settings.grad_accum,
            seed=settings.seed,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            workers=settings.loader_workers,
            pin=self.device.type == "cuda",
        )
        self.steps = len(self.data) * settings.num_epochs
        self.last_step = min(self.steps, settings.max_steps or self.steps)
        self.checkpoints = CheckpointStore(checkpoints_folder(output), settings.keep_checkpoints)
        self.write_adapter: Callable[[Path], None] = partial(save_adapter, model)
        self.monitor = LossMonitor()
        self.step = 0
        self.held_out: StepMetrics = {}
        self.log: MetricsLog | None = None

    @property
    def _resume_key(self) -> dict[str, Any]:
        return {**self.settings.resume_key(), "processes": self.accelerator.num_processes}

    def start(self, *, resume: bool, overwrite: bool, tensorboard: bool) -> None:
        """Restore the latest checkpoint if the run resumes, and open the metrics log."""
        latest = self.checkpoints.find_start(resume=resume, overwrite=overwrite)
        if latest is not None:
            state = read_state(latest)
            check_resume_key(state, self._resume_key)
            self.data.sampler.load_state(state.data_position)
            self.monitor = LossMonitor(state.loss_monitor)
            restore(latest, self.model, self.optimizer, rank=self.accelerator.process_index)
            self.step = state.step
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if overwrite:
                self.checkpoints.clear()
            tensorboard_folder = self.output / "tensorboard" if tensorboard else None
            self.log = MetricsLog(self.output / METRICS_FILE, self.step, tensorboard_folder)
            self.observer.on_start(self.step, self.last_step)

    def run(self) -> TrainingResult:
        """Train to the last step; evaluate and save at the end if that step did not."""
        self.module.train()
        while self.step < self.last_step:
            for batches in self.data.remaining_steps():
                self._train_step(batches)
                if self.step >= self.last_step:
                    break
        if not self.held_out:
            self._evaluate()
        if self.checkpoints.latest() is None or self.step % self.settings.save_every:
            self._save()
        return TrainingResult(self.step, self.steps, self.held_out)

    def _train_step(self, batches: MicroBatches) -> None:
        start = time.perf_counter()
        rate = learning_rate(self.settings, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, counts = self._accumulate_gradients(batches)
        norm = self.accelerator.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self._check_finite(float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.data.sampler.advance()
        self.step += 1
        metrics = mean_losses(sums, counts, self.settings)
        metrics |= {"learning_rate": rate, "gradient_norm": float(norm)}
        metrics |= self._speed(batches, time.perf_counter() - start)
        self._report_step(metrics)
        eval_every = self.settings.eval_every
        is_due = self.step % eval_every == 0 if eval_every else self.data.sampler.step == 0
        self.held_out = {}
        if is_due:
            self._evaluate()
        if self.step % self.settings.save_every == 0:
            self._save()

    def _accumulate_gradients(self, batches: MicroBatches) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Compute the gradient of a step. Return sums and counts as in `BatchLoss`, added up over all processes."""
        import torch

        text = self.settings.text_loss_weight > 0
        counts = torch.stack([label_counts(batch, self.codebooks, text=text) for batch in batches]).sum(0)
        totals = self.accelerator.reduce(counts.to(self.device), "sum")
        sums = torch.zeros_like(totals)
        for number, batch in enumerate(batches, 1):
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            with self._gradient_sync(is_last=number == len(batches)):
                losses = self.module(on_device, totals)
                # DDP averages gradients over processes; multiply by their number to get the sum.
                (losses.loss * self.accelerator.num_processes).backward()
            sums += losses.sums
        return self.accelerator.reduce(sums, "sum"), totals

    def _gradient_sync(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes exchange gradients only for the last micro-batch of a step."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.module)

    def _check_finite(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise ProsodyError(
                f"the gradient of step {self.step + 1} is not finite; start a new run with a lower --learning-rate in another "
                "--output-dir"
            )

    def _speed(self, batches: MicroBatches, seconds: float) -> StepMetrics:
        import torch

        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) * self.accelerator.num_processes
        metrics: StepMetrics = {"seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds, 1)}
        if self.device.type == "cuda":
            metrics["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)
        return metrics

    def _report_step(self, metrics: StepMetrics) -> None:
        warning = self.monitor.add(metrics)
        if self.log is None:
            return
        self.log.write("train", self.step, metrics)
        self.observer.on_step(self.step, metrics)
        if warning:
            self.observer.on_warning(f"step {self.step}: {warning}")

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.module.eval()
        self.held_out = self.evaluate(self.module, self.step)
        self.module.train()
        samples = self.held_out.pop("samples", [])
        if self.log is not None:
            self.log.write("held_out", self.step, self.held_out)
            for sample in samples:
                self.log.write("sample", self.step, sample)
            self.observer.on_evaluation(self.step, self.held_out)

    def _save(self) -> None:
        state = RunState(self.step, self.data.sampler.state(), self._resume_key, self.monitor.state())
        accelerator = self.accelerator
        self.checkpoints.save(
            state, self.write_adapter, self.optimizer, rank=accelerator.process_index, wait=accelerator.wait_for_everyone
        )


def mean_losses(sums: "torch.Tensor", counts: "torch.Tensor", settings: FinetuneSettings) -> StepMetrics:
    """Return mean losses in nats by the names of the metrics log. Losses without labels are left out.

    Args:
        sums, counts: float32 [1 + codebooks], as in `BatchLoss`.
        settings: settings of the run, for the weights of the losses.
    """
    text, *books = [None if count == 0 else total / count for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
    metrics: StepMetrics = {}
    loss = 0.0
    if text is not None:
        metrics["text"] = text
        loss += settings.text_loss_weight * text
    if any(book is not None for book in books):
        metrics["audio"] = sum(book for book in books if book is not None) / len(books)
        metrics["codebooks"] = [0.0 if book is None else book for book in books]
        loss += settings.audio_loss_weight * metrics["audio"]
    if "text" in metrics and "audio" in metrics:
        metrics["text_to_audio"] = metrics["text"] / max(metrics["audio"], 1e-9)
    return {"loss": loss, **metrics}
