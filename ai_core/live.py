"""Stream the first sentence of a text while it is synthesised, if it needs no post-processing."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ai_core.job import Job, Result, dropped_warnings, skipped_warnings
from ai_core.settings import Settings
from prosody_tagger.markup import MarkedText, TaggedText, plain
from synth.audio.joining import SentenceStream
from synth.base import SpeechRequest, Synthesizer
from synth.lowering import partition_marks


def can_speak_live(
    sentence: MarkedText, request: SpeechRequest, backend: Synthesizer, job: Job, settings: Settings, *, realise: bool
) -> bool:
    """Whether a sentence can be streamed: it needs no post-processing, and no fallback is configured."""
    able = backend.capabilities_of(request.voice)
    return (
        able.streaming
        and not job.times
        and settings.fallback in (None, "none", backend.name)
        and able.rate == settings.rate
        and (able.speed or request.speed == 1.0)
        and len(sentence.text) <= able.max_chars
        and bool(sentence.words)
        and (not realise or partition_marks(sentence, able).request.marks == sentence.marks)
        and not any(mark.is_pause for mark in sentence.marks)
    )


class LiveSentence:
    """Streams one sentence.

    Attributes:
        request: the given request, with the last context that the backend returned.
        rest: the silence at the end of the sentence, which starts the next one; empty until `speak` has ended.
    """

    def __init__(self, backend: Synthesizer, request: SpeechRequest, rate: int) -> None:
        self.request = request
        self._backend = backend
        self._stream = SentenceStream(rate)
        self.rest = self._stream.nothing

    async def speak(self, sentence: TaggedText, *, last: bool) -> AsyncGenerator[Result, None]:
        """Speak the sentence. The first result has its text, the last one is complete. ``last``: this sentence ends the text."""
        backend, marked = self._backend, sentence.marked
        marks = partition_marks(marked, backend.capabilities_of(self.request.voice))
        undone = [mark for mark in marked.marks if mark not in marks.request.marks]
        skipped = [mark for mark in undone if mark not in marks.dropped]
        warnings = dropped_warnings(marks.dropped, marked, backend.name) + skipped_warnings(skipped, marked, backend.name)
        result = Result(
            self._stream.nothing,
            marked,
            sentence.scores,
            (),
            backend.name,
            unrealised=tuple(undone),
            warnings=sentence.warnings,
            complete=False,
        )
        async with aclosing(backend.speak(replace(self.request, text=marks.request))) as speeches:
            async for speech in speeches:
                warnings += [*speech.warnings, *skipped_warnings(speech.unrealised, marked, backend.name)]
                result = replace(result, unrealised=(*result.unrealised, *speech.unrealised))
                self.request = replace(self.request, context=speech.context)
                ready = self._stream.add(speech.audio)
                if len(ready.samples):
                    yield replace(result, audio=ready)
                    result = replace(result, marked=plain(""), scores=(), warnings=(), unrealised=())
        end, self.rest = self._stream.end(last=last)
        yield replace(result, audio=end, warnings=tuple(dict.fromkeys((*result.warnings, *warnings))), complete=True)
