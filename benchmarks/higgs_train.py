"""What training costs: `train-higgs` against the plain way, transformers' Trainer on the model's own loss, in one run.

Both train the same LoRA adapter on the same rows in batches of the same size, each way in a process of its own. On a GPU the model
has the real shape (bfloat16, random weights), elsewhere four layers of a sixteenth of its width with the real vocabulary; nothing
is downloaded. Memory is the most that was held beyond what stood before the first step; on a processor that of the process.
Utilisation counts the products that training needs without those that are computed again, as a share of what the device reached in
a product of the same shape.

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "synth"))
from higgs_finetune_examples import Quiet, speech
from tiny_higgs import tiny_tokenizer

from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.examples import Example, collate
from synth.higgs_finetune.resource_estimate import estimate, products_a_second, weights_a_token
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, compute_in_half
from synth.higgs_finetune.trainer import train

WAYS = ("plain", "ours")
TEXT_TOKENS = 60
LEAD = 1  # steps that are not counted
VOCABULARY = 128_256
SMALL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Figure:
    """One way to train in batches of ``batch`` rows.

    Attributes:
        memory_gb: at most, beyond what stood before the first step.
        said_gb: the same as `need.estimate` said it; for ours alone.
        rows_per_second, tokens_per_second: trained on.
        utilisation: share of the device's speed that went into what training needs.
    """

    way: str
    batch: int
    memory_gb: float
    said_gb: float | None
    rows_per_second: float
    tokens_per_second: float
    utilisation: float


def main() -> None:
    options = _options()
    if options.way:
        sys.stdout.write(json.dumps(asdict(figure_of(options.way, options.batches[0], options))) + "\n")
        return
    figures = [Figure(**_in_process(way, batch)) for batch in options.batches for way in WAYS]
    if options.json:
        sys.stdout.write(json.dumps({**about(options), "figures": [asdict(figure) for figure in figures]}, indent=1) + "\n")
    else:
        show(about(options), figures)


def figure_of(way: str, batch: int, options: argparse.Namespace) -> Figure:
    on_gpu = torch.cuda.is_available() and not options.small
    if not on_gpu:
        torch.set_num_threads(1)
    model = adapted(make_model("cuda" if on_gpu else "cpu", text_head=not options.audio_only))
    native = model.get_base_model()
    rows = make_rows(batch * (options.steps + LEAD), options.tokens, native.config)
    settings = FinetuneSettings(
        batch_size=batch,
        grad_accum=1,
        num_epochs=1,
        gradient_checkpointing=options.checkpointing,
        save_every=10**6,
        text_loss_weight=0.0 if options.audio_only else 0.1,
    )
    said = estimate(model, Examples(rows), settings) if way == "ours" else None
    speed = products_a_second(native)
    memory = Memory(native.device)
    seconds = (ours if way == "ours" else plain)(model, rows, settings)
    tokens = sum(len(row) for row in rows[: batch * options.steps])
    needed = 2 * 2 * weights_a_token(native) * tokens  # forward, and the gradient of what goes in; the base's weights get none
    return Figure(
        way,
        batch,
        memory.most() / 1e9,
        None if said is None else (said.kept + 0.75 * said.trained) / 1e9,  # the adapter itself stood before
        batch * options.steps / seconds,
        tokens / seconds,
        needed / seconds / speed,
    )


def ours(model: Any, rows: Sequence[Example], settings: FinetuneSettings) -> float:
    """Seconds of all steps but the first."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(settings, model, Examples(rows), Path(folder), watcher=clock, save=lambda folder: None)
    return clock.seconds


class Clock(Quiet):
    """Takes the time from the end of one step to that of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def stepped(self, step: int, figures: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[LEAD - 1]


def plain(model: Any, rows: Sequence[Example], settings: FinetuneSettings) -> float:
    """The same by transformers' Trainer, as it is."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = Clock()

    class Ticking(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.stepped(0, {})

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
            callbacks=[Ticking()],
        )
        trainer.train()
    return clock.seconds


class Memory:
    """The most memory that is held, beyond what is held now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the process's peak begins anew
            self._before = _status("VmRSS")

    def most(self) -> int:
        now = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _status("VmHWM")
        return now - self._before


def make_model(device: str, *, text_head: bool) -> Any:
    """Random weights: of the real shape on a GPU."""
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


def adapted(model: Any) -> Any:
    """With the adapter that `train-higgs` makes by default, without marks."""
    settings = FinetuneSettings()
    wrapped = add_adapter(
        model.requires_grad_(False), settings.targets, r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout
    )
    if model.dtype == torch.bfloat16:
        compute_in_half(wrapped)
    return wrapped


def make_rows(count: int, tokens: int, config: Any) -> list[Example]:
    """Rows of text and speech, ``tokens`` long each."""
    chance = torch.Generator().manual_seed(0)
    frames = tokens - TEXT_TOKENS - 2 - 1 - config.num_codebooks
    known = len(tiny_tokenizer())
    return [
        speech(
            torch.randint(known, (TEXT_TOKENS,), generator=chance).tolist(),
            torch.randint(1024, (frames, config.num_codebooks), generator=chance),
            config,
        )
        for _ in range(count)
    ]


def about(options: argparse.Namespace) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available() and not options.small
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "processor, 1 thread",
        "model": "real shape, random weights" if on_gpu else f"small: {SMALL}",
        "tokens a row": options.tokens,
        "checkpointing": options.checkpointing,
        "text scored": not options.audio_only,
        "torch": torch.__version__,
    }


def show(told: dict[str, Any], figures: list[Figure]) -> None:
    console = Console()
    console.print(", ".join(f"{name}: {value}" for name, value in told.items()), highlight=False)
    table = Table("way", "batch", "memory GB", "said before GB", "rows/s", "tokens/s", "utilisation")
    for figure in figures:
        table.add_row(
            figure.way,
            str(figure.batch),
            f"{figure.memory_gb:.3f}",
            "" if figure.said_gb is None else f"{figure.said_gb:.3f}",
            f"{figure.rows_per_second:.3f}",
            f"{figure.tokens_per_second:.0f}",
            f"{figure.utilisation:.0%}",
        )
    console.print(table)
    for one, other in zip(figures[::2], figures[1::2], strict=True):
        console.print(
            f"batch {one.batch}: ours takes {other.memory_gb / one.memory_gb:.0%} of the memory and is "
            f"{other.rows_per_second / one.rows_per_second:.2f} times as fast",
            highlight=False,
        )


def _in_process(way: str, batch: int) -> dict[str, Any]:
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--batches", str(batch), "--way", way], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--audio-only", action="store_true", help="leave the text head and its loss out of both")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
