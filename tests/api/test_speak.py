"""The project's own endpoints over HTTP: speak, mark and measure, and the endpoints for operators."""

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
import soundfile as sf
from fake_higgs import Options, serve
from served import MARKED, SENTENCE, Server, error_of, events_of, serving, value_of, wait_until

from ai_core.pipeline import Job, collect
from api.settings import ApiSettings
from prosody_tagger.markup import KINDS, parse, render
from synth.audio.decoding import decode
from synth.audio.encoding import MEDIA_TYPES, encode
from synth.base import Audio
from synth.higgs_http.settings import HiggsSettings

pytest_plugins = ["one_server"]

LONG = " ".join(f"The {word} train leaves at nine." for word in ("first", "second", "third", "fourth", "fifth"))
SSML = {"content-type": "application/ssml+xml"}
AS_JSON = {"accept": "application/json"}
AS_EVENTS = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def voice_recording() -> bytes:
    """Four seconds of a modulated tone, accepted as a voice."""
    times = np.arange(4 * 16_000) / 16_000
    return encode(Audio((0.3 * np.sin(2 * np.pi * 150 * times) * (1 + np.sin(9 * times))).astype(np.float32) / 2, 16_000), "flac")


@pytest.fixture(scope="module")
def higgs(tiny_tagger: Path) -> Iterator[tuple[Server, Any]]:
    """A service whose backend supports reference voices, and the server behind the backend."""
    with serve(Options(dialect="boson")) as fake:
        settings = HiggsSettings(url=fake.url, api_key=fake.options.key, retries=0, connect_timeout=1, read_timeout=5)
        with serving(tiny_tagger, backend="higgs-http", higgs=settings, aligner="") as server:
            yield server, fake


def spoken(answer: httpx.Response, form: str = "wav") -> np.ndarray:
    """Return the samples of a response; fail if it is an error."""
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["content-type"] == MEDIA_TYPES[form]
    return samples_of(answer.content, form, int(answer.headers["x-sample-rate"]))


def samples_of(data: bytes, form: str, rate: int) -> np.ndarray:
    if form == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768
    samples, found = sf.read(io.BytesIO(data), dtype="float32")
    assert found == rate
    return samples


def told(answer: httpx.Response, name: str) -> str | None:
    value = answer.headers.get(f"x-prosody-{name}")
    return None if value is None else unquote(value, errors="strict")


# Texts


def test_plain_text_is_marked_by_the_tagger_and_spoken(client):
    answer = client.post("/speak", json={"text": SENTENCE})
    samples = spoken(answer)
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["x-sample-rate"] == "24000"
    assert float(answer.headers["x-prosody-seconds"]) == pytest.approx(len(samples) / 24_000, abs=1e-3)
    assert np.abs(samples).max() > 0.05
    marked = parse(told(answer, "marked"))
    assert marked.text == SENTENCE
    assert render(marked) == client.post("/mark", json={"text": SENTENCE}).json()["marked"]


def test_the_audio_equals_that_of_the_pipeline(served, client):
    answer = client.post("/speak", json={"text": LONG, "speed": 1.2, "voice": "en-gb"})

    async def direct() -> bytes:
        return encode((await collect(Job(LONG, speed=1.2, voice="en-gb"), served.service.runtime)).audio)

    assert answer.content == asyncio.run_coroutine_threadsafe(direct(), served.loop).result(30)


def test_marked_text_keeps_its_marks_and_gets_no_others(client):
    answer = client.post("/speak", json={"text": MARKED, "marked": True})
    spoken(answer)
    assert parse(told(answer, "marked")) == parse(MARKED)


def test_marks_in_plain_text_are_text(client):
    answer = client.post("/speak", json={"text": "Say <emph> to me."}, headers=AS_JSON)
    assert answer.json()["text"] == "Say <emph> to me."
    assert parse(answer.json()["marked"]).text == "Say <emph> to me."


def test_ssml_by_its_content_type(client):
    source = '<speak>It costs <emphasis>nine</emphasis> dollars.<break time="300ms"/></speak>'
    answer = client.post("/speak", content=source, headers=SSML)
    spoken(answer)
    assert told(answer, "marked") == "It costs <emph>nine dollars.<pause_short:300ms>"
    for kind in ("Application/SSML+XML; charset=utf-8", "application/ssml+xml;x=y"):
        assert client.post("/speak", content=source, headers={"content-type": kind}).content == answer.content


def test_the_options_of_ssml_are_in_the_query(client):
    options = {"format": "flac", "speed": "2", "voice": "en-gb", "report": "true", "realise": "false"}
    source = "<speak>It costs <emphasis>nine</emphasis> dollars.</speak>"
    answer = client.post("/speak", content=source, headers=SSML, params=options)
    fast = len(spoken(answer, "flac"))
    assert answer.headers["x-prosody-marks-heard"].endswith("of%201")
    assert fast < 0.7 * len(spoken(client.post("/speak", content=source, headers=SSML)))


def test_a_reply_contains_every_point(client):
    answer = client.post("/speak", json={"input": "How much?", "points": ["30% savings", "free returns"]})
    spoken(answer)
    reply = told(answer, "reply")
    assert "30% savings" in reply
    assert "free returns" in reply
    assert parse(told(answer, "marked")).text == reply


def test_a_reply_without_points(client):
    assert told(client.post("/speak", json={"input": "How much?"}), "reply")


def test_a_reply_in_any_script_is_unchanged(client):
    answer = client.post("/speak", json={"input": "Wie viel?", "points": ["30 % günstiger — für 你 \U0001f600"]})
    assert "30 % günstiger — für 你 \U0001f600" in told(answer, "reply")


# Options


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_format(client, form):
    answer = client.post("/speak", json={"text": MARKED, "marked": True, "format": form})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPES[form]
    heads = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS", "aac": b"\xff", "mp3": (b"ID3", b"\xff"), "pcm": b""}
    assert answer.content.startswith(heads[form])
    if form in ("wav", "flac", "mp3", "pcm", "opus"):
        samples, rate = (samples_of(answer.content, form, 24_000), 24_000) if form == "pcm" else sf.read(io.BytesIO(answer.content))
        assert len(samples) / rate == pytest.approx(float(answer.headers["x-prosody-seconds"]), abs=0.03)


def test_speed(client):
    slow, fast = (len(spoken(client.post("/speak", json={"text": SENTENCE, "speed": speed}))) for speed in (0.5, 2.0))
    assert 2.5 < slow / fast < 5


def test_intensity(client):
    def marks(intensity: str | float) -> int:
        answer = client.post("/speak", json={"text": LONG, "intensity": intensity}, headers=AS_JSON)
        return sum(mark["kind"] == "emph" for mark in answer.json()["marks"])

    assert marks("low") < marks("high") < marks(0.4)
    wrong = client.post("/speak", json={"text": SENTENCE, "intensity": 7})
    assert wrong.status_code == 422
    assert wrong.json()["error"]["param"] == "intensity"
    assert "from 0 to 1" in wrong.json()["error"]["message"]


def test_voice_and_language(client):
    default, german = (client.post("/speak", json={"text": "Guten Morgen.", "voice": voice}).content for voice in (None, "de"))
    assert default != german
    assert client.post("/speak", json={"text": "Guten Morgen.", "voice": "de", "language": "de"}).status_code == 200


def test_unknown_names_are_refused_with_a_hint(client):
    assert "en-us" in error_of(client.post("/speak", json={"text": SENTENCE, "voice": "en-uss"}))["message"]
    answer = client.post("/speak", json={"text": SENTENCE, "backend": "embeded"})
    assert answer.status_code == 400
    assert "did you mean embedded" in error_of(answer)["message"]


def test_a_backend_that_is_not_set_up(client):
    answer = client.post("/speak", json={"text": SENTENCE, "backend": "higgs-local"})
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "backend_unavailable"


def test_the_seed_makes_no_difference_to_a_voice_that_does_not_sample(client):
    bodies = [{"text": SENTENCE, "seed": seed} for seed in (None, 0, 1, 2**63 - 1)]
    assert len({client.post("/speak", json=body).content for body in bodies}) == 1


def test_deviations_are_reported(higgs):
    server, _ = higgs
    answer = httpx.post(
        f"{server.url}/speak", json={"text": "A seed. Then more.", "marked": True, "seed": 7}, trust_env=False, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert "the seed was not used" in told(answer, "warnings")


# Details of the result


def test_headers_are_ascii_and_bounded(client):
    answer = client.post("/speak", json={"text": "Größe, 你好, \U0001f600! " + "über alles " * 220})
    assert answer.status_code == 200
    assert all(value.isascii() and value.isprintable() and len(value) < 8_000 for value in answer.headers.values())
    assert answer.headers["x-prosody-omitted"] == "X-Prosody-Marked"
    assert "x-prosody-marked" not in answer.headers


def test_timings_are_numbers(client):
    timings = dict(part.split("=") for part in told(client.post("/speak", json={"text": SENTENCE}), "timings").split(", "))
    assert {"tag", "speak", "total"} <= set(timings)
    assert float(timings["total"]) >= float(timings["speak"]) >= 0


def test_json_has_all_details(client):
    answer = client.post("/speak", json={"text": MARKED, "marked": True, "report": True, "format": "flac"}, headers=AS_JSON)
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert (body["text"], body["marked"]) == (parse(MARKED).text, render(parse(MARKED)))
    assert [mark["kind"] for mark in body["marks"]] == ["emph", "pause_short"]
    assert body["marks"][1] == {"kind": "pause_short", "offset": 15, "word": "today", "score": None, "ms": 300}
    assert (body["format"], body["media_type"], body["backend"], body["fallback"]) == ("flac", "audio/flac", "embedded", None)
    samples = samples_of(base64.b64decode(body["audio"], validate=True), "flac", body["sample_rate"])
    assert len(samples) / body["sample_rate"] == pytest.approx(body["seconds"], abs=1e-3)
    assert [word["word"] for word in body["words"]] == ["It's", "only", "$299", "today"]
    for word in body["words"]:
        assert body["text"][word["offset"] :].startswith(word["word"])
        assert 0 <= word["start"] < word["end"] <= body["seconds"]
    silence = body["words"][3]["start"] - body["words"][2]["end"]
    assert silence >= 0.28
    assert (body["report"]["asked"], len(body["report"]["marks"])) == (2, 2)
    assert body["report"]["marks"][1]["realised"]
    assert body["reply"] is None


def test_scores_of_the_tagger(client):
    marks = client.post("/speak", json={"text": LONG, "intensity": "high"}, headers=AS_JSON).json()["marks"]
    assert marks
    assert all(0 <= mark["score"] <= 1 for mark in marks)


def test_the_report_is_optional(client):
    assert client.post("/speak", json={"text": SENTENCE}, headers=AS_JSON).json()["report"] is None
    assert "x-prosody-marks-heard" not in client.post("/speak", json={"text": SENTENCE}).headers


def test_the_report_in_a_header(client):
    answer = client.post("/speak", json={"text": MARKED, "marked": True, "report": True})
    assert re.fullmatch("[0-2] of 2", told(answer, "marks-heard"))
    assert "measure=" in told(answer, "timings")


def test_a_request_id_is_kept_or_made(client):
    assert client.get("/live", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {client.get("/live").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3


# Streams


@pytest.mark.parametrize("form", ["wav", "pcm", "flac", "mp3", "opus", "aac"])
def test_a_stream_has_the_same_audio(client, form):
    with client.stream("POST", "/speak", json={"text": LONG, "format": form, "stream": True}) as answer:
        data = b"".join(answer.iter_bytes())
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.headers["content-type"] == MEDIA_TYPES[form]
    whole = client.post("/speak", json={"text": LONG, "format": "pcm"}).content
    if form == "pcm":
        assert data == whole
    elif form == "wav":
        assert data[:4] == b"RIFF"
        assert data[4:8] == data[40:44] == b"\xff" * 4
        assert data[44:] == whole
    elif form == "flac":
        assert np.array_equal(decode(data).samples, np.frombuffer(whole, "<i2") / np.float32(32768))
    else:
        assert len(data) > len(whole) / 40


def test_a_stream_has_no_clicks_where_sentences_meet(client):
    data = client.post("/speak", json={"text": LONG, "format": "pcm", "stream": True}).content
    steps = np.abs(np.diff(np.frombuffer(data, "<i2").astype(np.int32)))
    events = client.post("/speak", json={"text": LONG, "format": "pcm"}, headers=AS_EVENTS)
    joins = np.cumsum([len(base64.b64decode(e["audio"])) // 2 for e in heard(events, "speech.audio.delta")])[:-1]
    assert len(joins) == 4
    assert max(steps[join - 1] for join in joins) < 300  # of 32768; within words steps are thousands
    assert steps.max() > 2000


def test_a_single_sentence_is_sent_whole(client):
    answer = client.post("/speak", json={"text": SENTENCE, "stream": True})
    assert "content-length" in answer.headers
    assert "x-prosody-seconds" in answer.headers
    assert sf.info(io.BytesIO(answer.content)).frames == round(float(answer.headers["x-prosody-seconds"]) * 24_000)


def test_the_first_audio_does_not_wait_for_the_last(served, client):
    with client.stream("POST", "/speak", json={"text": f"{LONG} " * 12, "stream": True}) as answer:
        chunks = answer.iter_raw()
        first = next(chunks)
        assert len(first) < 500_000
        assert answer.headers["x-prosody-backend"] == "embedded"
        assert "x-prosody-marked" not in answer.headers
        assert served.running("embedded") == 1
        rest = sum(len(chunk) for chunk in chunks)
    assert rest > 10 * len(first)


def heard(answer: httpx.Response, kind: str) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return [event for event in events_of(answer.text.split("\n")) if event["type"] == kind]


def test_events_contain_audio_marks_and_word_times(client):
    answer = client.post("/speak", json={"text": LONG, "format": "pcm"}, headers=AS_EVENTS)
    sound = b"".join(base64.b64decode(event["audio"]) for event in heard(answer, "speech.audio.delta"))
    body = client.post("/speak", json={"text": LONG, "format": "pcm"}, headers=AS_JSON).json()
    assert sound == base64.b64decode(body["audio"])
    sentences = heard(answer, "speech.sentence")
    assert len(sentences) == 5
    assert "".join(sentence["text"] for sentence in sentences) == LONG
    assert "".join(sentence["marked"] for sentence in sentences) == body["marked"]
    words = [word for sentence in sentences for word in sentence["words"]]
    assert [(word["word"], word["offset"]) for word in words] == [(word["word"], word["offset"]) for word in body["words"]]
    assert np.allclose([word["start"] for word in words], [word["start"] for word in body["words"]], atol=2e-4)
    (done,) = heard(answer, "speech.audio.done")
    assert done["seconds"] == pytest.approx(body["seconds"], abs=1e-3)
    assert events_of(answer.text.split("\n"))[-1] == done


def test_events_of_a_reply(client):
    answer = client.post("/speak", json={"input": "How much?", "points": ["30% savings"]}, headers=AS_EVENTS)
    assert "30% savings" in "".join(event["text"] for event in heard(answer, "speech.sentence"))
    assert "30% savings" in told(answer, "reply")


def test_errors_before_a_stream_have_a_status(client):
    for headers in ({}, AS_EVENTS):
        answer = client.post("/speak", json={"text": LONG, "stream": True, "voice": "nobody"}, headers=headers)
        assert answer.status_code == 400
        error_of(answer)


def test_concurrent_requests_get_their_own_audio(client):
    texts = [f"This is number {number}, and no other." for number in range(24)]
    alone = {text: client.post("/speak", json={"text": text}).content for text in texts}
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda text: client.post("/speak", json={"text": text}).content, texts))
    assert together == [alone[text] for text in texts]
    assert len(set(together)) == len(texts)


# Reference voices


def test_a_voice_is_stored_listed_and_deleted(client, voice_recording):
    sent = client.post("/v1/audio/voices", files={"audio": ("a.flac", voice_recording)}, data={"text": SENTENCE, "name": "Ann"})
    assert sent.status_code == 201, sent.text
    voice = sent.json()
    assert (voice["name"], voice["seconds"]) == ("Ann", 4.0)
    again = client.post("/v1/audio/voices", json={"audio": base64.b64encode(voice_recording).decode(), "text": SENTENCE})
    assert again.json() == voice
    uri = {"audio": "data:audio/flac;base64," + base64.b64encode(voice_recording).decode(), "text": SENTENCE}
    assert client.post("/v1/audio/voices", json=uri).json()["id"] == voice["id"]
    listed = client.get("/v1/audio/voices").json()
    assert voice["id"] in listed["voices"]
    assert [entry for entry in listed["data"] if entry["id"] == voice["id"]] == [voice]
    gone = client.delete(f"/v1/audio/voices/{voice['id']}")
    assert gone.json() == {"id": voice["id"], "deleted": True}
    assert client.delete(f"/v1/audio/voices/{voice['id']}").status_code == 404
    assert voice["id"] not in client.get("/v1/audio/voices").json()["voices"]


def test_a_backend_without_reference_voices_says_so(client, voice_recording):
    sent = client.post("/v1/audio/voices", files={"audio": voice_recording}, data={"text": "Another text."}).json()
    answer = client.post("/speak", json={"text": SENTENCE, "voice": sent["id"]})
    assert answer.status_code == 400
    assert "recording" in error_of(answer)["message"]
    client.delete(f"/v1/audio/voices/{sent['id']}")


def test_a_backend_speaks_in_a_reference_voice(higgs, voice_recording):
    server, fake = higgs
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        sent = client.post("/v1/audio/voices", files={"audio": voice_recording}, data={"text": SENTENCE}).json()
        answer = client.post("/speak", json={"text": "Hello.", "marked": True, "voice": sent["id"]})
        assert answer.status_code == 200, answer.text
        assert told(answer, "backend") == "higgs-http"
        assert base64.b64encode(voice_recording).decode() in fake.requests[-1].body.decode()
        assert client.post("/speak", json={"text": "Hello.", "voice": "voice_" + "0" * 64}).status_code == 404


# Mark and measure


def test_mark(client):
    body = client.post("/mark", json={"text": LONG, "intensity": "high"}).json()
    marked = parse(body["marked"])
    assert marked.text == body["text"] == LONG
    assert [(mark["kind"], mark["offset"]) for mark in body["marks"]] == [(mark.kind, mark.offset) for mark in marked.marks]
    assert all(0 <= mark["score"] <= 1 for mark in body["marks"])
    assert client.post("/mark", json={"text": ""}).json() == {"text": "", "marked": "", "marks": []}


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus"])
def test_measure(client, form):
    recording = client.post("/speak", json={"text": MARKED, "marked": True, "format": form}).content
    plain = client.post("/speak", json={"text": parse(MARKED).text, "marked": True}).content
    answer = client.post("/measure", files={"audio": recording, "reference": plain}, data={"text": MARKED, "language": "en-us"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["marked"] == render(parse(MARKED))
    assert body["trusted"]
    assert (body["asked"], body["realised"]) == (2, 2)
    assert [mark["kind"] for mark in body["marks"]] == ["emph", "pause_short"]


def test_measuring_another_text_is_not_trusted(client):
    recording = client.post("/speak", json={"text": "Completely different words of a longer kind were said here."}).content
    body = client.post("/measure", files={"audio": recording}, data={"text": "No <emph>way."}).json()
    assert not body["trusted"]
    assert body["warnings"]


# For operators


def test_prosody_lists_the_support_of_each_mark(client):
    body = client.get("/v1/prosody").json()
    assert set(body["marks"]) == set(KINDS)
    assert set(body["backends"]) == {"embedded", "natural", "higgs-http", "higgs-local"}
    embedded = body["backends"]["embedded"]
    assert embedded["ready"]
    assert set(embedded["marks"]) == set(KINDS)
    assert set(embedded["marks"].values()) <= {"native", "rendered", "realised", "dropped"}
    assert body["default_backend"] == "embedded"
    for name, backend in body["backends"].items():
        assert backend["ready"] or backend["detail"], name


def test_live_and_ready(client):
    assert client.get("/live").json() == {"live": True}
    assert client.get("/ready").json() == {"ready": True, "waiting_for": {}}


def test_ready_names_the_part_that_is_not_ready(tmp_path):
    with (
        serving(tmp_path / "nothing-here", backend="higgs-local") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
    ):
        assert client.get("/live").status_code == 200
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert "backend higgs-local" in answer.json()["waiting_for"]
        wait_until(lambda: "nothing-here" in client.get("/ready").json()["waiting_for"]["tagger"])
        answer = client.post("/speak", json={"text": SENTENCE, "backend": "embedded"})
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "model_unavailable"


def test_metrics_count(client):
    def count(name: str, **labels: str) -> float:
        return value_of(client.get("/metrics").text, name, **labels)

    ok = {"path": "/speak", "status": "200"}
    mark = {"kind": "pause_short", "outcome": "realised"}
    before = [count("prosody_requests_total", **ok), count("prosody_marks_total", **mark), count("prosody_audio_seconds_total")]
    answer = client.post("/speak", json={"text": MARKED, "marked": True})
    after = [count("prosody_requests_total", **ok), count("prosody_marks_total", **mark), count("prosody_audio_seconds_total")]
    gained = np.subtract(after, before)
    assert gained == pytest.approx([1, 1, float(answer.headers["x-prosody-seconds"])], abs=1e-3)
    text = client.get("/metrics").text
    for name in ("queue_depth", "running", "first_audio_seconds_count", "real_time_factor_count", "cancellations_total"):
        assert f"prosody_{name}" in text
    assert count("prosody_queue_depth", backend="embedded") == 0


def test_unknown_paths_do_not_become_labels(client):
    client.get("/no/such/path/of-clients")
    text = client.get("/metrics").text
    assert "of-clients" not in text
    assert 'path="other",status="404"' in text


def test_docs_and_schema(client):
    assert "swagger" in client.get("/docs").text.lower()
    schema = client.get("/openapi.json").json()
    paths = {"/speak", "/mark", "/measure", "/v1/prosody", "/live", "/ready", "/metrics", "/v1/audio/speech", "/v1/models"}
    assert paths <= set(schema["paths"])
    assert schema["components"]["securitySchemes"]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            for status in ("401", "413", "422", "429", "500"):
                found = operation["responses"][status]["content"]["application/json"]["schema"]
                assert found == {"$ref": "#/components/schemas/ErrorBody"}, where


def test_references_of_the_schema_resolve(client):
    text = client.get("/openapi.json").text
    known = json.loads(text)["components"]["schemas"]
    for reference in set(re.findall('"#/components/schemas/([^"]+)"', text)):
        assert reference in known


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/speak", 405), ("POST", "/live", 405), ("GET", "/nothing", 404)])
def test_errors_of_the_framework_have_the_same_form(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_key_is_required_if_one_is_set(tiny_tagger):
    key = "a-long-enough-key-1"
    with (
        serving(tiny_tagger, ApiSettings(keys=key, rate_limit="2/minute")) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
    ):
        assert client.post("/mark", json={"text": "a"}).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/ready").status_code in (200, 503)
        answers = [client.post("/mark", json={"text": "a"}, headers={"authorization": f"Bearer {key}"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert error_of(answers[2])["type"] == "rate_limit_error"


def test_texts_and_keys_are_not_logged(client, caplog):
    with caplog.at_level("INFO"):
        client.post("/speak", json={"text": "The swordfish swims at midnight."}, headers={"authorization": "Bearer open-sesame-1"})
        client.post("/speak", json={"text": "The swordfish swims <emph>", "marked": True})
    assert "request" in caplog.text
    assert "swordfish" not in caplog.text
    assert "open-sesame" not in caplog.text
