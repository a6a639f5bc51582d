"""The OpenAI endpoints, used with OpenAI's own SDK."""

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile as sf
from fake_higgs import Fault, Options, serve
from openai import AsyncOpenAI, OpenAI
from served import MARKED, SENTENCE, Server, events_of, serving

from api.routes.openai import OPENAI_VOICES
from api.settings import ApiSettings
from prosody_tagger.markup import parse
from synth.audio.decoding import decode
from synth.audio.encoding import MEDIA_TYPES, encode
from synth.base import Audio
from synth.higgs_http.settings import HiggsSettings

pytest_plugins = ["one_server"]

LONG = " ".join(f"The {word} train leaves at nine." for word in ("first", "second", "third", "fourth", "fifth"))
KEY = "a-long-enough-key-1"


def sdk_at(server: Server, key: str = "none", retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries, timeout=30)


@pytest.fixture(scope="module")
def sdk(served: Server) -> Iterator[OpenAI]:
    with sdk_at(served) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def seconds_of(data: bytes, form: str) -> float:
    if form == "pcm":
        return len(data) / 2 / 24_000
    return sf.info(io.BytesIO(data)).duration


# Speech


def test_create(sdk: OpenAI, client: httpx.Client):
    spoken = sdk.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE)
    assert spoken.response.headers["content-type"] == "audio/mpeg"
    assert spoken.response.headers["x-prosody-backend"] == "embedded"
    assert spoken.content == client.post("/speak", json={"text": SENTENCE, "format": "mp3"}).content


def test_it_writes_to_a_file(sdk: OpenAI, tmp_path: Path):
    spoken = sdk.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, response_format="wav")
    spoken.write_to_file(tmp_path / "a.wav")
    assert sf.info(tmp_path / "a.wav").samplerate == 24_000


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_format(sdk: OpenAI, form: str):
    spoken = sdk.audio.speech.create(model="gpt-4o-mini-tts", voice="nova", input=SENTENCE, response_format=form)
    assert spoken.response.headers["content-type"] == MEDIA_TYPES[form]
    if form != "aac":
        assert 0.5 < seconds_of(spoken.content, form) < 5
    else:
        assert spoken.content[0] == 0xFF


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_stream_in_every_format(sdk: OpenAI, form: str, tmp_path: Path):
    with sdk.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input=LONG, response_format=form) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        data = b"".join(answer.iter_bytes())
    assert len(data) > 10_000
    if form in ("wav", "flac"):
        whole = decode(sdk.audio.speech.create(model="tts-1", voice="alloy", input=LONG, response_format="wav").content)
        assert np.array_equal(decode(data).samples, whole.samples)


def test_a_stream_to_a_file(sdk: OpenAI, tmp_path: Path):
    with sdk.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input=LONG) as answer:
        answer.stream_to_file(tmp_path / "a.mp3")
    assert sf.info(tmp_path / "a.mp3").duration > 5


def test_the_async_client(served: Server):
    async def test() -> list[bytes]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def one(number: int) -> bytes:
                create = client.audio.speech.with_streaming_response.create
                async with create(model="tts-1", voice="alloy", input=f"Number {number}.", response_format="pcm") as answer:
                    return b"".join([chunk async for chunk in answer.iter_bytes()])

            return await asyncio.gather(*(one(number) for number in range(10)))

    sounds = asyncio.run(test())
    assert len(set(sounds)) == 10


def test_speed(sdk: OpenAI):
    slow, fast = (
        len(sdk.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, response_format="pcm", speed=speed).content)
        for speed in (0.25, 4.0)
    )
    assert slow > 6 * fast


@pytest.mark.parametrize("voice", OPENAI_VOICES)
def test_voices_of_openai_are_accepted(sdk: OpenAI, voice: str):
    assert sdk.audio.speech.create(model="tts-1", voice=voice, input="Hello.", response_format="pcm").content


def test_voices_of_the_backend(sdk: OpenAI):
    british, american, by_id = (
        sdk.audio.speech.create(model="embedded", voice=voice, input="Hello, Carl.", response_format="pcm").content
        for voice in ("en-gb", "alloy", {"id": "en-gb"})
    )
    assert british == by_id != american


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15", "prosody", "embedded"])
def test_models(sdk: OpenAI, model: str):
    assert sdk.audio.speech.create(model=model, voice="alloy", input="Hello.", response_format="pcm").content
    assert sdk.models.retrieve(model).id == model


def test_instructions_are_accepted_and_never_spoken(sdk: OpenAI):
    plain, instructed = (
        sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hello.", response_format="pcm", **more).content
        for more in ({}, {"instructions": "Speak like a pirate."})
    )
    assert plain == instructed


def test_the_input_is_plain_text_by_default(sdk: OpenAI):
    def marked(**extra: object) -> str:
        spoken = sdk.audio.speech.create(
            model="tts-1", voice="alloy", input=MARKED, response_format="wav", extra_body=extra or None
        )
        return httpx.QueryParams("m=" + spoken.response.headers["x-prosody-marked"])["m"]

    assert parse(marked(marked=True)) == parse(MARKED)
    assert parse(marked()).text == MARKED


def test_fields_of_this_project(sdk: OpenAI):
    extra = {"intensity": "high", "seed": 3, "realise": False, "language": "en-gb", "unknown_field": 1}
    assert sdk.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, extra_body=extra).content


def test_events(sdk: OpenAI):
    with sdk.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input=LONG, response_format="pcm", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.iter_lines())
    whole = sdk.audio.speech.create(model="tts-1", voice="alloy", input=LONG, response_format="pcm").content
    assert b"".join(base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta") == whole
    assert events[-1]["type"] == "speech.audio.done"
    usage = events[-1]["usage"]
    assert usage["input_tokens"] == len(LONG)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    words = [word["word"] for event in events if event["type"] == "speech.sentence" for word in event["words"]]
    assert words == LONG.replace(".", "").split()


# Models and voices


def test_models_are_listed(sdk: OpenAI):
    listed = list(sdk.models.list())
    assert {"prosody", "embedded", "natural", "higgs-http", "higgs-local", "tts-1"} == {model.id for model in listed}
    assert all(model.object == "model" for model in listed)


def test_voices_are_stored_listed_and_deleted(sdk: OpenAI, client: httpx.Client):
    times = np.arange(4 * 16_000) / 16_000
    recording = encode(Audio((0.3 * np.sin(2 * np.pi * 140 * times)).astype(np.float32), 16_000), "wav")
    kept = sdk.audio.voices.create(audio_sample=recording, consent="none", name="Ann", extra_body={"text": SENTENCE})
    voice = kept.id
    assert kept.name == "Ann"
    assert voice in client.get("/v1/audio/voices").json()["voices"]
    with pytest.raises(openai.BadRequestError, match="recording"):
        sdk.audio.speech.create(model="embedded", voice={"id": voice}, input=SENTENCE)
    assert sdk.audio.voices.delete(voice).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.audio.speech.create(model="embedded", voice=voice, input=SENTENCE)


# Errors


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"input": ""}, openai.BadRequestError),
        ({"input": "a " * 10_001}, openai.BadRequestError),
        ({"voice": "nobody"}, openai.BadRequestError),
        ({"voice": {"id": "voice_" + "0" * 64}}, openai.NotFoundError),
        ({"voice": {}}, openai.BadRequestError),
        ({"model": "whisper-1"}, openai.NotFoundError),
        ({"model": "higgs-local"}, openai.InternalServerError),
        ({"speed": 5.0}, openai.UnprocessableEntityError),
        ({"response_format": "midi"}, openai.UnprocessableEntityError),
        ({"stream_format": "smoke"}, openai.UnprocessableEntityError),
        ({"extra_body": {"marked": True, "input": "a <nonsense>"}}, openai.BadRequestError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_are_exceptions_of_the_sdk(sdk: OpenAI, fields: dict[str, object], error: type[openai.APIStatusError]):
    with pytest.raises(error) as caught:
        sdk.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": SENTENCE} | fields)
    assert caught.value.code
    assert caught.value.type == ("server_error" if caught.value.status_code >= 500 else "invalid_request_error")
    assert caught.value.body["message"]
    assert caught.value.request_id


def test_the_field_that_was_wrong_is_named(sdk: OpenAI):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, speed=9)
    assert caught.value.param == "speed"


def test_an_unknown_model(sdk: OpenAI):
    with pytest.raises(openai.NotFoundError, match="did you mean embedded") as caught:
        sdk.models.retrieve("embeded")
    assert caught.value.code == "model_not_found"


def test_key_and_rate_errors_are_exceptions_of_the_sdk(tiny_tagger: Path):
    with serving(tiny_tagger, ApiSettings(keys=KEY, rate_limit="2/minute")) as server:
        with sdk_at(server, "wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        with sdk_at(server, KEY) as client:
            client.models.list()
            client.models.list()
            with pytest.raises(openai.RateLimitError) as limited:
                client.models.list()
        assert int(limited.value.response.headers["retry-after"]) >= 1


def test_the_sdk_retries_after_503(tiny_tagger: Path):
    with serve(Options(delay_ms=300)) as fake:
        higgs = HiggsSettings(url=fake.url, api_key=fake.options.key, retries=0)
        with serving(tiny_tagger, ApiSettings(running=1, waiting=0), backend="higgs-http", higgs=higgs, realise=False) as server:

            async def test() -> list[bytes]:
                async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5) as client:

                    async def one(number: int) -> bytes:
                        extra = {"marked": True}
                        spoken = await client.audio.speech.create(
                            model="tts-1", voice="alloy", input=f"Number {number}.", response_format="pcm", extra_body=extra
                        )
                        return spoken.content

                    return await asyncio.gather(*(one(number) for number in range(2)))

            assert all(asyncio.run(test()))
            assert len(fake.requests) == 2


# Errors after a stream has started


@pytest.fixture
def failing(tiny_tagger: Path) -> Iterator[Server]:
    """A service whose backend fails at the third sentence."""
    with serve(Options()) as fake:
        # One connection, so that sentences are spoken one after the other and the third one fails.
        higgs = HiggsSettings(url=fake.url, api_key=fake.options.key, retries=0, max_connections=1)
        fake.misbehave(Fault.ERROR_500, after=2)
        with serving(tiny_tagger, backend="higgs-http", higgs=higgs, realise=False) as server:
            yield server


def test_an_interrupted_stream_does_not_look_complete(failing: Server):
    body = {"input": LONG, "marked": True, "response_format": "pcm"}
    with httpx.stream("POST", f"{failing.url}/v1/audio/speech", json=body, trust_env=False, timeout=30) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_interrupted_events_end_with_an_error_event(failing: Server):
    body = {"input": LONG, "marked": True, "response_format": "pcm", "stream_format": "sse"}
    events = []
    with (
        httpx.stream("POST", f"{failing.url}/v1/audio/speech", json=body, trust_env=False, timeout=30) as answer,
        contextlib.suppress(httpx.RemoteProtocolError),
    ):
        for line in answer.iter_lines():
            events += events_of([line])
    assert [event["type"] for event in events[-2:]] == ["speech.audio.delta", "error"]
    assert events[-1]["error"]["code"] == "interrupted"
    assert not any(event["type"] == "speech.audio.done" for event in events)


def test_a_fallback_is_reported(tiny_tagger: Path):
    with serve(Options()) as fake:
        higgs = HiggsSettings(url=fake.url, api_key="wrong-key", retries=0)
        with serving(tiny_tagger, backend="higgs-http", higgs=higgs) as server:
            server.service.settings.fallback = "embedded"
            with sdk_at(server) as client:
                spoken = client.audio.speech.create(
                    model="tts-1", voice="alloy", input=SENTENCE, response_format="wav", extra_body={"marked": True}
                )
    assert spoken.response.headers["x-prosody-fallback"] == "higgs-http"
    assert spoken.response.headers["x-prosody-backend"] == "embedded"
    assert "failed" in spoken.response.headers["x-prosody-warnings"]
