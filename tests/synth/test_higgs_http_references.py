"""Speaking in the voice of a recording: sent along, or kept by the server."""

import asyncio
import base64
import logging

import numpy as np
import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_talk import KEY, TEXT, assert_discreet, clean_environment, samples, speak, spoken, voice_at  # noqa: F401 (a fixture)

from synth.audio.encoding import encode
from synth.base import Audio, Reference
from synth.errors import BackendError, BackendTimeout, RefusedRequest
from synth.higgs_http.registered import MAX_KEPT, RegisteredVoices
from synth.reference import read_reference

VOICES = "/v1/audio/voices"
SPEECH = "/v1/audio/speech"
SAID = "Some calm and steady words that were recorded to be imitated."


def recording(pitch: float = 120.0, form: str = "wav", said: str = SAID) -> Reference:
    time = np.arange(4 * 24_000) / 24_000
    sound = np.sin(2 * np.pi * pitch * time) * np.sin(2 * np.pi * 3 * time) / 2
    return read_reference(encode(Audio(sound.astype(np.float32), 24_000), form), said)


def paths(fake) -> list[str]:
    return [request.path for request in fake.requests]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus"])
def test_sent_along(dialect, form):
    reference = recording(form=form)
    with serve(Options(dialect=dialect)) as fake:
        assert len(samples(spoken(voice_at(fake), reference=reference)))
        [request] = fake.requests
    if dialect == "boson-chat":
        system, transcript, sound, text = request.json["messages"]
        assert [message["role"] for message in (system, transcript, sound, text)] == ["system", "user", "assistant", "user"]
        assert (transcript["content"], text["content"]) == (SAID, TEXT)
        audio = sound["content"][0]["input_audio"]
        assert audio["format"] == ("mp3" if form == "mp3" else "wav")
        if form in ("wav", "mp3"):
            assert base64.b64decode(audio["data"]) == reference.audio
        assert "voice" not in request.json["audio"]
    else:
        head, _, data = request.json["ref_audio"].partition(",")
        media = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg"}[form]
        assert head == f"data:{media};base64"
        assert base64.b64decode(data) == reference.audio
        assert request.json["ref_text"] == SAID
        assert ("voice" in request.json) == (dialect == "openai-speech")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_its_words_are_made_harmless_too(dialect):
    with serve(Options(dialect=dialect)) as fake:
        reference = recording(said="Hello <|eot_id|> and <emph>goodbye.")
        assert len(samples(spoken(voice_at(fake), reference=reference)))
        assert b"<|" not in fake.requests[0].body
        assert b"<emph>" not in fake.requests[0].body


def test_a_form_that_cannot_be_sent():
    with serve(Options()) as fake:
        with pytest.raises(RefusedRequest, match="'aiff'"):
            spoken(voice_at(fake), reference=Reference(b"FORM", "aiff", SAID))
        assert not fake.requests


def test_kept_by_the_server_once():
    one, other = recording(), recording(pitch=200)
    with serve(Options()) as fake:
        voice = voice_at(fake, references="register")
        for reference in (one, other, one, one):
            assert len(samples(spoken(voice, reference=reference)))
        assert paths(fake) == [VOICES, SPEECH, VOICES, SPEECH, SPEECH, SPEECH]
        registered, spoken_with = fake.requests[0].json, fake.requests[1].json
        assert registered["ref_text"] == SAID
        assert registered["title"].startswith("prosody ")
        assert registered.keys() == {"ref_audio", "ref_text", "title"}
        assert spoken_with["voice"] in fake.voices
        assert "ref_audio" not in spoken_with
        assert fake.requests[3].json["voice"] != spoken_with["voice"]


def test_kept_once_however_many_ask_at_the_same_time():
    async def talk():
        return await asyncio.gather(*(speak(voice, f"Number {number}.", reference=recording()) for number in range(8)))

    with serve(Options(delay_ms=20)) as fake:
        voice = voice_at(fake, references="register")
        assert all(len(samples(speeches)) for speeches in asyncio.run(talk()))
        assert paths(fake).count(VOICES) == 1


def test_if_the_first_gives_up_another_registers_it():
    async def talk():
        first = asyncio.create_task(speak(voice, reference=recording()))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(speak(voice, reference=recording()))
        await asyncio.sleep(0.05)
        first.cancel()
        return await second

    with serve(Options()) as fake:
        fake.misbehave(Fault.NEVER_ANSWERS, times=1, path=VOICES)
        voice = voice_at(fake, references="register")
        assert len(samples(asyncio.run(talk())))
        assert paths(fake) == [VOICES, VOICES, SPEECH]


def test_kept_again_if_the_server_has_forgotten_it():
    with serve(Options()) as fake:
        voice = voice_at(fake, references="register")
        spoken(voice, reference=recording())
        fake.voices.clear()
        assert len(samples(spoken(voice, reference=recording())))
        assert paths(fake)[2:] == [SPEECH, VOICES, SPEECH]


def test_another_refusal_does_not_register_anew():
    with serve(Options()) as fake:
        voice = voice_at(fake, references="register")
        spoken(voice, reference=recording())
        fake.misbehave(Fault.TOO_LONG)
        with pytest.raises(RefusedRequest, match="too long"):
            spoken(voice, reference=recording())
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
        (Fault.HTML, BackendError, "named no voice"),
        (Fault.JSON_ERROR, BackendError, "named no voice"),
        (Fault.WRONG_JSON, BackendError, "named no voice"),
        (Fault.GZIP_BOMB, BackendError, "compressed"),
        (Fault.STALLS, BackendTimeout, "READ_TIMEOUT"),
        (Fault.DRIPS, BackendTimeout, "not done within"),
    ],
)
def test_faults_of_registering(fault, error, words, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(Options(key=KEY, drip_ms=5)) as fake:
        fake.misbehave(fault, path=VOICES)
        with pytest.raises(error, match=words) as caught:
            spoken(voice_at(fake, references="register", read_timeout=0.2, total_timeout=0.5), reference=recording())
        assert paths(fake) == [VOICES]
    for said in (f"{caught.value!s} {caught.value!r}", caplog.text):
        assert_discreet(said)
        assert_discreet(said, SAID)


def test_registering_is_tried_again():
    with serve(Options()) as fake:
        fake.misbehave(Fault.ERROR_503, times=1, path=VOICES)
        assert len(samples(spoken(voice_at(fake, references="register", retries=1), reference=recording())))
        assert paths(fake) == [VOICES, VOICES, SPEECH]


def test_a_refused_recording_is_not_repeated(caplog):
    caplog.set_level(logging.DEBUG)
    reference = recording()
    with serve(Options(key=KEY, fault=Fault.ECHO_400)) as fake, pytest.raises(RefusedRequest) as caught:
        spoken(voice_at(fake), reference=reference)
    sound = base64.b64encode(reference.audio).decode()
    for said in (str(caught.value), caplog.text):
        assert_discreet(said, SAID)
        assert sound[:24] not in said
        assert sound[2000:2024] not in said


def test_what_is_kept_is_bounded():
    kept = RegisteredVoices()
    first = kept.keep("0", "voice_0")
    for number in range(1, MAX_KEPT + 1):
        assert kept.find("1") or number == 1
        kept.keep(str(number), f"voice_{number}")
    assert kept.find("0") is None
    assert kept.find("1").voice == "voice_1"
    again = kept.keep("0", "voice_0")
    kept.forget("0", first)  # an older one, registered anew since
    assert kept.find("0") is again
    kept.forget("0", again)
    assert kept.find("0") is None
