"""Recognise words with their times: write one JSON line for each WAV file named on standard input.

    python benchmarks/neural/listen.py < list

``words`` are those of whisper-tiny, with start and end in seconds. The script runs in the environment of requirements.txt, as
judge.py does.
"""

import json
import sys

import numpy as np
import soundfile
import soxr
from judge import RATE, recogniser


def main() -> None:
    model = recogniser()
    for line in sys.stdin:
        path = line.rstrip("\n")
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        sound = np.clip(soxr.resample(samples.mean(axis=1), rate, RATE), -1.0, 1.0)
        segments, _ = model.transcribe(sound, language="en", beam_size=5, temperature=0.0, word_timestamps=True)
        words = [[word.word.strip(), float(word.start), float(word.end)] for segment in segments for word in segment.words or ()]
        sys.stdout.write(json.dumps({"path": path, "words": words}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
