"""What marking costs beside one bare forward pass of the same model over the same tokens. One run, one machine.

python benchmarks/tagger_speed.py
"""

import statistics
import time
from collections.abc import Callable

import torch
from transformers import GPT2LMHeadModel

from prosody_tagger.model import SEP, SHIPPED, encode, token_id
from prosody_tagger.segment import words
from prosody_tagger.tagger import ProsodyTagger

SENTENCE = "It was a bright cold day in April, and the clocks were all striking thirteen when Winston Smith slipped in."
ROUNDS = 200


def main() -> None:
    tagger = ProsodyTagger.load()
    tokenizer = tagger.model.tokenizer
    (encoded,) = encode(tokenizer, [SENTENCE], [words(SENTENCE)])
    ids = torch.tensor([[*encoded.ids, token_id(tokenizer, SEP), *encoded.ids]])
    bare = GPT2LMHeadModel.from_pretrained(SHIPPED / "tagger-base", dtype=torch.float32).eval()
    bare.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)

    def forward() -> None:
        with torch.inference_mode():
            bare(ids)

    def mark() -> None:
        tagger.mark(SENTENCE)

    print(f"{len(words(SENTENCE))} words, {ids.shape[1]} tokens in one pass, {torch.get_num_threads()} threads")
    times: dict[str, list[float]] = {"bare forward": [], "mark": []}
    for step in range(ROUNDS + 10):
        for name, call in (("bare forward", forward), ("mark", mark)):
            taken = _timed(call)
            if step >= 10:
                times[name].append(taken)
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{value * 1000:7.2f} ms  {name}")
    print(f"mark / bare forward: {middle['mark'] / middle['bare forward']:.2f}  (must be <= 1.3)")
    long_text = f"{SENTENCE} " * 5000
    taken = _timed(lambda: tagger.mark(long_text))
    print(f"{len(words(long_text)):,} words in one text: {taken:.2f} s, {len(words(long_text)) / taken:,.0f} words a second")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
