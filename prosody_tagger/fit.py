"""The training loop of the tagger: batches of sentences, the loss at the slots, and an evaluation each epoch."""

import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch.nn import functional

from prosody_tagger import evaluate
from prosody_tagger.data import UNKNOWN, Example, join
from prosody_tagger.evaluate import SPARSE_EMPHASIS
from prosody_tagger.model import ADDED_TOKENS, BOUNDARY, NONE, PROMINENCE, SEP, Encoded, TaggerModel, encode, token_id
from prosody_tagger.segment import words

TEXT_POSITIONS = 512
"""Next-word loss is taken at this many places a batch: its 50,257 logits cost more than the rest of so small a network."""
RARE_COUNT = 3
"""A word seen at most so often may be swapped for tokens never seen, so that unseen words are known to be rare words."""


class Batches:
    """Examples as padded batches of tokens and labels, drawn anew each epoch."""

    def __init__(self, tokenizer: Tokenizer, examples: Sequence[Example], seed: int) -> None:
        self.examples = examples
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.sep = token_id(tokenizer, SEP)
        self.encoded = self._encode(examples)
        counts = Counter(i for item in self.encoded for i in item.ids)
        self.unseen = [i for i in range(tokenizer.get_vocab_size() - len(ADDED_TOKENS)) if counts[i] == 0]
        self.rare = {i for i, count in counts.items() if count <= RARE_COUNT}

    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        texts = [example.text for example in examples]
        return encode(self.tokenizer, texts, [words(text) for text in texts])

    def epoch(self, batch_tokens: int, max_tokens: int) -> Iterator[dict[str, torch.Tensor]]:
        """Sentences alone or a few in a row, of like length together."""
        texts: list[tuple[list[int], list[int], Example]] = []
        index = 0
        while index < len(self.examples):
            count = 1 if self.random.random() < 0.5 else self.random.randint(2, 4)
            group = range(index, min(index + count, len(self.examples)))
            index = group.stop
            ids: list[int] = []
            last: list[int] = []
            taken: list[Example] = []
            for i in group:
                if ids and len(ids) + len(self.encoded[i].ids) > max_tokens:
                    index = i
                    break
                last.extend(len(ids) + place for place in self.encoded[i].last)
                ids.extend(self._swap_rare(self.encoded[i].ids))
                taken.append(self.examples[i])
            texts.append((ids[:max_tokens], [place for place in last if place < max_tokens], join(taken)))
        texts.sort(key=lambda item: len(item[0]) + self.random.random() * 8)
        batches: list[list[tuple[list[int], list[int], Example]]] = [[]]
        for item in texts:
            if (len(batches[-1]) + 1) * (2 * len(item[0]) + 1) > batch_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(item)
        self.random.shuffle(batches)
        yield from (self._tensors(batch) for batch in batches)

    def _swap_rare(self, ids: Sequence[int]) -> list[int]:
        return [self.random.choice(self.unseen) if i in self.rare and self.random.random() < 0.5 else i for i in ids]

    def _tensors(self, batch: Sequence[tuple[list[int], list[int], Example]]) -> dict[str, torch.Tensor]:
        width = 2 * max(len(ids) for ids, _, _ in batch) + 1
        inputs = torch.full((len(batch), width), self.sep)
        text = torch.full((len(batch), width), UNKNOWN)
        rows: list[int] = []
        columns: list[int] = []
        prominence: list[int] = []
        boundary: list[int] = []
        emphasis: list[int] = []
        for row, (ids, last, example) in enumerate(batch):
            inputs[row, : 2 * len(ids) + 1] = torch.tensor([*ids, self.sep, *ids])
            text[row, : len(ids) - 1] = torch.tensor(ids[1:])
            rows.extend([row] * len(last))
            columns.extend(len(ids) + 1 + place for place in last)
            prominence.extend(example.prominence[: len(last)])
            boundary.extend(UNKNOWN if b == UNKNOWN else int(b == 2) for b in example.boundary[: len(last)])
            emphasis.extend(UNKNOWN if math.isnan(e) else int(e >= SPARSE_EMPHASIS) for e in example.emphasis[: len(last)])
        names = ("inputs", "text", "rows", "columns", "prominence", "boundary", "emphasis")
        values = (inputs, text, *(torch.tensor(v) for v in (rows, columns, prominence, boundary, emphasis)))
        return dict(zip(names, values, strict=True))


def _core(network: Any) -> Any:
    """The GPT-2 itself, under an adapter or bare."""
    return network.base_model.model if hasattr(network, "peft_config") else network


def loss_of(network: Any, batch: dict[str, torch.Tensor], groups: dict[str, list[int]], text_weight: float) -> torch.Tensor:
    """Cross-entropy over each group of labels at the words of the copy, and of the next token at some places of the text."""
    core = _core(network)
    hidden = core.transformer(batch["inputs"], use_cache=False).last_hidden_state
    at_words = hidden[batch["rows"], batch["columns"]]
    # The tied rows, taken through the embedding so that an adapter over it counts; the other 50,000 logits are never computed.
    rows = core.get_input_embeddings()(torch.tensor([i for ids in groups.values() for i in ids]))
    logits = functional.linear(at_words, rows.to(at_words.dtype)).float()
    total = logits.new_zeros(())
    start = 0
    for name, ids in groups.items():
        part = logits[:, start : start + len(ids)]
        start += len(ids)
        if (batch[name] != UNKNOWN).any():
            total = total + functional.cross_entropy(part, batch[name], ignore_index=UNKNOWN)
    if text_weight:
        places = (batch["text"] != UNKNOWN).nonzero()
        places = places[torch.randperm(len(places))[:TEXT_POSITIONS]]
        here = hidden[places[:, 0], places[:, 1]]
        total = total + text_weight * functional.cross_entropy(
            core.lm_head(here).float(), batch["text"][places[:, 0], places[:, 1]]
        )
    return total


def fit(
    network: Any,
    tokenizer: Tokenizer,
    train: Sequence[Example],
    held_out: Sequence[Example],
    *,
    epochs: int,
    lr: float,
    batch_tokens: int,
    seed: int,
    text_weight: float,
) -> None:
    """AdamW with a linear warm-up and a cosine decay, bfloat16 where the processor has it."""
    groups = {
        "prominence": [token_id(tokenizer, t) for t in PROMINENCE],
        "boundary": [token_id(tokenizer, t) for t in BOUNDARY],
        "emphasis": [token_id(tokenizer, t) for t in (NONE, "<emph>")],
    }
    batches = Batches(tokenizer, train, seed)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    max_tokens = (network.config.n_positions - 1) // 2
    per_epoch = sum(1 for _ in batches.epoch(batch_tokens, max_tokens))
    steps = epochs * per_epoch * 1.02
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 60, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for epoch in range(epochs):
            network.train()
            task = progress.add_task(f"epoch {epoch + 1}/{epochs}", total=per_epoch)
            began, total, count = time.perf_counter(), 0.0, 0
            for batch in batches.epoch(batch_tokens, max_tokens):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(network, batch, groups, text_weight)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                total, count = total + loss.item(), count + 1
                progress.update(task, advance=1, description=f"epoch {epoch + 1}/{epochs} loss {total / count:.3f}")
            network.eval()
            core = _core(network)
            scored = evaluate.score_examples(TaggerModel(core, tokenizer), held_out)
            line = {k: v for k, v in evaluate.figures(scored).items() if v is not None}
            progress.console.print(f"epoch {epoch + 1}: loss {total / count:.4f}, {time.perf_counter() - began:.0f} s, {line}")
