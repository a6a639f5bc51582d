"""Malformed and malicious requests: each is refused with an error response, at little cost, and the service keeps working.

Most need no voice and use the fake one; texts that are spoken go to the embedded voice.
"""

import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from served import MARKED, SENTENCE, Server, error_of, head, serving, status_of, talk

from api.settings import ApiSettings

pytest_plugins = ["one_server"]

JSON = {"content-type": "application/json"}
SSML = {"content-type": "application/ssml+xml"}
MAX_PROCESSOR_SECONDS = 2.0
"""What a refusal may cost, client and server together; most take milliseconds."""

BILLION_LAUGHS = (
    '<!DOCTYPE speak [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    "<speak>&c;</speak>"
)
FILE_READER = '<!DOCTYPE speak [<!ENTITY a SYSTEM "file:///etc/hostname">]><speak>&a;</speak>'
QUADRATIC = f'<!DOCTYPE speak [<!ENTITY a "{"a" * 20_000}">]><speak>{"&a;" * 2_000}</speak>'


@pytest.fixture(autouse=True)
def _alive_and_cheap(fake_client: httpx.Client) -> Iterator[None]:
    """The service runs in a thread of this process, so processor time counts what it does, and other programs do not."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 5 * MAX_PROCESSOR_SECONDS
    assert fake_client.get("/live").status_code == 200


def refused(answer: httpx.Response, *statuses: int) -> dict[str, object]:
    assert answer.status_code in (statuses or range(400, 500)), answer.text[:300]
    assert answer.extensions["processor_seconds"] < MAX_PROCESSOR_SECONDS
    return error_of(answer)


# JSON


NOT_JSON = {
    "empty": b"",
    "a word": b"hello",
    "cut off": b'{"text": "a',
    "two": b'{"text": "a"}{"text": "b"}',
    "single quotes": b"{'text': 'a'}",
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "a NUL": b'{"text": "a"}\0',
    "raw control character": b'{"text": "a\nb\0"}',
    "half a surrogate, in UTF-8": b'{"text": "\xed\xa0\x80"}',
    "deep list": b"[" * 100_000,
    "deep object": b'{"text":' * 50_000,
    "deep and closed": b'{"text":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a number of 100,000 digits": b'{"text": "a", "seed": ' + b"9" * 100_000 + b"}",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0" * 40,
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "a string": b'"text"',
}


@pytest.mark.parametrize("path", ["/speak", "/mark", "/v1/audio/speech", "/v1/audio/voices"])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_bodies_that_are_not_the_expected_json(fake_client, path, body):
    refused(fake_client.post(path, content=body, headers=JSON), 400, 422)


WRONG_FIELDS = [
    {"text": None},
    {"text": 1},
    {"text": ["a"]},
    {"text": {"a": "b"}},
    {"text": True},
    {"text": SENTENCE, "unknown": 1},
    {"text": SENTENCE, "\ud800": 1},
    {"text": "a \ud800 b"},
    {"text": SENTENCE, "intensity": "extreme"},
    {"text": SENTENCE, "intensity": ["low"]},
    {"text": SENTENCE, "intensity": True},
    {"text": SENTENCE, "intensity": -0.1},
]
SPEAK_ALONE = [
    {"text": SENTENCE, "points": ["a"]},
    {"text": SENTENCE, "input": "a"},
    {"input": "a", "marked": True},
    {"input": "a", "points": ["a"] * 101},
    {"input": "a", "points": [1]},
    {"input": "a", "points": "a"},
    {"input": "", "points": []},
    {"text": SENTENCE, "speed": "fast"},
    {"text": SENTENCE, "speed": 0},
    {"text": SENTENCE, "speed": -1},
    {"text": SENTENCE, "speed": 1e308},
    {"text": SENTENCE, "speed": float("nan")},
    {"text": SENTENCE, "speed": float("inf")},
    {"text": SENTENCE, "seed": -1},
    {"text": SENTENCE, "seed": 2**63},
    {"text": SENTENCE, "seed": 10**4000},
    {"text": SENTENCE, "seed": 1.5},
    {"text": SENTENCE, "seed": 1e400},
    {"text": SENTENCE, "realise": "perhaps"},
    {"text": SENTENCE, "format": "exe"},
    {"text": SENTENCE, "format": "../wav"},
    {"text": SENTENCE, "format": None},
    {"text": SENTENCE, "backend": "nobody"},
    {"text": SENTENCE, "backend": "embedded\r\nX-Injected: 1"},
    {"text": SENTENCE, "backend": "../embedded"},
    {"text": SENTENCE, "backend": "x" * 101},
    {"text": SENTENCE, "voice": "../../etc/passwd"},
    {"text": SENTENCE, "voice": "en-us\0"},
    {"text": SENTENCE, "voice": "nobody\r\nSet-Cookie: a=b"},
    {"text": SENTENCE, "voice": "voice_" + "0" * 64},
    {"text": SENTENCE, "voice": "x" * 201},
    {"text": SENTENCE, "language": "x" * 36},
]


@pytest.mark.parametrize("body", WRONG_FIELDS + SPEAK_ALONE, ids=lambda body: ascii(body)[:60])
def test_invalid_fields_of_speak(fake_client, body):
    refused(fake_client.post("/speak", content=json.dumps(body), headers=JSON))


@pytest.mark.parametrize("body", WRONG_FIELDS, ids=lambda body: ascii(body)[:60])
def test_invalid_fields_of_mark(fake_client, body):
    refused(fake_client.post("/mark", content=json.dumps(body), headers=JSON))


@pytest.mark.parametrize(
    "fields",
    [
        {"input": None},
        {"input": ["a"]},
        {"input": "a \udfff b"},
        {"voice": 7},
        {"voice": {}},
        {"voice": {"id": 1}},
        {"voice": {"id": "\0"}},
        {"voice": {"\ud800": 1}},
        {"model": None},
        {"model": "x" * 201},
        {"model": "higgs\r\nX-Injected: 1"},
        {"response_format": "exe"},
        {"stream_format": "flv"},
        {"speed": float("nan")},
        {"speed": 1e999},
        {"seed": 10**30},
        {"instructions": "x" * 10_001},
        {"input": "<emph>", "marked": True},
    ],
    ids=ascii,
)
def test_invalid_fields_of_openai_speech(fake_client, fields):
    body = {"model": "prosody", "input": SENTENCE, "response_format": "wav"} | fields
    refused(fake_client.post("/v1/audio/speech", content=json.dumps(body), headers=JSON))


def test_the_wrong_field_is_named_and_its_value_not_repeated(fake_client):
    found = refused(fake_client.post("/speak", json={"text": SENTENCE, "format": "secret-word"}), 422)
    assert found["param"] == "format"
    assert "secret-word" not in str(found)
    assert found["type"] == "invalid_request_error"


# Text


@pytest.mark.parametrize("path", ["/speak", "/mark", "/v1/audio/speech"])
def test_a_text_over_the_limit(fake_client, path):
    field = "input" if path.startswith("/v1") else "text"
    assert "20,000" in str(refused(fake_client.post(path, json={field: "a " * 10_001}), 400)["message"])


@pytest.mark.parametrize("text", ["", " ", "\0", "\0\0\0", "\u200b", "...", "\u202e", "\ufeff", "\x1b[\x07"], ids=ascii)
def test_nothing_to_say(client, text):
    refused(client.post("/speak", json={"text": text}), 400)


BOMBS = {
    "tags": "<emph>" * 50_000,
    "pauses": "<pause_long:9999999ms>" * 5_000 + "a",
    "a pause too long": "<pause_short:600001ms>a",
    "a pause of 10,000 digits": "<pause_short:" + "9" * 10_000 + "ms>a",
    "no end": "<" * 100_000,
    "escapes": "\\" * 100_001 + "<emph>",
    "almost tags": "<emph" * 20_000,
    "unknown tag": "a <script>alert(1)</script>",
    "a name of 50,000 letters": f"<{'a' * 50_000}>",
    "mark without a word": "hello <emph>",
    "negative": "<pause_short:-1ms>a",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_markup_bombs(fake_client, text):
    refused(fake_client.post("/speak", json={"text": text, "marked": True}), 400)


@pytest.mark.parametrize(
    "text",
    ["a <|endoftext|> b", "<|im_start|>system", "<|audio_bos|> hello <emph>", "a\0b", "<script>hello</script>", "a\x1b]0;b\x07"],
    ids=ascii,
)
def test_plain_text_is_only_text(client, text):
    answer = client.post("/speak", json={"text": text}, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["text"] == text
    assert not any("emph" in word["word"] for word in answer.json()["words"] if "emph" not in text)


# SSML


XML = {
    "empty": b"",
    "text": b"hello",
    "billion laughs": BILLION_LAUGHS.encode(),
    "entity of a file": FILE_READER.encode(),
    "one long entity often": QUADRATIC.encode(),
    "DTD elsewhere": b'<!DOCTYPE speak SYSTEM "http://127.0.0.1:1/x.dtd"><speak>a</speak>',
    "parameter entity": b'<!DOCTYPE speak [<!ENTITY % a SYSTEM "http://127.0.0.1:1/"> %a;]><speak>a</speak>',
    "deep": b"<speak>" + b"<p>" * 50_000,
    "deep and closed": b"<speak>" + b"<p>" * 20_000 + b"a" + b"</p>" * 20_000 + b"</speak>",
    "many attributes": b"<speak " + b" ".join(b'a%d="b"' % number for number in range(20_000)) + b">a</speak>",
    "one attribute twice": b'<speak a="1" a="2">a</speak>',
    "cut off": b"<speak>hello",
    "two roots": b"<speak>a</speak><speak>b</speak>",
    "not UTF-8": b"<speak>\xff\xfe</speak>",
    "UTF-16": "<speak>hello</speak>".encode("utf-16"),
    "NUL": b"<speak>a\0b</speak>",
    "reference to NUL": b"<speak>a&#0;b</speak>",
    "reference to a surrogate": b"<speak>a&#xD800;b</speak>",
    "unknown entity": b"<speak>&nbsp;</speak>",
    "audio of a file": b'<speak><audio src="file:///etc/passwd"/>a</speak>',
    "a break of years": b'<speak>a<break time="999999999999s"/>b</speak>',
    "a break of NaN": b'<speak>a<break time="NaNs"/>b</speak>',
    "nothing to say": b"<speak/>",
    "HTML": b"<html><script>alert(1)</script></html>",
    "JSON": b'{"text": "a"}',
}


@pytest.mark.parametrize("body", XML.values(), ids=XML.keys())
def test_xml_bombs(fake_client, body):
    found = refused(fake_client.post("/speak", content=body, headers=SSML), 400)
    assert "root:" not in str(found)


def test_breaks_that_add_up_to_more_than_the_limit(fake_client):
    body = "<speak>a" + '<break time="60s"/>' * 11 + "b</speak>"
    refused(fake_client.post("/speak", content=body, headers=SSML), 400)


@pytest.mark.parametrize(
    "query",
    [
        "format=exe",
        "format=",
        "speed=nan",
        "speed=1e400",
        "seed=-1",
        "seed=" + "9" * 5000,
        "unknown=1",
        "realise=perhaps",
        "text=a",
    ],
    ids=lambda query: query[:20],
)
def test_invalid_queries_with_ssml(fake_client, query):
    refused(fake_client.post(f"/speak?{query}", content="<speak>hello</speak>", headers=SSML))


# Content types


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/xml",
        "application/xml",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 500,
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "application/ssml+xml-not",
        "",
        ";",
        "é/ü",
        "a" * 1000,
    ],
    ids=lambda kind: ascii(kind)[:40],
)
@pytest.mark.parametrize("path", ["/speak", "/mark", "/measure", "/v1/audio/speech", "/v1/audio/voices"])
def test_wrong_content_types(fake_client, path, kind):
    refused(fake_client.post(path, content=b"\0\xffhello", headers={b"content-type": kind.encode()}), 400, 415, 422)


def test_malformed_forms(fake_client):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", b"--y--", b"\0" * 5000):
        for path in ("/measure", "/v1/audio/voices"):
            refused(fake_client.post(path, content=body, headers=kind), 400, 422)


@pytest.mark.parametrize("path", ["/measure", "/v1/audio/voices"])
def test_a_form_of_many_parts(fake_client, path):
    part = b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nb\r\n'
    body = b"".join(part % number for number in range(5_000)) + b"--x--"
    refused(fake_client.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=x"}), 400)


RECORDINGS = {
    "empty": b"",
    "zeros": b"\0" * 1000,
    "text": b"hello",
    "a head without sound": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0",
    "no rate": b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\0\0\0\0\0\0\0\0\2\0\x10\0data\2\0\0\0\0\0",
    "65,535 channels": b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\xff\xff\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0",
    "flac": b"fLaC" + b"\xff" * 500,
    "ogg": b"OggS" + b"\0" * 500,
    "mp3": b"\xff\xfb\x90\0" * 100,
    "zip": b"PK\3\4" + b"\0" * 100,
}


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS.keys())
def test_invalid_recordings(fake_client, recording):
    refused(fake_client.post("/measure", files={"audio": recording}, data={"text": SENTENCE}), 400, 422)
    refused(fake_client.post("/v1/audio/voices", files={"audio": recording}, data={"text": SENTENCE}), 400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"audio": 1, "text": "a"},
        {"audio": None, "text": "a"},
        {"audio": "%%%", "text": "a"},
        {"audio": "é", "text": "a"},
        {"audio": "\ud800", "text": "a"},
        {"audio": "data:audio/wav;base64", "text": "a"},
        {"audio": "AAAA"},
        {"audio": "AAAA", "text": ["a"]},
        {"audio": "AAAA", "text": "a", "name": {"a": 1}},
        {"audio": "AAAA", "text": "\ud800"},
    ],
    ids=ascii,
)
def test_invalid_uploads_as_json(fake_client, body):
    refused(fake_client.post("/v1/audio/voices", content=json.dumps(body), headers=JSON), 400)


# Size and speed of bodies


@pytest.mark.parametrize("path", ["/speak", "/mark", "/v1/audio/speech", "/measure", "/v1/audio/voices"])
def test_a_declared_length_of_100_mb(fake_served, path):
    start = time.process_time()
    fields = ("Content-Length: 100000000", "Content-Type: application/json")
    assert status_of(talk(fake_served.address, head("POST", path, *fields), b"{" * 1000)) == 413
    assert time.process_time() - start < MAX_PROCESSOR_SECONDS


@pytest.mark.parametrize("path", ["/speak", "/mark", "/v1/audio/speech", "/measure", "/v1/audio/voices"])
def test_100_mb_in_chunks(fake_client, path):
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        yield b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
        for _ in range(1000):
            taken += 100_000
            yield b"a" * 100_000

    kind = "multipart/form-data; boundary=x" if path in ("/measure", "/v1/audio/voices") else "application/json"
    refused(fake_client.post(path, content=chunks(), headers={"content-type": kind}), 413)
    assert taken <= 100_000_000


def test_a_body_that_does_not_arrive(tiny_tagger):
    with serving(tiny_tagger, ApiSettings(body_timeout=0.3)) as server:
        fields = ("Content-Length: 1000", "Content-Type: application/json")
        silent = talk(server.address, head("POST", "/speak", *fields), b'{"te')
        assert status_of(silent) == 408
        sent, dripping = drip(server.address, head("POST", "/speak", *fields), pieces=900, pause=0.03)
        assert status_of(dripping) == 408
        assert sent < 900
        assert server.service.metrics.text()


def drip(address: tuple[str, int], start: bytes, *, pieces: int, pause: float) -> tuple[int, bytes]:
    """Send ``start``, then single bytes with pauses between, until there is a response; return how many were sent, and it."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(start)
        for sent in range(pieces):
            if select.select([connection], [], [], pause)[0]:
                return sent, connection.recv(65536)
            connection.sendall(b"a")
    return pieces, b""


@pytest.mark.parametrize("length", ["-1", "1e3", "1 2", "0x10", "abc", "9" * 30, "5, 6"])
def test_invalid_lengths(fake_served, length):
    said = talk(fake_served.address, head("POST", "/speak", f"Content-Length: {length}"), b"{}")
    assert status_of(said) in (400, 413)


# Headers and paths


def test_many_headers(fake_client):
    refused(fake_client.get("/v1/models", headers={f"x-{number}": "a" for number in range(150)}), 431)


def test_long_headers(fake_served, fake_client):
    refused(fake_client.get("/v1/models", headers={"x-long": "a" * 20_000}), 431)
    said = talk(fake_served.address, head("GET", "/v1/models", "X-Long: " + "a" * 1_000_000))
    assert status_of(said) in (400, 431)


def test_long_address(fake_client):
    refused(fake_client.get("/v1/models/" + "a" * 9_000), 414)
    refused(fake_client.get("/v1/models?" + "a" * 9_000), 414)


def test_invalid_methods(fake_served, fake_client):
    for method in ("PUT", "PATCH", "TRACE", "BREW", "PROPFIND"):
        refused(fake_client.request(method, "/speak"), 405)
    assert status_of(talk(fake_served.address, b"\0\0\0\0\r\n\r\n")) == 400


@pytest.mark.parametrize(
    "name",
    ["a b", "a;b", "<script>", "a" * 65, "é", "%0d%0aX-Injected: 1", "a\tb", "../..", "{}", '"'],
    ids=ascii,
)
def test_invalid_request_ids_are_replaced(fake_client, name):
    answer = fake_client.get("/live", headers={b"x-request-id": name.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"]) or answer.headers["x-request-id"] == "../.."
    assert "x-injected" not in answer.headers


def test_a_request_id_cannot_inject_headers(fake_served):
    for ending in ("\r\n", "\n", "\r", "\0"):
        said = talk(fake_served.address, head("GET", "/live", f"X-Request-Id: a{ending}X-Injected: 1"))
        fields = said.partition(b"\r\n\r\n")[0].lower()
        assert b"x-injected" not in fields
        assert status_of(said) in (200, 400)


def test_text_cannot_inject_headers(client):
    text = "one\r\nX-Injected: 1\r\n\r\ntwo \u2028 three \x85 four ünï\U0001f600"
    answer = client.post("/speak", json={"text": text, "marked": True})
    assert answer.status_code == 200
    assert "x-injected" not in answer.headers
    assert all(value.isascii() and value.isprintable() for value in answer.headers.values())


def test_a_reply_cannot_inject_headers(client):
    answer = client.post("/speak", json={"input": "a\r\nX-Injected: 1", "points": ["b\r\nX-Injected: 2"]})
    assert answer.status_code == 200
    assert "x-injected" not in answer.headers
    assert all(value.isascii() and value.isprintable() for value in answer.headers.values())


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/%ff",
        "/%F0%9F%98%80",
        "/..",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//speak",
        "/speak/",
        "/SPEAK",
        "/speak%20",
        "/speak%00",
        "/é",
        "/v1/models/%00",
        "/v1/models/%ff%fe",
        "/v1/models/..%2f..%2fetc",
        "/v1/models/%E2%80%AE",
        "/v1/models/%ED%A0%80",
        "/v1/audio/voices/%00",
        "/v1/audio/voices/%2e%2e",
        "/v1/audio/voices/" + "a" * 3000,
    ],
    ids=lambda path: path[:40],
)
def test_odd_paths(fake_served, fake_client, path):
    said = talk(fake_served.address, head("GET", path))
    assert status_of(said) in (400, 404, 405, 307)
    if status_of(said) == 307:
        assert b"location: http://localhost/speak\r\n" in said.lower()


ODD_VOICES = ["%00", "%ff", "..%2f..%2fetc%2fpasswd", "%ED%A0%80", "é", "voice_" + "0" * 64, "voice_%2e", "embedded"]


@pytest.mark.parametrize("voice", ODD_VOICES)
def test_odd_voices_to_delete(fake_client, voice):
    refused(fake_client.delete(f"/v1/audio/voices/{voice}"), 404)


@pytest.mark.parametrize("backend", ["%00", "%ff", "nobody", "x" * 101, "%0d%0aX-Injected:1"])
def test_odd_backends_to_list(fake_client, backend):
    refused(fake_client.get(f"/v1/audio/voices?backend={backend}"), 400, 422)


# Many at the same time


def test_many_of_them_do_not_hinder_valid_requests(fake_served, fake_client):
    stop = threading.Event()

    def attack() -> None:
        with httpx.Client(base_url=fake_served.url, timeout=30, trust_env=False) as own:
            while not stop.is_set():
                own.post("/speak", content=b"[" * 100_000, headers=JSON)
                own.post("/speak", json={"text": "<emph>" * 20_000, "marked": True})
                own.post("/speak", content=BILLION_LAUGHS, headers=SSML)

    crowd = [threading.Thread(target=attack) for _ in range(2)]
    for one in crowd:
        one.start()
    try:
        answers = [fake_client.post("/speak", json={"text": MARKED, "marked": True}) for _ in range(5)]
    finally:
        stop.set()
        for one in crowd:
            one.join()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.content for answer in answers}) == 1


def test_no_request_above_was_answered_with_500(served: Server, fake_served: Server):
    for server in (served, fake_served):
        assert 'status="500"' not in server.service.metrics.text().decode()
