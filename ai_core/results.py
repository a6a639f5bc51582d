"""Results as JSON, for the commands and the service."""

from collections.abc import Sequence
from typing import Any

from ai_core.job import Result
from prosody_tagger.markup import MarkedText, render
from prosody_tagger.segment import word_after


def marks_json(marked: MarkedText, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    """Each mark with the word that follows it, and the tagger's score; null if the user or a rule set the mark."""
    words = marked.words
    rows = []
    for mark, score in zip(marked.marks, scores, strict=True):
        index = word_after(words, mark.offset)
        word = None if index is None else words[index].core(marked.text)
        rows.append({"kind": mark.kind, "offset": mark.offset, "word": word, "score": score, "ms": mark.ms})
    return rows


def result_json(result: Result, audio: str | None) -> dict[str, Any]:
    """The JSON of a result; ``audio`` is the path of its audio file."""
    return {
        "text": result.marked.text,
        "marked": render(result.marked),
        "marks": marks_json(result.marked, result.scores),
        "words": [
            {"word": word.word, "offset": word.offset, "start": round(word.start, 4), "end": round(word.end, 4)}
            for word in result.words
        ],
        "audio": audio,
        "sample_rate": result.audio.rate,
        "seconds": round(result.audio.seconds, 4),
        "backend": result.backend,
        "fallback": result.fallback,
        "warnings": list(result.warnings),
        "timings": {name: round(seconds, 4) for name, seconds in result.timings.items()},
    }
