"""What each part of the tagger's design is worth: adapters over one base, one thing changed in each, scored on a fold of speakers.

    python benchmarks/tagger_ablations.py CORPUS [--fold 0] [--other-base DIR] [--only NAME] [--json FILE]

Each learns from labels alone, without a teacher, for one epoch, few sentences for more. On two cores one to five minutes each, with
the older labelling fifteen.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch

from prosody_tagger.corpus.examples import UNKNOWN, Example, speaker_fold
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation import metrics as evaluate
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.metrics import Guess, Truth
from prosody_tagger.model import PROMINENCE, SHIPPED, Encoded, Scores, TaggerModel, split_scores, token_id
from prosody_tagger.training.base_models import load_base, with_lora
from prosody_tagger.training.batches import Batch, Batches
from prosody_tagger.training.pretrain import dev
from prosody_tagger.training.train import start
from prosody_tagger.training.trainer import Fit, FitSettings, core_of

EPOCHS, LR, BATCH_TOKENS = 1, 1e-3, 4096
LEAST_STEPS = 30
"""A few sentences are read so often that as many steps come together."""
SENTENCES_A_STEP = 80
MEASURES = (
    "prominence_2way_accuracy",
    "prominence_3way_accuracy",
    "emph_ap",
    "sparse_emph_ap",
    "pause_f1_nonfinal",
    "pause_ap_unpunctuated",
)


class TextAlone(Batches):
    """``text`` without the copy: a word is judged before what follows it has been read."""

    def _tensors(self, texts: Sequence[range], epoch: int) -> Batch:
        joined = [self._joined(text, epoch) for text in texts]
        inputs = torch.full((len(joined), max(len(item.ids) for item in joined)), self.sep)
        for row, item in enumerate(joined):
            inputs[row, : len(item.ids)] = torch.tensor(item.ids)
        columns = [place for item in joined for place in item.last]
        return Batch(inputs, _in_order(inputs), _rows(joined), torch.tensor(columns), self._labels(texts), joined)


class FedBack(Batches):
    """``text <SEP> copy`` with each word's prominence written after it, as one who writes the marked text would read it."""

    prominence: list[int]

    def _tensors(self, texts: Sequence[range], epoch: int) -> Batch:
        joined = [self._joined(text, epoch) for text in texts]
        labels = self._labels(texts)
        said = iter(labels[:, 0].tolist())
        rows: list[list[int]] = []
        places: list[list[int]] = []
        columns: list[int] = []
        for item in joined:
            row, at = [*item.ids, self.sep], list(range(len(item.ids) + 1))
            before = 0
            for place in item.last:
                row.extend(item.ids[before : place + 1])
                at.extend(range(before, place + 1))
                columns.append(len(row) - 1)
                label = next(said)
                row.append(self.prominence[0 if label == UNKNOWN else label])
                at.append(place)
                before = place + 1
            rows.append(row)
            places.append(at)
        inputs = torch.full((len(rows), max(map(len, rows))), self.sep)
        positions = torch.zeros_like(inputs)
        for number, (row, at) in enumerate(zip(rows, places, strict=True)):
            inputs[number, : len(row)] = torch.tensor(row)
            positions[number, : len(at)] = torch.tensor(at)
        return Batch(inputs, positions, _rows(joined), torch.tensor(columns), labels, joined)


def _in_order(inputs: torch.Tensor) -> torch.Tensor:
    return torch.arange(inputs.shape[1]).expand_as(inputs)


def _rows(joined: Sequence[Encoded]) -> torch.Tensor:
    return torch.tensor([row for row, item in enumerate(joined) for _ in item.last])


class TextAloneModel(TaggerModel):
    def score(self, batch: Sequence[Encoded]) -> list[Scores]:
        length = max(len(item.ids) for item in batch)
        ids = torch.full((len(batch), length), self._sep)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
        rows = [row for row, item in enumerate(batch) for _ in item.last]
        columns = [place for item in batch for place in item.last]
        with torch.inference_mode():
            hidden = self._transformer(ids, use_cache=False).last_hidden_state[rows, columns]
        return split_scores(hidden @ self._rows, [len(item.last) for item in batch])


class FedBackModel(TaggerModel):
    """Word by word, with a cache: what was decided of one is read before the next."""

    def score(self, batch: Sequence[Encoded]) -> list[Scores]:
        return [self._one(item) for item in batch]

    def _one(self, item: Encoded) -> Scores:
        prominence = [token_id(self.tokenizer, token) for token in PROMINENCE]
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            cache = self._transformer(torch.tensor([[*item.ids, self._sep]]), use_cache=True).past_key_values
            before, written = 0, []
            for place in item.last:
                step = torch.tensor([[*written, *item.ids[before : place + 1]]])
                at = torch.tensor([[*[before - 1] * len(written), *range(before, place + 1)]])
                out = self._transformer(step, position_ids=at, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                found.append(out.last_hidden_state[0, -1] @ self._rows)
                before, written = place + 1, [prominence[int(found[-1][:3].argmax())]]
        return split_scores(torch.stack(found), [len(item.last)])[0]


def learn(
    base: Path,
    train: Sequence[Example],
    held_out: Sequence[Example],
    *,
    batches: type[Batches] = Batches,
    model: type[TaggerModel] = TaggerModel,
    rows: bool = True,
    epochs: int = EPOCHS,
) -> dict[str, float | None]:
    """Train an adapter in some way, and score it."""
    accelerator, _ = start(0)
    network, tokenizer = load_base(str(base))
    network = with_lora(network, r=16, alpha=32, dropout=0.1)
    if not rows:
        for name, weight in network.named_parameters():
            if "trainable_tokens" in name:
                weight.requires_grad_(False)
    settings = FitSettings(
        epochs=epochs, lr=LR, batch_size=10**6, batch_tokens=BATCH_TOKENS, seed=0, patience=0, bfloat16=True, parts=1
    )
    fit = Fit(network, tokenizer, train, held_out[:1], settings, accelerator)
    if batches is not Batches:
        fit.batches.__class__ = batches
        fit.batches.prominence = [token_id(tokenizer, token) for token in PROMINENCE]  # type: ignore[attr-defined]
    fit.run()
    scores = evaluate.score_examples(model(core_of(network), tokenizer), held_out)
    return evaluate.figures(Truth.of(held_out), Guess.of(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--base", type=Path, default=SHIPPED / "tagger-base")
    parser.add_argument("--other-base", type=Path, help="another base to learn over, for what its size is worth")
    parser.add_argument("--only", nargs="*", help="the variants whose names hold one of these")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    train, held_out = speaker_fold(dev(arguments.corpus), arguments.fold)
    older = read_examples(arguments.corpus / "train_100_v1.txt")
    base = arguments.base

    def of_size(size: int) -> dict[str, float | None]:
        return learn(base, Random(0).sample(train, size), held_out, epochs=max(EPOCHS, LEAST_STEPS * SENTENCES_A_STEP // size))

    def bare() -> dict[str, float | None]:
        network, tokenizer = load_base(str(base))
        return evaluate.figures(Truth.of(held_out), Guess.of(evaluate.score_examples(TaggerModel(network, tokenizer), held_out)))

    variants: dict[str, Callable[[], dict[str, float | None]]] = {
        "no adapter: the base alone": bare,
        f"{len(train):,} sentences": lambda: learn(base, train, held_out),
        **{f"{size:,} sentences": lambda size=size: of_size(size) for size in (98, 500, 2000)},  # type: ignore[misc]
        "and the older labelling's 33,047": lambda: learn(base, [*train, *older], held_out),
        "without trained rows": lambda: learn(base, train, held_out, rows=False),
        "text alone, no copy": lambda: learn(base, train, held_out, batches=TextAlone, model=TextAloneModel),
        "marks fed back": lambda: learn(base, train, held_out, batches=FedBack, model=FedBackModel),
    }
    if arguments.other_base:
        variants[f"over {arguments.other_base.name}"] = lambda: learn(arguments.other_base, train, held_out)
    rows: dict[str, dict[str, float | None]] = {}
    for name, run in variants.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        began = time.perf_counter()
        rows[name] = run()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(report.markdown(report.table(rows, MEASURES)))


if __name__ == "__main__":
    main()
