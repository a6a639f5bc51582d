"""Measure the start-up time of commands, next to the import time of their libraries: the median of `ROUNDS` runs each.

The ratios compare times of one run on one machine.

    python benchmarks/start_up.py
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import torch, peft; from transformers import GPT2LMHeadModel, AutoTokenizer"
ROUNDS = 5


def seconds(command: list[str]) -> float:
    """Return how long a command takes, in seconds."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began


def main() -> None:
    python = sys.executable
    with TemporaryDirectory() as folder:
        commands = {
            "python -c pass": [python, "-c", "pass"],
            "prosody --help": [str(Path(python).with_name("prosody")), "--help"],
            f"python -c '{IMPORTS}'": [python, "-c", IMPORTS],
            'main.py -i "How much?" -p "30% savings"': [
                *(python, "ai_core/main.py", "-i", "How much?", "-p", "30% savings", "-o", f"{folder}/a.wav")
            ],
            "prosody say --marked (no tagger)": [
                *(str(Path(python).with_name("prosody")), "say", "--marked", "It's <emph>only today.", "-o", f"{folder}/b.wav")
            ],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{value:7.3f} s  {name}")
    names = list(commands)
    print(f"main job / imports: {medians[names[3]] / medians[names[2]]:.2f}  (must be <= 1.5, aim <= 1.0)")
    print(f"--help - pass: {medians[names[1]] - medians[names[0]]:.3f} s  (must be <= 0.4)")


if __name__ == "__main__":
    main()
