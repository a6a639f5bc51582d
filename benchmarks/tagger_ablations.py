"""Ablations of the tagger: adapters over one base that differ in one respect each, scored on one fold of speakers.

    python benchmarks/tagger_ablations.py CORPUS [--fold 0] [--other-base DIR] [--only NAME] [--json FILE]

Each is trained on labels only, without a teacher, for one epoch, or for more epochs on few sentences. On two cores, one takes one
to five minutes; with the older labelling, fifteen.
"""

import argparse
import inspect
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText, speaker_fold
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.metrics import Predictions, WordLabels, measure, score_examples
from prosody_tagger.model import PROMINENCE, SHIPPED, Encoded, TaggerModel, token_id
from prosody_tagger.training.base_models import add_lora, load_base
from prosody_tagger.training.batches import BatchBuilder, TokenBatch
from prosody_tagger.training.pretrain import read_dev
from prosody_tagger.training.torch_network import TorchNetwork
from prosody_tagger.training.train import start_run
from prosody_tagger.training.trainer import LoopSettings, TaggerTrainer, unwrap_gpt2
from prosody_tagger.weights import Floats

EPOCHS, LR, BATCH_TOKENS = 1, 1e-3, 4096
LEAST_STEPS = 30
"""Few sentences are repeated for as many epochs as give this number of steps."""
SENTENCES_PER_STEP = 80
"""Approximate number of sentences in a batch."""
MEASURES = (
    "prominence_2way_accuracy",
    "prominence_3way_accuracy",
    "emph_ap",
    "sparse_emph_ap",
    "pause_f1_nonfinal",
    "pause_ap_unpunctuated",
)


class TextOnlyBatches(BatchBuilder):
    """``text`` without the copy: the model does not see what follows a word."""

    def _tensors(self, texts: Sequence[range], epoch: int) -> TokenBatch:
        joined = [self._join(text, epoch) for text in texts]
        inputs = torch.full((len(joined), max(len(item.ids) for item in joined)), self.sep)
        for row, item in enumerate(joined):
            inputs[row, : len(item.ids)] = torch.tensor(item.ids)
        columns = [end for item in joined for end in item.last]
        return TokenBatch(inputs, _ascending(inputs), _rows(joined), torch.tensor(columns), self._labels(texts), joined)


class AutoregressiveBatches(BatchBuilder):
    """``text <SEP> copy`` with the prominence label of each word after it, as a model that generates marked text would read it."""

    prominence: list[int]

    def _tensors(self, texts: Sequence[range], epoch: int) -> TokenBatch:
        joined = [self._join(text, epoch) for text in texts]
        labels = self._labels(texts)
        prominence = iter(labels[:, 0].tolist())
        rows: list[list[int]] = []
        row_positions: list[list[int]] = []
        columns: list[int] = []
        for item in joined:
            row, positions_of_row = [*item.ids, self.sep], list(range(len(item.ids) + 1))
            before = 0
            for end in item.last:
                row.extend(item.ids[before : end + 1])
                positions_of_row.extend(range(before, end + 1))
                columns.append(len(row) - 1)
                label = next(prominence)
                row.append(self.prominence[0 if label == UNKNOWN else label])
                positions_of_row.append(end)
                before = end + 1
            rows.append(row)
            row_positions.append(positions_of_row)
        inputs = torch.full((len(rows), max(map(len, rows))), self.sep)
        positions = torch.zeros_like(inputs)
        for number, (row, of_row) in enumerate(zip(rows, row_positions, strict=True)):
            inputs[number, : len(row)] = torch.tensor(row)
            positions[number, : len(of_row)] = torch.tensor(of_row)
        return TokenBatch(inputs, positions, _rows(joined), torch.tensor(columns), labels, joined)


def _ascending(inputs: torch.Tensor) -> torch.Tensor:
    return torch.arange(inputs.shape[1]).expand_as(inputs)


def _rows(joined: Sequence[Encoded]) -> torch.Tensor:
    return torch.tensor([row for row, item in enumerate(joined) for _ in item.last])


class TextOnlyNetwork(TorchNetwork):
    """Scores words at ``text`` itself."""

    def label_logits(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Floats:
        ids = torch.full((len(tokens), max(len(text) for text in tokens)), self.sep)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = torch.tensor(text)
        rows = [row for row, last in enumerate(ends) for _ in last]
        columns = [end for last in ends for end in last]
        with torch.inference_mode():
            hidden = self.transformer(ids, use_cache=False).last_hidden_state[rows, columns]
        return (hidden @ self.label_rows).numpy()


class AutoregressiveNetwork(TorchNetwork):
    """Scores word by word, with a KV cache; the label chosen for a word is an input to the next."""

    def __init__(self, gpt2: Any, tokenizer: Tokenizer) -> None:
        super().__init__(gpt2, tokenizer)
        self.prominence = [token_id(tokenizer, token) for token in PROMINENCE]

    def label_logits(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Floats:
        return np.concatenate([self._logits_of_one(*text) for text in zip(tokens, ends, strict=True)])

    def _logits_of_one(self, ids: Sequence[int], last: Sequence[int]) -> Floats:
        logits: list[torch.Tensor] = []
        parameters = inspect.signature(self.transformer.forward).parameters
        argument = "cache" if "cache" in parameters else "past_key_values"  # its name before transformers 5.24
        with torch.inference_mode():
            cache = self.transformer(torch.tensor([[*ids, self.sep]]), use_cache=True).past_key_values
            before, written = 0, []
            for end in last:
                step = torch.tensor([[*written, *ids[before : end + 1]]])
                positions = torch.tensor([[*[before - 1] * len(written), *range(before, end + 1)]])
                out = self.transformer(step, position_ids=positions, use_cache=True, **{argument: cache})
                cache = out.past_key_values
                logits.append(out.last_hidden_state[0, -1] @ self.label_rows)
                before, written = end + 1, [self.prominence[int(logits[-1][:3].argmax())]]
        return torch.stack(logits).numpy()


def train_and_measure(
    base: Path,
    train: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
    *,
    batches: type[BatchBuilder] = BatchBuilder,
    network_type: type[TorchNetwork] = TorchNetwork,
    rows: bool = True,
    epochs: int = EPOCHS,
) -> dict[str, float | None]:
    """Train an adapter and return its measures on held-out text.

    Args:
        base: folder of the base.
        train, held_out: the data.
        batches: how texts become inputs.
        network_type: how words are scored, to match ``batches``.
        rows: train the embedding rows of our tokens as well.
        epochs: passes over the data.
    """
    accelerator, _ = start_run(0)
    network, tokenizer = load_base(str(base))
    network = add_lora(network, r=16, alpha=32, dropout=0.1)
    if not rows:
        for name, weight in network.named_parameters():
            if "trainable_tokens" in name:
                weight.requires_grad_(False)
    settings = LoopSettings(
        epochs=epochs, lr=LR, batch_size=10**6, batch_tokens=BATCH_TOKENS, seed=0, patience=0, bfloat16=True, parts=1
    )
    trainer = TaggerTrainer(network, tokenizer, train, held_out[:1], settings, accelerator)
    if batches is not BatchBuilder:
        trainer.batches.__class__ = batches
        trainer.batches.prominence = [token_id(tokenizer, token) for token in PROMINENCE]  # type: ignore[attr-defined]
    trainer.run()
    scores = score_examples(TaggerModel(network_type(unwrap_gpt2(network), tokenizer), tokenizer), held_out)
    return measure(WordLabels.of(held_out), Predictions.of(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--base", type=Path, default=SHIPPED / "tagger-base")
    parser.add_argument("--other-base", type=Path, help="another base to train over, to compare sizes")
    parser.add_argument("--only", nargs="*", help="run only variants whose names contain one of these")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    train, held_out = speaker_fold(read_dev(arguments.corpus), arguments.fold)
    older = read_examples(arguments.corpus / "train_100_v1.txt")
    base = arguments.base

    def of_size(size: int) -> dict[str, float | None]:
        return train_and_measure(
            base, Random(0).sample(train, size), held_out, epochs=max(EPOCHS, LEAST_STEPS * SENTENCES_PER_STEP // size)
        )

    def base_only() -> dict[str, float | None]:
        network, tokenizer = load_base(str(base))
        return measure(
            WordLabels.of(held_out),
            Predictions.of(score_examples(TaggerModel(TorchNetwork(network, tokenizer), tokenizer), held_out)),
        )

    variants: dict[str, Callable[[], dict[str, float | None]]] = {
        "no adapter: the base alone": base_only,
        f"{len(train):,} sentences": lambda: train_and_measure(base, train, held_out),
        **{f"{size:,} sentences": lambda size=size: of_size(size) for size in (98, 500, 2000)},  # type: ignore[misc]
        "and the older labelling's 33,047": lambda: train_and_measure(base, [*train, *older], held_out),
        "without trained rows": lambda: train_and_measure(base, train, held_out, rows=False),
        "text alone, no copy": lambda: train_and_measure(
            base, train, held_out, batches=TextOnlyBatches, network_type=TextOnlyNetwork
        ),
        "marks fed back": lambda: train_and_measure(
            base, train, held_out, batches=AutoregressiveBatches, network_type=AutoregressiveNetwork
        ),
    }
    if arguments.other_base:
        variants[f"over {arguments.other_base.name}"] = lambda: train_and_measure(arguments.other_base, train, held_out)
    results: dict[str, dict[str, float | None]] = {}
    for name, run in variants.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        began = time.perf_counter()
        results[name] = run()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report.to_markdown(report.measures_table(results, MEASURES)))


if __name__ == "__main__":
    main()
