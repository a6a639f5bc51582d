"""From text and marks to codes and audio, with a real engine, codec and adapters, tiny and random."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from higgs_local_adapters import save_adapter, save_trained
from tiny_higgs import MARK_TOKENS, ending, save_checkpoint, tiny_model, tiny_tokenizer

from ai_core.pipeline import Job, collect, stream
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.markup import MarkedText, parse, plain
from synth.audio.encoding import encode
from synth.base import Audio, Reference, Speech, SpeechRequest
from synth.errors import BackendUnavailable
from synth.higgs_local.backend import HiggsLocal
from synth.higgs_local.engine import HiggsEngine
from synth.higgs_local.merge import merge
from synth.higgs_local.prompt import Context, Prompt
from synth.higgs_local.prosody_file import TrainedMark
from synth.higgs_local.settings import HiggsLocalSettings

IDS = tiny_tokenizer().convert_tokens_to_ids(MARK_TOKENS)
GREEDY = {"temperature": 0.0, "ras_window": 0}
MARKS = {kind: TrainedMark(MARK_TOKENS[i], IDS[i]) for i, kind in enumerate(("emph", "pause_long", "pitch_high"))}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and a folder with an adapter trained on marks and one without marks."""
    base, adapters = tmp_path_factory.mktemp("base") / "model", tmp_path_factory.mktemp("adapters")
    model = ending(tiny_model())
    save_trained(model, adapters / "marks", MARKS)
    save_adapter(model, adapters / "voice", seed=5)
    return save_checkpoint(base, model=model), adapters


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never generates EOS."""
    return save_checkpoint(tmp_path_factory.mktemp("endless") / "model")


class WatchedHiggsLocal(HiggsLocal):
    """Records the prompts and engines."""

    def __init__(self, settings: HiggsLocalSettings) -> None:
        super().__init__(settings)
        self.prompts: list[Prompt] = []
        self.engines: list[HiggsEngine] = []

    def _engine(self) -> HiggsEngine:
        engine = super()._engine()
        write = engine.prompt

        def prompt(*args: Any, **rest: Any) -> Prompt:
            self.prompts.append(write(*args, **rest))
            return self.prompts[-1]

        engine.prompt = prompt  # type: ignore[method-assign]
        self.engines.append(engine)
        return engine

    def marks_given(self, at: int = -1) -> list[int]:
        """Return the ids of the marks' tokens in a prompt, in order."""
        return [number for number in self.prompts[at].ids.tolist() if number in IDS]


def made(folders: tuple[Path, Path], **rest: Any) -> WatchedHiggsLocal:
    chosen = {"model": str(folders[0]), "adapters": str(folders[1]), "device": "cpu", "max_batch": 4, **GREEDY} | rest
    return WatchedHiggsLocal(HiggsLocalSettings(**chosen))


@asynccontextmanager
async def opened(folders: tuple[Path, Path], **rest: Any) -> AsyncIterator[WatchedHiggsLocal]:
    backend = made(folders, **rest)
    try:
        yield backend
    finally:
        await backend.close()


async def say(backend: HiggsLocal, text: str | MarkedText, **rest: Any) -> tuple[torch.Tensor, list[Speech]]:
    """Speak a text, which may contain marks; return its codes and chunks."""
    marked = parse(text) if isinstance(text, str) else text
    speeches = [speech async for speech in backend.speak(SpeechRequest(marked, **rest))]
    context = speeches[-1].context
    assert isinstance(context, Context)
    return context.codes, speeches


@pytest.fixture(scope="module")
def recording() -> Reference:
    drawn = np.random.default_rng(0)
    return Reference(encode(Audio(drawn.normal(0, 0.1, 24_000 * 3).astype(np.float32), 24_000)), "wav", "what is said in it")


def test_from_marked_text_to_sound_through_the_pipeline(folders: tuple[Path, Path]) -> None:
    backend = made(folders)

    async def main() -> Any:
        runtime = Runtime(Settings(backend="higgs-local", fallback="none"))
        runtime._backends["higgs-local"] = backend
        try:
            text = parse("So <emph>only <pause_long>today. <pitch_high>Really <pitch_low>now.")
            whole = await collect(Job(text, voice="marks", realise=False), runtime)
            pieces = [result async for result in stream(Job(text, voice="marks", realise=False), runtime)]
            return whole, pieces
        finally:
            await runtime.close()

    whole, pieces = asyncio.run(main())
    assert backend.marks_given(0) == [MARKS["emph"].id, MARKS["pause_long"].id]
    # The sentence before goes along, with the marks that the model was given.
    assert backend.marks_given(1) == [MARKS["emph"].id, MARKS["pause_long"].id, MARKS["pitch_high"].id]
    assert len(backend.prompts[1].audio)
    assert whole.audio.rate == 24_000
    assert whole.audio.seconds > 0.5
    assert np.isfinite(whole.audio.samples).all()
    assert np.abs(whole.audio.samples).max() > 0
    assert whole.marked.text == "So only today. Really now."
    assert any("<pitch_low>" in warning for warning in whole.warnings)
    assert not any("<emph>" in warning for warning in whole.warnings)
    assert len(pieces) == 2


def test_no_marks_token_reaches_the_base(folders: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with opened(folders) as backend:
            for voice in (None, "voice"):
                _, speeches = await say(backend, "So <emph>only <pause_long>today", voice=voice)
                assert backend.marks_given() == []
                assert [mark.kind for mark in speeches[0].unrealised] == ["emph", "pause_long"]
            # Nor when somebody writes it out.
            await say(backend, plain(f"So {MARK_TOKENS[0]} only <|eot_id|> today"))
            assert backend.marks_given() == []

    asyncio.run(main())


def test_an_adapter_speaks_as_its_merged_checkpoint_does(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    merged = tmp_path / "merged"
    merge(folders[1] / "voice", folders[0], merged)
    shutil.copytree(folders[0] / "codec", merged / "codec")

    async def main() -> None:
        async with opened(folders) as backend, opened((merged, folders[1])) as other:
            plainly, _ = await say(backend, "the same words")
            adapted, _ = await say(backend, "the same words", voice="voice")
            again, _ = await say(backend, "the same words")
            by_merged, _ = await say(other, "the same words")
            assert torch.equal(adapted, by_merged)
            assert torch.equal(plainly, again)
            assert not torch.equal(plainly, adapted)
            assert len(backend.engines) == 1

    asyncio.run(main())


def test_callers_at_once_hear_what_each_would_hear_alone(folders: tuple[Path, Path], recording: Reference) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("one", {}),
        ("a longer text with more words", {}),
        ("in the voice of a recording", {"reference": recording}),
        ("an <emph>adapter speaks", {"voice": "marks"}),
        ("a second <emph>one", {"voice": "marks"}),
        ("and another", {"voice": "voice"}),
    ]

    async def main() -> None:
        async with opened(folders) as backend:
            alone = [await say(backend, text, **rest) for text, rest in asked]
            together = await asyncio.gather(*(say(backend, text, **rest) for text, rest in asked))
        for (codes, _), (others, _) in zip(alone, together, strict=True):
            assert torch.equal(codes, others)

    asyncio.run(main())


def test_streamed_sound_is_the_sound_of_all_codes(endless: Path) -> None:
    async def main() -> None:
        async with opened((endless, endless.parent), first_frames=3, chunk_frames=20) as backend:
            codes, speeches = await say(backend, "one two")
            whole = backend.engines[0].decode(codes).samples
            heard = np.concatenate([speech.audio.samples for speech in speeches])
            assert len(speeches) > 4
            assert len(speeches[0].audio.samples) == 3 * 960
            assert len(heard) == len(whole) == 960 * len(codes)
            np.testing.assert_allclose(heard, whole, atol=1e-4)
            assert "was cut" in speeches[-1].warnings[0]

    asyncio.run(main())


def test_the_same_seed_is_the_same_speech(folders: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with opened(folders, temperature=1.0) as backend:
            first, _ = await say(backend, "one two three", seed=3)
            second, _ = await say(backend, "one two three", seed=3)
            other, _ = await say(backend, "one two three", seed=4)
            assert torch.equal(first, second)
            assert not torch.equal(first, other)

    asyncio.run(main())


def test_leaving_frees_the_place_on_the_engine(endless: Path) -> None:
    async def main() -> None:
        async with opened((endless, endless.parent), max_batch=1, max_seconds_per_char=5.0) as backend:
            async with aclosing(backend.speak(SpeechRequest(plain("it would go on for a minute")))) as speaking:
                await anext(speaking)
                waiting = asyncio.create_task(backend.speak(SpeechRequest(plain("one"))).__anext__())
                await asyncio.sleep(0.05)
                assert not waiting.done()
            async with asyncio.timeout(60):
                assert len((await waiting).audio.samples)

    asyncio.run(main())


def test_a_checkpoint_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened((tmp_path / "none", tmp_path)) as backend:
            with pytest.raises(BackendUnavailable, match="none"):
                await say(backend, "one")

    asyncio.run(main())


def test_memory_stays_flat_over_200_requests(tmp_path: Path, recording: Reference) -> None:
    model = ending(tiny_model(), 12.0)  # a strong EOS: every row ends soon
    save_trained(model, tmp_path / "adapters" / "marks", MARKS)
    base = save_checkpoint(tmp_path / "model", model=model)

    async def main() -> None:
        async with opened((base, tmp_path / "adapters"), max_batch=8) as backend:

            async def some(count: int) -> None:
                for start in range(0, count, 10):
                    plainly = [say(backend, f"{start + i}") for i in range(5)]
                    recorded = [say(backend, f"{start + i}", reference=recording) for i in range(2)]
                    leaving = [leave(backend, f"{start + i}") for i in range(2)]
                    marked = say(backend, f"<emph>{start}", voice="marks")
                    await asyncio.gather(*plainly, *recorded, *leaving, marked)
                    backend.prompts.clear()

            await some(100)
            before = measure()
            await some(200)
            after = measure()
            assert after[0] - before[0] < 10, "tensors"
            assert after[1] - before[1] < 10_000_000, "bytes"

    asyncio.run(main())


async def leave(backend: HiggsLocal, text: str) -> None:
    async with aclosing(backend.speak(SpeechRequest(plain(text)))) as speaking:
        await anext(speaking)


def measure() -> tuple[int, int]:
    """Return the number of tensors, and the resident memory in bytes."""
    gc.collect()
    tensors = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return tensors, pages * 4096


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
