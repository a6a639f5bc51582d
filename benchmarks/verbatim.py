"""Check that plain, render, parse and mark never change a text, with random Unicode strings. Exits with 1 if one does.

python benchmarks/verbatim.py [COUNT]
"""

import random
import sys
import time

from prosody_tagger.markup import parse, plain, render
from prosody_tagger.tagger import ProsodyTagger

PLANES = [(0x20, 0x7E), (0x00, 0x1F), (0x80, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F)]
PLANES += [
    (0x2000, 0x206F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xE000, 0xF8FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0, 0x10FFFF),
]
SPECIAL = [
    "<emph>",
    "\\",
    "\\<",
    "<pause_short:90ms>",
    "</emph>",
    "\r\n",
    " ",
    "<SEP>",
    "<|endoftext|>",
    "e\u0301",
    "\u202eabc",
    "$299",
]
BATCH = 500


def text(draw: random.Random) -> str:
    """Return a random string without surrogates."""
    pieces = []
    for _ in range(draw.randint(0, 12)):
        low, high = draw.choice(PLANES)
        run = "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 6)))
        pieces.append(draw.choice([run, draw.choice(SPECIAL), " "]))
    return "".join(character for character in "".join(pieces) if not 0xD800 <= ord(character) <= 0xDFFF)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    draw = random.Random(0)
    tagger = ProsodyTagger.load()
    changed = marks = 0
    began = time.perf_counter()
    for _ in range(0, count, BATCH):
        texts = [text(draw) for _ in range(BATCH)]
        for original, marked in zip(texts, tagger.mark_batch(texts, "high"), strict=True):
            same = plain(original).text == original == parse(render(plain(original))).text == marked.text
            same = same and parse(render(marked)) == marked
            changed += not same
            marks += len(marked.marks)
    print(f"{count:,} strings, {changed} changed, {marks:,} marks placed, {time.perf_counter() - began:.0f} s")
    sys.exit(1 if changed else 0)


if __name__ == "__main__":
    main()
