"""Measure the speed of marking, relative to the same network in torch, to one forward pass of torch over the same tokens, and to
generating the marked text.

python benchmarks/tagger_speed.py

It measures with one thread and with two, each in a separate process. The network in torch is the adapter as transformers and peft
load it. With one thread, times are processor times, so that other programs on the machine matter less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from prosody_tagger.markup import render
from prosody_tagger.model import SEP, SHIPPED, SHIPPED_ADAPTER, encode, token_id
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training.torch_network import torch_tagger_model

SENTENCE = "It was a bright cold day in April, and the clocks were all striking thirteen when Winston Smith slipped in."
ROUNDS, GENERATED, BATCHES = 60, 5, (1, 8, 64)
WARM_UP = 3


def main() -> None:
    """Start one process for each number of threads, or measure in this one."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--threads", type=int, help="measure in this process with this number of threads")
    threads = arguments.parse_args().threads
    if threads is not None:
        measure(threads)
        return
    for count in (1, 2):
        environment = os.environ | {"OMP_NUM_THREADS": str(count)}
        subprocess.run([sys.executable, __file__, "--threads", str(count)], check=True, env=environment)


def measure(threads: int) -> None:
    """Print the timings with this number of threads."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    logging.disable_progress_bar()
    tagger = ProsodyTagger.load()
    tokenizer = tagger.model.tokenizer
    (encoded,) = encode(tokenizer, [SENTENCE], [segment_words(SENTENCE)])
    sep = token_id(tokenizer, SEP)
    prompt = torch.tensor([[*encoded.ids, sep]])
    whole = torch.tensor([[*encoded.ids, sep, *encoded.ids]])
    network = GPT2LMHeadModel.from_pretrained(SHIPPED / "tagger-base", dtype=torch.float32).eval()
    network.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    merged = PeftModel.from_pretrained(network, str(SHIPPED_ADAPTER)).merge_and_unload()
    in_torch = ProsodyTagger(torch_tagger_model(merged, tokenizer), tagger.thresholds)
    # A generating model outputs each token of the text and each mark; the time does not depend on which ones.
    length = len(encoded.ids) + len(tagger.mark(SENTENCE).marks)

    def forward() -> None:
        with torch.inference_mode():
            network(whole)

    def generate() -> None:
        with torch.inference_mode():
            network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=length,
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=sep,
            )

    print(f"{threads} threads; {len(segment_words(SENTENCE))} words, {whole.shape[1]} tokens in one pass, {length} to write")
    calls: dict[str, Callable[[], object]] = {"bare forward": forward, "mark": lambda: tagger.mark(SENTENCE)}
    medians = _medians(calls, ROUNDS, clock) | _medians({"generate()": generate}, GENERATED, clock)
    for name, value in medians.items():
        print(f"{value * 1000:8.2f} ms  {name}")
    print(f"mark / bare forward: {medians['mark'] / medians['bare forward']:.2f}  (must be <= 1.3)")
    print(f"generate() / mark: {medians['generate()'] / medians['mark']:.1f}  (must be >= 10)")
    words = len(segment_words(SENTENCE))
    batches = {f"{size} texts per call": [SENTENCE] * size for size in BATCHES}
    short = set(batches)
    batches[f"one text of {250 * words:,} words"] = [f"{SENTENCE} " * 250]
    for name, texts in batches.items():
        speeds = {
            "onnxruntime": lambda texts=texts: tagger.mark_batch(texts),
            "torch": lambda texts=texts: in_torch.mark_batch(texts),
        }
        times = _medians(speeds, 1 if name not in short else max(3, 60 // len(texts)), clock)
        total = sum(len(segment_words(text)) for text in texts)
        ours, torchs = (total / times[each] for each in speeds)
        print(f"{ours:8,.0f} words per second, {name}; torch {torchs:,.0f}; ratio {ours / torchs:.2f}  (must be >= 1.0, aim 1.8)")
    print(f"         such as: {render(tagger.mark(SENTENCE))}", flush=True)


def _medians(calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median time of each call in seconds by ``clock``; the calls are interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for step in range(rounds + min(WARM_UP, rounds)):
        for name, call in calls.items():
            began = clock()
            call()
            if step >= min(WARM_UP, rounds):
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
