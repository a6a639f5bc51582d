"""Cost of training: `train-higgs` compared with a baseline, transformers' Trainer on the model's own loss, in one run.

Both train the same LoRA adapter on the same rows in batches of the same size, each in a process of its own. On a GPU the model has
the real shape (bfloat16, random weights). On a CPU it has four layers of a sixteenth of the real width and the real vocabulary.
Nothing is downloaded. Memory is the peak during training minus the memory before it; on a CPU it is that of the process.
Utilisation is the rate of the operations that training needs, without recomputed ones, as a share of the device's measured speed in
a matrix product of the same shape.

python benchmarks/higgs_train.py [--tokens 2048] [--batches 1 4] [--steps 4] [--checkpointing] [--audio-only] [--small] [--json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "synth" / "higgs_finetune"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before tests/, which has a folder named synth too
from higgs_finetune_examples import Recorder, speech
from tiny_higgs import tiny_tokenizer

from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.examples import TrainingExample, collate
from synth.higgs_finetune.resource_estimate import estimate_resources, matmul_speed, weights_per_token
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, disable_input_cast
from synth.higgs_finetune.trainer import train

METHODS = ("plain", "ours")
TEXT_TOKENS = 60
WARMUP_STEPS = 1  # steps that are not measured
VOCABULARY = 128_256
SMALL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Measurement:
    """Cost of training by one method in batches of ``batch`` rows.

    Attributes:
        way: plain is the baseline, ours is `train-higgs`.
        batch: rows in a batch.
        memory_gb: peak memory minus the memory before the first step.
        estimated_gb: the same according to `estimate_resources`; None for the baseline.
        rows_per_second, tokens_per_second: speed of training.
        utilisation: share of the device's speed that goes into operations that training needs.
    """

    way: str
    batch: int
    memory_gb: float
    estimated_gb: float | None
    rows_per_second: float
    tokens_per_second: float
    utilisation: float


def main() -> None:
    options = _options()
    if options.way:
        sys.stdout.write(json.dumps(asdict(measure(options.way, options.batches[0], options))) + "\n")
        return
    measurements = [Measurement(**_in_process(way, batch)) for batch in options.batches for way in METHODS]
    if options.json:
        sys.stdout.write(
            json.dumps({**conditions(options), "figures": [asdict(measurement) for measurement in measurements]}, indent=1) + "\n"
        )
    else:
        print_table(conditions(options), measurements)


def measure(way: str, batch: int, options: argparse.Namespace) -> Measurement:
    on_gpu = torch.cuda.is_available() and not options.small
    if not on_gpu:
        torch.set_num_threads(1)
    model = add_default_adapter(make_model("cuda" if on_gpu else "cpu", text_head=not options.audio_only))
    native = model.get_base_model()
    rows = make_rows(batch * (options.steps + WARMUP_STEPS), options.tokens, native.config)
    settings = FinetuneSettings(
        batch_size=batch,
        grad_accum=1,
        num_epochs=1,
        gradient_checkpointing=options.checkpointing,
        save_every=10**6,
        text_loss_weight=0.0 if options.audio_only else 0.1,
    )
    estimate = estimate_resources(model, ExampleDataset(rows), settings) if way == "ours" else None
    speed = matmul_speed(native)
    memory = PeakMemory(native.device)
    seconds = (train_ours if way == "ours" else train_plain)(model, rows, settings)
    tokens = sum(len(row) for row in rows[: batch * options.steps])
    needed = 2 * 2 * weights_per_token(native) * tokens  # forward and backward; the frozen weights get no gradient
    return Measurement(
        way,
        batch,
        memory.peak() / 1e9,
        None if estimate is None else (estimate.activations + 0.75 * estimate.trained) / 1e9,  # the adapter is there before
        batch * options.steps / seconds,
        tokens / seconds,
        needed / seconds / speed,
    )


def train_ours(model: Any, rows: Sequence[TrainingExample], settings: FinetuneSettings) -> float:
    """Train with `train-higgs`; return the seconds of all steps but the first."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        train(settings, model, ExampleDataset(rows), Path(folder), observer=clock, save=lambda folder: None)
    return clock.seconds


class StepClock(Recorder):
    """Measures the time from the end of the warm-up to the end of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[WARMUP_STEPS - 1]


def train_plain(model: Any, rows: Sequence[TrainingExample], settings: FinetuneSettings) -> float:
    """Train with transformers' Trainer in its default form; return the seconds of all steps but the first."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = StepClock()

    class ClockCallback(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.on_step(0, {})

    config = model.get_base_model().config
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            bf16=model.get_base_model().dtype == torch.bfloat16,
            gradient_checkpointing=settings.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
            max_grad_norm=settings.max_grad_norm,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=model.device.type == "cpu",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda examples: collate(examples, config),
            callbacks=[ClockCallback()],
        )
        trainer.train()
    return clock.seconds


class PeakMemory:
    """Measures the peak of memory from now on, minus the memory that is used now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the process's peak
            self._before = _status("VmRSS")

    def peak(self) -> int:
        now = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _status("VmHWM")
        return now - self._before


def make_model(device: str, *, text_head: bool) -> Any:
    """Return a model with random weights: of the real shape on a GPU, small on a CPU."""
    from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

    torch.manual_seed(0)
    shape = {} if device == "cuda" else SMALL | {"head_dim": 32}
    config = HiggsAudioV2Config(vocab_size=VOCABULARY, codebook_size=1026, **shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return HiggsAudioV2ForConditionalGeneration(config, use_text_head=text_head)
    finally:
        torch.set_default_dtype(before)


def add_default_adapter(model: Any) -> Any:
    """Return the model with the default adapter of `train-higgs`, without marks."""
    settings = FinetuneSettings()
    wrapped = add_adapter(
        model.requires_grad_(False), settings.targets, r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout
    )
    if model.dtype == torch.bfloat16:
        disable_input_cast(wrapped)
    return wrapped


def make_rows(count: int, tokens: int, config: Any) -> list[TrainingExample]:
    """Return examples of random text and speech, each ``tokens`` long."""
    generator = torch.Generator().manual_seed(0)
    frames = tokens - TEXT_TOKENS - 2 - 1 - config.num_codebooks
    text_tokens = len(tiny_tokenizer())
    return [
        speech(
            torch.randint(text_tokens, (TEXT_TOKENS,), generator=generator).tolist(),
            torch.randint(1024, (frames, config.num_codebooks), generator=generator),
            config,
        )
        for _ in range(count)
    ]


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the measurements depend on."""
    on_gpu = torch.cuda.is_available() and not options.small
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU, 1 thread",
        "model": "real shape, random weights" if on_gpu else f"small: {SMALL}",
        "tokens a row": options.tokens,
        "checkpointing": options.checkpointing,
        "text scored": not options.audio_only,
        "torch": torch.__version__,
    }


def print_table(described: dict[str, Any], measurements: list[Measurement]) -> None:
    console = Console()
    console.print(", ".join(f"{name}: {value}" for name, value in described.items()), highlight=False)
    table = Table("way", "batch", "memory GB", "estimated GB", "rows/s", "tokens/s", "utilisation")
    for row in measurements:
        table.add_row(
            row.way,
            str(row.batch),
            f"{row.memory_gb:.3f}",
            "" if row.estimated_gb is None else f"{row.estimated_gb:.3f}",
            f"{row.rows_per_second:.3f}",
            f"{row.tokens_per_second:.0f}",
            f"{row.utilisation:.0%}",
        )
    console.print(table)
    for plain, ours in zip(measurements[::2], measurements[1::2], strict=True):
        console.print(
            f"batch {plain.batch}: ours takes {ours.memory_gb / plain.memory_gb:.0%} of the memory and is "
            f"{ours.rows_per_second / plain.rows_per_second:.2f} times as fast",
            highlight=False,
        )


def _in_process(way: str, batch: int) -> dict[str, Any]:
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--batches", str(batch), "--way", way], stdout=subprocess.PIPE, check=True
    )
    measurement: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measurement


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--audio-only", action="store_true", help="train both without the text head and its loss")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
