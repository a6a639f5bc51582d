"""The voice that a recording is compared with: who of it speaks a language, and what it is given to speak in one go."""

from collections.abc import Iterator, Sequence

from prosody_tagger.errors import BadInput
from prosody_tagger.segment import Word, segment_sentences
from synth.base import Synthesizer


async def speaker_of(voice: Synthesizer, language: str | None) -> str | None:
    """What the voice calls the speaker of a language: itself, or the language without its region where it does not know that."""
    if language is None:
        return None
    wanted = language.strip().lower().replace("_", "-")
    known = {name.lower() for each in await voice.voices() for name in (each.name, each.language)}
    return wanted if wanted in known else wanted.partition("-")[0]


def pieces(text: str, runs: Sequence[Word], most: int) -> Iterator[tuple[int, int]]:
    """The words of each sentence from the first to the last, cut before a word where they are longer than ``most``."""
    index = 0
    for _, end in segment_sentences(text):
        first = index
        while index < len(runs) and runs[index].start < end:
            run = runs[index]
            if run.end - run.start > most:
                said = text[run.start : run.start + 20]
                raise BadInput(f"the word {said!r}... has {run.end - run.start} characters; the voice takes {most} at a time")
            if run.end - runs[first].start > most:
                yield runs[first].start, runs[index - 1].end
                first = index
            index += 1
        if index > first:
            yield runs[first].start, runs[index - 1].end
