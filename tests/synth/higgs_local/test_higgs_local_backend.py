"""The backend `higgs-local`: capabilities, the model's input, the speech returned, and use by the pipeline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_local_adapters import MARKS, make_model, save_adapter, save_trained
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling import is_linear
from scripted_higgs import ScriptedEngine

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.markup import KINDS, Alias, Mark, MarkedText, parse, plain, render
from prosody_tagger.ssml import from_ssml
from synth.base import Speech, SpeechRequest
from synth.errors import RefusedRequest
from synth.higgs_local.adapter import AdapterError
from synth.higgs_local.backend import MAX_CHARS, HiggsLocal
from synth.higgs_local.model_text import spoken_text
from synth.higgs_local.prompt import Context
from synth.higgs_local.settings import HiggsLocalSettings


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters trained on emph and short pauses, on emph, and on no marks; and a broken one."""
    model = make_model()
    folder = tmp_path_factory.mktemp("adapters")
    save_trained(model, folder / "marks", seed=1)
    save_trained(model, folder / "stress", {"emph": MARKS["emph"]}, seed=2)
    save_adapter(model, folder / "voice", seed=3)
    save_trained(model, folder / "zz broken", seed=4)
    (folder / "zz broken" / "prosody.json").write_text("{")
    return folder


class Scripted(HiggsLocal):
    """The backend with a scripted engine."""

    def __init__(self, adapters: Path | None = None, **rest: Any) -> None:
        super().__init__(HiggsLocalSettings(adapters=None if adapters is None else str(adapters), **rest))
        self.engine = ScriptedEngine(self._settings, model=make_model())

    def _engine(self) -> Any:
        return self.engine

    @property
    def prompt(self) -> dict[str, Any]:
        """The model's last input."""
        return self.engine.prompts[-1]


@asynccontextmanager
async def opened(adapters: Path | None = None, **rest: Any) -> AsyncIterator[Scripted]:
    backend = Scripted(adapters, **rest)
    try:
        yield backend
    finally:
        await backend.close()


async def say(backend: HiggsLocal, text: str | MarkedText, **rest: Any) -> list[Speech]:
    marked = parse(text) if isinstance(text, str) else text
    return [speech async for speech in backend.speak(SpeechRequest(marked, **rest))]


def said(text: str | MarkedText, adapters: Path | None = None, **rest: Any) -> tuple[dict[str, Any], list[Speech]]:
    """Speak a request; return the model's input and the speech."""

    async def main() -> tuple[dict[str, Any], list[Speech]]:
        async with opened(adapters) as backend:
            speeches = await say(backend, text, **rest)
            return backend.prompt, speeches

    return asyncio.run(main())


def unrealised(speeches: list[Speech]) -> list[str]:
    return [mark.kind for speech in speeches for mark in speech.unrealised]


# Capabilities and voices


def test_without_adapters_every_mark_is_realised() -> None:
    able = HiggsLocal().capabilities
    assert set(able.marks.values()) == {"realised"}
    assert (able.rate, able.streaming, able.references, able.speed, able.word_times) == (24_000, True, True, False, False)


def test_marks_are_native_only_where_an_adapter_was_trained_on_them(adapters: Path) -> None:
    able = Scripted(adapters).capabilities
    assert {kind for kind in KINDS if able.marks[kind] == "native"} == {"emph", "pause_short"}
    assert set(able.marks.values()) == {"native", "realised"}


def test_an_adapter_that_comes_later_is_seen(adapters: Path, tmp_path: Path) -> None:
    backend = Scripted(tmp_path)
    assert backend.capabilities.marks["emph"] == "realised"
    (tmp_path / "new").symlink_to(adapters / "stress")
    assert backend.capabilities.marks["emph"] == "native"
    assert backend.capabilities_of(None).marks["emph"] == "realised"
    assert [voice.name for voice in asyncio.run(backend.voices())] == ["default", "new"]


def test_each_adapter_is_a_voice(adapters: Path) -> None:
    voices = {voice.name: voice.description for voice in asyncio.run(Scripted(adapters).voices())}
    assert list(voices) == ["default", "marks", "stress", "voice", "zz broken"]
    assert "emph, pause_short" in voices["marks"]
    assert "without marks" in voices["voice"]
    assert "cannot be used" in voices["zz broken"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, adapters: Path) -> None:
    assert Scripted(adapters, model=str(tmp_path)).unready() is None
    assert "PROSODY_HIGGS_LOCAL__ADAPTERS" in str(Scripted(tmp_path / "none", model=str(tmp_path)).unready())
    assert "PROSODY_HIGGS_LOCAL__MODEL" in str(Scripted(adapters, model="nobody/nothing").unready())


# The model's input


def test_marks_are_tokens_only_where_trained(adapters: Path) -> None:
    text = "So <emph>only <pause_short>this <pitch_low>one"
    prompt, speeches = said(text, adapters, voice="marks")
    assert prompt["said"] == "So <emph>only <pause_short>this one"
    assert prompt["mark_ids"] == {"emph": 280, "pause_short": 281}
    assert unrealised(speeches) == ["pause_short", "pitch_low"]  # pauses are always realised afterwards
    prompt, speeches = said(text, adapters, voice="stress")
    assert prompt["said"] == "So <emph>only, this one"
    assert prompt["mark_ids"] == {"emph": 280}
    assert unrealised(speeches) == ["pause_short", "pitch_low"]
    for voice in (None, "default", "voice"):
        prompt, speeches = said(text, adapters, voice=voice)
        assert prompt["said"] == "So only, this one"
        assert not prompt["mark_ids"]
        assert unrealised(speeches) == ["emph", "pause_short", "pitch_low"]


def test_what_is_left_is_told_once(adapters: Path) -> None:
    _, speeches = said("one two three four five six seven <emph>eight", adapters)
    assert len(speeches) > 2
    assert unrealised(speeches) == ["emph"]


def test_a_pause_with_a_length_or_at_an_edge_is_left_to_the_audio(adapters: Path) -> None:
    text = MarkedText("one two", (Mark("pause_short", 0), Mark("pause_short", 4, 900), Mark("pause_short", 7)))
    prompt, speeches = said(text, adapters, voice="marks")
    assert prompt["said"] == "one, two"
    assert unrealised(speeches) == ["pause_short"] * 3


def test_breaks_and_an_open_end_become_commas() -> None:
    prompt, _ = said("so we go", breaks=(3,), unfinished=True)
    assert prompt["said"] == "so, we go,"


def test_aliases_are_read_in_the_place_of_what_they_cover() -> None:
    prompt, _ = said(MarkedText("Dr X came", (), (Alias(0, 2, "doctor"),)))
    assert prompt["said"] == "doctor X came"


def test_a_piece_without_words_is_silence_and_the_model_is_not_asked() -> None:
    async def main() -> None:
        async with opened() as backend:
            for text in ("", " ... ", "\x00", "—"):
                (speech,) = await say(backend, plain(text), context=None)
                assert not len(speech.audio.samples)
            assert not backend.engine.prompts

    asyncio.run(main())


def test_seed_and_reference_go_along() -> None:
    from synth.base import Reference

    reference = Reference(b"RIFF", "wav", "hello")
    prompt, _ = said("one", reference=reference, seed=5)
    assert prompt["reference"] is reference


def test_the_sentence_before_goes_along_as_text_and_codes(adapters: Path) -> None:
    async def main() -> None:
        async with opened(adapters) as backend:
            first = await say(backend, "So <emph>one two", voice="marks")
            context = first[-1].context
            assert isinstance(context, Context)
            assert [speech.context for speech in first[:-1]] == [None] * (len(first) - 1)
            await say(backend, "Three", voice="marks", context=context)
            before = backend.prompt["context"]
            assert render(before.text) == "So <emph>one two"
            assert before.codes.shape == (30, 8)
            await say(backend, "Three", context=context)  # an adapter that was not trained on the marks of the context
            assert render(backend.prompt["context"].text) == "So one two"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ({"speed": 1.5}, "speed 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "out of range"),
        ({"voice": "mark"}, "did you mean 'marks'"),
        ({"voice": ""}, "no voice ''"),
        ({"voice": "../marks"}, "no voice"),
        ({"context": "half"}, "type str"),
        ({"voice": "zz broken"}, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused(rest: dict[str, Any], why: str, adapters: Path) -> None:
    with pytest.raises((RefusedRequest, AdapterError), match=why):
        said("one", adapters, **rest)


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(RefusedRequest, match=f"at most {MAX_CHARS}"):
        said(plain("a" * (MAX_CHARS + 1)))
    with pytest.raises(RefusedRequest, match="too long"):
        said(MarkedText("X", (), (Alias(0, 1, "a" * MAX_CHARS),)))


def test_a_runaway_is_cut_and_told() -> None:
    _, speeches = said("forever", None)
    assert "was cut" in speeches[-1].warnings[0]
    heard = sum(speech.audio.seconds for speech in speeches)
    assert heard == pytest.approx(5 + 7 * 0.2, abs=0.05)
    assert not [speech for speech in speeches[:-1] if speech.warnings]


def test_closing_the_generator_cancels() -> None:
    async def main() -> None:
        async with opened() as backend:
            speaking = backend.speak(SpeechRequest(plain("forever")))
            await anext(speaking)
            await speaking.aclose()
            while not backend.engine.closed:  # noqa: ASYNC110 (it happens in another thread)
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_an_adapter_of_another_base_is_refused_and_others_speak_on(adapters: Path) -> None:
    async def main() -> None:
        async with opened(adapters) as backend:
            backend.engine.model = make_model(seed=7)
            good, bad = await asyncio.gather(say(backend, "one"), say(backend, "one", voice="marks"), return_exceptions=True)
            assert isinstance(good, list)
            assert isinstance(bad, AdapterError)
            assert await say(backend, "two")

    asyncio.run(main())


def test_adapters_are_switched_without_loading_the_base_again(adapters: Path) -> None:
    async def main() -> None:
        async with opened(adapters) as backend:
            weights = backend.engine.model.model.layers[0].self_attn.q_proj.weight
            base = weights.clone()
            seen = []
            backend.engine.at_prompt = lambda _: seen.append(weights.clone())
            for voice in ("default", "marks", "stress", "marks", "default"):
                await say(backend, "one", voice=voice)
            assert torch.equal(seen[0], base)
            assert torch.equal(seen[4], base)
            assert torch.equal(seen[1], seen[3])
            assert not torch.equal(seen[1], seen[2])
            assert not torch.equal(seen[1], base)

    asyncio.run(main())


# The spoken text


@given(st.text(max_size=40), st.data())
@settings(deadline=None)
def test_no_mark_is_lost_and_no_letter_changes(text: str, data: st.DataObject) -> None:
    marks = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
    try:
        marked = MarkedText(text, tuple(Mark("emph", offset) for offset in marks))
    except Exception:
        return  # a lone surrogate is not a text
    breaks = data.draw(st.sets(st.integers(0, len(text)), max_size=3))
    read = spoken_text(marked, unfinished=data.draw(st.booleans()), breaks=breaks)
    assert len(read.marks) == len(marked.marks)
    assert letters(read.text) == letters(text)
    for before, after in zip(marked.marks, read.marks, strict=True):
        assert "".join(read.text[: after.offset].replace(",", "").split()) == "".join(
            text[: before.offset].replace(",", "").split()
        )


def letters(text: str) -> str:
    return "".join(text.replace(",", "").split())


def test_reading_stays_linear() -> None:
    def read(text: str) -> object:
        return spoken_text(plain(text), breaks=frozenset(range(0, len(text), 4)))

    assert is_linear(read, "a \x00\t" * 20_000, "a \x00\t" * 80_000)


# The pipeline


def through(job: Job, backend: HiggsLocal) -> Any:
    async def main() -> Any:
        runtime = Runtime(Settings(backend="higgs-local", fallback="none"))
        runtime._backends["higgs-local"] = backend
        try:
            return await collect(job, runtime)
        finally:
            await runtime.close()

    return asyncio.run(main())


def test_through_the_pipeline_marks_reach_the_model_and_context_goes_on(adapters: Path) -> None:
    backend = Scripted(adapters)
    text = parse("So <emph>one two. And <pitch_high>three <pause_short>four.")
    result = through(Job(text, voice="marks", realise=False), backend)
    assert [prompt["said"] for prompt in backend.engine.prompts] == ["So <emph>one two.", "And three <pause_short>four."]
    first, second = (prompt["context"] for prompt in backend.engine.prompts)
    assert first is None
    assert render(second.text) == "So <emph>one two."
    assert result.backend == "higgs-local"
    assert result.audio.rate == 24_000
    assert result.audio.seconds > 2
    assert any("pitch_high" in warning for warning in result.warnings)


def test_through_the_pipeline_ssml_without_an_adapter() -> None:
    backend = Scripted()
    result = through(Job(from_ssml("<speak>one <emphasis>two</emphasis></speak>"), seed=1), backend)
    assert [prompt["said"] for prompt in backend.engine.prompts] == ["one two"]
    assert result.marked.text == "one two"


def test_a_long_sentence_is_cut_for_the_model() -> None:
    backend = Scripted()
    through(Job(plain("word " * 100), realise=False), backend)
    assert len(backend.engine.prompts) > 1
    assert all(len(prompt["said"]) <= MAX_CHARS + 1 for prompt in backend.engine.prompts)
