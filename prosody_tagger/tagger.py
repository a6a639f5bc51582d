"""The tagger: predicts the emphases and pauses of a text from the model's scores, thresholds and the requested density.

tagger = ProsodyTagger.load()
render(tagger.mark("It costs only nine dollars today."))
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prosody_tagger.density import DENSITIES, Density, EmphasisBudget, density_of
from prosody_tagger.errors import ModelError
from prosody_tagger.language import primary_language
from prosody_tagger.markup import KINDS, PITCHES, Mark, MarkedText, TaggedText, concatenate_tagged, normalise, plain
from prosody_tagger.model import SHIPPED_ADAPTER, Scores, TaggerModel
from prosody_tagger.passages import Block, Passage, Span, batches, passages
from prosody_tagger.segment import pause_after

SHORT_CHARS = 1000
"""Maximum length of a text that `TaggingBatcher` tags together with others, in code points."""

MAX_BATCH = 64
"""Maximum number of texts that `TaggingBatcher` tags together."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of the scores.

    Attributes:
        emph: threshold of emphasis for each named density. It applies at the start of a text; the longer the text, the more its own
            scores count (`density.EmphasisBudget`).
        pause: threshold of a boundary, from which a pause follows the word.
        pause_long: threshold of a long pause; if None, pauses are long between sentences and short within.
        pitch: threshold of each pitch mark; empty if the tagger was trained without them.
        languages: tags of the supported languages, such as "en"; None supports every language.
    """

    emph: dict[str, float]
    pause: float
    pause_long: float | None = None
    pitch: dict[str, float] = field(default_factory=dict)
    languages: tuple[str, ...] | None = None

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read ``thresholds.json``.

        Raises:
            ModelError: the file is missing or invalid.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {name: float(data["emph"][name]) for name in DENSITIES},
                float(data["pause"]),
                None if data.get("pause_long") is None else float(data["pause_long"]),
                {PITCHES[PITCHES.index(kind)]: float(score) for kind, score in data.get("pitch", {}).items()},
                None if data.get("languages") is None else tuple(primary_language(tag) for tag in data["languages"]),
            )
        except OSError:
            raise ModelError(f"{path} is missing: the adapter was trained without thresholds; train it again") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is broken ({type(error).__name__}: {error}); restore the folder or train it again") from None


class ProsodyTagger:
    """Predicts the emphases and pauses of a text. The text itself never changes."""

    def __init__(self, model: TaggerModel, thresholds: Thresholds) -> None:
        self.model = model
        self.thresholds = thresholds

    @classmethod
    def load(cls, path: str | Path | None = None, *, base: str | None = None) -> "ProsodyTagger":
        """Load an adapter folder, by default the shipped one.

        Args:
            path: folder of a PEFT adapter with its tokenizer and thresholds.
            base: folder or hub name of the GPT-2 under it; by default the one that the adapter names.

        Raises:
            ModelError: the folder is missing, broken, or was trained over another base.
        """
        folder = SHIPPED_ADAPTER if path is None else Path(path)
        model = TaggerModel.load(folder, base)
        return cls(model, Thresholds.load(folder / "thresholds.json"))

    def mark(self, text: str, density: Density = "medium", *, intensity: Density | None = None) -> MarkedText:
        """Mark a text, in the form of `markup.normalise`.

        ``intensity``, here and below, is another name of ``density``, after the setting that sets density and strength together.

        Raises:
            MarkupError: the text holds a lone surrogate.
            BadInput: the density is neither low, medium or high nor a number from 0 to 1.
        """
        return self.tag(text, density if intensity is None else intensity).marked

    def mark_batch(
        self, texts: Sequence[str], density: Density = "medium", *, intensity: Density | None = None
    ) -> list[MarkedText]:
        """Mark several texts in as few forward passes as possible."""
        return [tagged.marked for tagged in self.tag_batch(texts, density, intensity=intensity)]

    def tag(self, text: str, density: Density = "medium", focus: Sequence[Span] = ()) -> TaggedText:
        """Mark a text and keep the score of each mark.

        Text in an unsupported language gets pauses at its punctuation, no emphasis, and a warning.

        Args:
            text: the text to mark.
            density: share of the words to stress: within 10 % for a text of 1,000 words or more; in a short text, the scores
                decide.
                At 1, every word that is pronounced is stressed. At medium and above, each sentence of four or more words gets at
                least one emphasis, included in the share; below, no two adjacent words are stressed.
            focus: spans ``[start, end)`` of the text; each gets at least one emphasis.
        """
        return self.tag_batch([text], density, [focus])[0]

    def tag_batch(
        self,
        texts: Sequence[str],
        density: Density | Sequence[Density] = "medium",
        focuses: Sequence[Sequence[Span]] | None = None,
        *,
        intensity: Density | Sequence[Density] | None = None,
    ) -> list[TaggedText]:
        """Mark several texts in as few forward passes as possible, and keep the scores.

        Args:
            texts: the texts to mark.
            density: one for all texts, or one for each.
            focuses: the focus of each text, as in `tag`.
        """
        given = density if intensity is None else intensity
        densities = [given] * len(texts) if isinstance(given, str | float | int) else given
        budgets = [self._budget(one) for one in densities]
        divided = [
            list(passages(text, focus, self.model, self.thresholds.languages))
            for text, focus in zip(texts, focuses or [()] * len(texts), strict=True)
        ]
        for batch in batches([pair for text in divided for passage in text for pair in passage.to_score(passage.windows)]):
            batch.fill(self.model.forward(batch.tokens, batch.ends))
        return [
            concatenate_tagged([self._decide(passage, block, budget) for passage in text for block in passage.blocks])
            for text, budget in zip(divided, budgets, strict=True)
        ]

    def tag_in_portions(self, text: str, density: Density = "medium", focus: Sequence[Span] = ()) -> Iterator[TaggedText]:
        """Tag a text like `tag`, lazily, in portions of whole sentences.

        A short text is one portion. The first portion of a long text takes no longer than a short text.
        """
        budget = self._budget(density)
        for passage in passages(text, focus, self.model, self.thresholds.languages):
            for block in passage.blocks:
                for batch in batches(passage.to_score(block.windows)):
                    batch.fill(self.model.forward(batch.tokens, batch.ends))
                yield self._decide(passage, block, budget)

    def score(self, text: str) -> Scores:
        """Return the model's scores of each word of ``text``; the words are those of `segment_words`."""
        parts = list(passages(text, (), self.model, None))
        for batch in batches([pair for part in parts for pair in part.to_score(part.windows)]):
            batch.fill(self.model.forward(batch.tokens, batch.ends))
        return Scores(*(np.concatenate([getattr(part.scores, name) for part in parts]) for name in Scores.__slots__))

    def _budget(self, density: Density) -> EmphasisBudget:
        return EmphasisBudget(density_of(density), self.thresholds.emph)

    def _decide(self, passage: Passage, block: Block, budget: EmphasisBudget) -> TaggedText:
        """Return a block with its marks. A pause after its last word is at the start of the next block."""
        words, first, last = passage.words, block.first_word, block.last_word
        inside = slice(first, last)
        known = passage.verdict.known[inside]
        marks: dict[Mark, float | None] = {}
        for index in range(first - 1, min(last, len(words) - 1)):
            at = words[index + 1].start
            pause = self._pause_after(passage, index) if block.start <= at < block.end else None
            if pause is not None:
                marks[Mark(pause[0], at)] = pause[1]
        emph = passage.scores.marks[inside, KINDS.index("emph")]
        ends = [index for index in sorted(passage.sentence_ends) if first <= index < last]
        sentences = [range(before + 1 - first, end + 1 - first) for before, end in pairwise([first - 1, *ends])]
        focus = [[i for i in range(last - first) if a <= words[first + i].core_start < b] for a, b in passage.focus]
        for index in budget.choose(emph, known & passage.verdict.writable[inside], sentences, focus):
            marks[Mark("emph", words[first + index].start)] = float(emph[index])
        for kind, threshold in self.thresholds.pitch.items():
            pitch = passage.scores.marks[inside, KINDS.index(kind)]
            for index in np.flatnonzero(known & (pitch >= threshold)).tolist():
                marks[Mark(kind, words[first + index].start)] = float(pitch[index])
        moved = {mark.moved(-block.start): score for mark, score in marks.items()}
        marked = normalise(passage.marked.slice(block.start, block.end).with_marks(moved))
        warnings = () if known.all() else (_unknown_language(self.thresholds.languages or (), passage.verdict.found),)
        return TaggedText(marked, tuple(_rounded(moved[mark]) for mark in marked.marks), warnings)

    def _pause_after(self, passage: Passage, index: int) -> tuple[str, float | None] | None:
        """Return the kind and the score of the pause after a word, if any; word -1 is the last word of the previous passage."""
        if index < 0:
            if passage.before is not None:
                passage.pause_before = self._pause_after(passage.before, len(passage.before.words) - 1)
                passage.before = None
            return passage.pause_before
        ends_sentence = index in passage.sentence_ends
        if not passage.verdict.known[index]:
            kind = pause_after(passage.text, passage.words, index, ends_sentence=ends_sentence)
            return None if kind is None else (kind, None)
        score = float(passage.scores.boundary[index])
        if score < self.thresholds.pause:
            return None
        long_from = self.thresholds.pause_long
        is_long = ends_sentence if long_from is None else passage.scores.marks[index, KINDS.index("pause_long")] >= long_from
        return "pause_long" if is_long else "pause_short", score


class TaggingBatcher:
    """Tags texts for concurrent callers of one event loop. Texts that arrive during a forward pass are batched in the next one."""

    def __init__(self, tagger: ProsodyTagger) -> None:
        self._tagger = tagger
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def tag(self, text: str, density: Density, focus: Sequence[Span] = ()) -> AsyncGenerator[TaggedText, None]:
        """Tag a text in portions of whole sentences; the first portion of a long text does not wait for the rest.

        Raises:
            MarkupError: the text holds a lone surrogate.
        """
        plain(text)  # checked here, because in a batch it would fail the other texts too
        if len(text) > SHORT_CHARS:  # on its own, so that no short text waits for it
            portions = self._tagger.tag_in_portions(text, density, focus)
            while (portion := await asyncio.to_thread(next, portions, None)) is not None:
                yield portion
            return
        waiting = _Waiting(text, density, focus, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        yield await waiting.tagged

    async def _work(self) -> None:
        while self._waiting:
            batch = [item for item in self._waiting[:MAX_BATCH] if not item.tagged.done()]
            del self._waiting[:MAX_BATCH]
            if not batch:
                continue
            texts, densities, focuses, _ = zip(*batch, strict=True)
            try:
                results: Sequence[TaggedText | Exception] = await asyncio.to_thread(
                    self._tagger.tag_batch, texts, densities, focuses
                )
            except Exception as error:
                results = [error] * len(batch)
            for item, result in zip(batch, results, strict=True):
                if item.tagged.done():
                    continue
                if isinstance(result, Exception):
                    item.tagged.set_exception(result)
                else:
                    item.tagged.set_result(result)


class _Waiting(NamedTuple):
    text: str
    density: Density
    focus: Sequence[Span]
    tagged: asyncio.Future[TaggedText]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def _unknown_language(languages: Sequence[str], found: Sequence[str]) -> str:
    """Return the warning for text in an unsupported language."""
    looks = f" (it looks like {', '.join(found)})" if found else ""
    return (
        f"no emphasis where the text is not in a language of the tagger, {', '.join(languages)}{looks}; pauses there follow the "
        "punctuation. For emphasis, give a tagger trained on that language, with --tagger or PROSODY_TAGGER__ADAPTER"
    )
