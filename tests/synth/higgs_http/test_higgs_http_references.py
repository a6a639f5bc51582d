"""Speaking in the voice of a recording: sent with each request, or registered on the server."""

import asyncio
import base64
import logging

import numpy as np
import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_helpers import (  # noqa: F401 (a fixture)
    KEY,
    TEXT,
    assert_no_secrets,
    backend_at,
    clean_environment,
    samples,
    speak,
    spoken,
    wait_until,
)

from synth.audio.encoding import encode
from synth.base import Audio, Reference
from synth.errors import BackendError, BackendTimeout, RefusedRequest
from synth.higgs_http.voices import MAX_REGISTERED, RegisteredVoices
from synth.reference import read_reference

VOICES = "/v1/audio/voices"
SPEECH = "/v1/audio/speech"
SAID = "Some calm and steady words that were recorded to be imitated."


def recording(pitch: float = 120.0, audio_format: str = "wav", said: str = SAID) -> Reference:
    time = np.arange(4 * 24_000) / 24_000
    sound = np.sin(2 * np.pi * pitch * time) * np.sin(2 * np.pi * 3 * time) / 2
    return read_reference(encode(Audio(sound.astype(np.float32), 24_000), audio_format), said)


def paths(fake) -> list[str]:
    return [request.path for request in fake.requests]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("audio_format", ["wav", "mp3", "flac", "opus"])
def test_sent_with_the_request(dialect, audio_format):
    reference = recording(audio_format=audio_format)
    with serve(Options(dialect=dialect)) as fake:
        assert len(samples(spoken(backend_at(fake), reference=reference)))
        [request] = fake.requests
    if dialect == "boson-chat":
        system, transcript, sound, text = request.json["messages"]
        assert [message["role"] for message in (system, transcript, sound, text)] == ["system", "user", "assistant", "user"]
        assert (transcript["content"], text["content"]) == (SAID, TEXT)
        audio = sound["content"][0]["input_audio"]
        assert audio["format"] == ("mp3" if audio_format == "mp3" else "wav")
        if audio_format in ("wav", "mp3"):
            assert base64.b64decode(audio["data"]) == reference.audio
        assert "voice" not in request.json["audio"]
    else:
        head, _, data = request.json["ref_audio"].partition(",")
        media = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg"}[audio_format]
        assert head == f"data:{media};base64"
        assert base64.b64decode(data) == reference.audio
        assert request.json["ref_text"] == SAID
        assert ("voice" in request.json) == (dialect == "openai-speech")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_transcript_is_sent_without_tags(dialect):
    with serve(Options(dialect=dialect)) as fake:
        reference = recording(said="Hello <|eot_id|> and <emph>goodbye.")
        assert len(samples(spoken(backend_at(fake), reference=reference)))
        assert b"<|" not in fake.requests[0].body
        assert b"<emph>" not in fake.requests[0].body


def test_a_format_that_cannot_be_sent():
    with serve(Options()) as fake:
        with pytest.raises(RefusedRequest, match="'aiff'"):
            spoken(backend_at(fake), reference=Reference(b"FORM", "aiff", SAID))
        assert not fake.requests


def test_each_recording_is_registered_once():
    one, other = recording(), recording(pitch=200)
    with serve(Options()) as fake:
        backend = backend_at(fake, references="register")
        for reference in (one, other, one, one):
            assert len(samples(spoken(backend, reference=reference)))
        assert paths(fake) == [VOICES, SPEECH, VOICES, SPEECH, SPEECH, SPEECH]
        registered, spoken_with = fake.requests[0].json, fake.requests[1].json
        assert registered["ref_text"] == SAID
        assert registered["title"].startswith("prosody ")
        assert registered.keys() == {"ref_audio", "ref_text", "title"}
        assert spoken_with["voice"] in fake.voices
        assert "ref_audio" not in spoken_with
        assert fake.requests[3].json["voice"] != spoken_with["voice"]


def test_concurrent_requests_register_a_recording_once():
    async def talk():
        return await asyncio.gather(*(speak(backend, f"Number {number}.", reference=recording()) for number in range(8)))

    with serve(Options(delay_ms=20)) as fake:
        backend = backend_at(fake, references="register")
        assert all(len(samples(speeches)) for speeches in asyncio.run(talk()))
        assert paths(fake).count(VOICES) == 1


def test_if_the_first_request_is_cancelled_another_registers_the_recording():
    async def talk():
        first = asyncio.create_task(speak(backend, reference=recording()))
        await asyncio.to_thread(wait_until, lambda: paths(fake) == [VOICES])
        second = asyncio.create_task(speak(backend, reference=recording()))
        await asyncio.sleep(0.05)
        first.cancel()
        return await second

    with serve(Options()) as fake:
        fake.misbehave(Fault.NEVER_ANSWERS, times=1, path=VOICES)
        backend = backend_at(fake, references="register")
        assert len(samples(asyncio.run(talk())))
        assert paths(fake) == [VOICES, VOICES, SPEECH]


def test_a_recording_that_the_server_has_dropped_is_registered_again():
    with serve(Options()) as fake:
        backend = backend_at(fake, references="register")
        spoken(backend, reference=recording())
        fake.voices.clear()
        assert len(samples(spoken(backend, reference=recording())))
        assert paths(fake)[2:] == [SPEECH, VOICES, SPEECH]


def test_other_refusals_do_not_register_again():
    with serve(Options()) as fake:
        backend = backend_at(fake, references="register")
        spoken(backend, reference=recording())
        fake.misbehave(Fault.TOO_LONG)
        with pytest.raises(RefusedRequest, match="too long"):
            spoken(backend, reference=recording())
        assert paths(fake)[2:] == [SPEECH]


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault.NEVER_ANSWERS, BackendTimeout, "READ_TIMEOUT"),
        (Fault.HANGS_UP, BackendError, "broke off"),
        (Fault.UNAUTHORIZED, BackendError, "API_KEY"),
        (Fault.BUSY, BackendError, "429"),
        (Fault.ERROR_500, BackendError, "500"),
        (Fault.ECHO_400, RefusedRequest, "400"),
        (Fault.HTML, BackendError, "returned no voice"),
        (Fault.JSON_ERROR, BackendError, "returned no voice"),
        (Fault.WRONG_JSON, BackendError, "returned no voice"),
        (Fault.GZIP_BOMB, BackendError, "compressed"),
        (Fault.STALLS, BackendTimeout, "READ_TIMEOUT"),
        (Fault.DRIPS, BackendTimeout, "not finish within"),
    ],
)
def test_faults_of_registering(fault, error, words, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(Options(key=KEY, drip_ms=5)) as fake:
        fake.misbehave(fault, path=VOICES)
        with pytest.raises(error, match=words) as caught:
            spoken(backend_at(fake, references="register", read_timeout=0.2, total_timeout=0.5), reference=recording())
        assert paths(fake) == [VOICES]
    for said in (f"{caught.value!s} {caught.value!r}", caplog.text):
        assert_no_secrets(said)
        assert_no_secrets(said, SAID)


def test_registering_is_retried():
    with serve(Options()) as fake:
        fake.misbehave(Fault.ERROR_503, times=1, path=VOICES)
        assert len(samples(spoken(backend_at(fake, references="register", retries=1), reference=recording())))
        assert paths(fake) == [VOICES, VOICES, SPEECH]


def test_no_message_repeats_a_refused_recording(caplog):
    caplog.set_level(logging.DEBUG)
    reference = recording()
    with serve(Options(key=KEY, fault=Fault.ECHO_400)) as fake, pytest.raises(RefusedRequest) as caught:
        spoken(backend_at(fake), reference=reference)
    sound = base64.b64encode(reference.audio).decode()
    for said in (str(caught.value), caplog.text):
        assert_no_secrets(said, SAID)
        assert sound[:24] not in said
        assert sound[2000:2024] not in said


def test_the_number_of_registered_voices_is_limited():
    voices = RegisteredVoices()
    first = voices.add("0", "voice_0")
    for number in range(1, MAX_REGISTERED + 1):
        assert voices.find("1") or number == 1
        voices.add(str(number), f"voice_{number}")
    assert voices.find("0") is None
    assert voices.find("1").name == "voice_1"
    again = voices.add("0", "voice_0")
    voices.remove("0", first)  # replaced by a later registration
    assert voices.find("0") is again
    voices.remove("0", again)
    assert voices.find("0") is None
