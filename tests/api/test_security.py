"""Access rules and the security middleware: keys, the loopback rule, limits of bodies and headers; no key appears anywhere."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
import virtual_time
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.types import ASGIApp as App
from starlette.types import Message, Receive, Scope, Send

from api.rate_limit import RateLimits, RateLimitSettings
from api.security import ApiKeys, SecuritySettings, is_loopback
from api.security_middleware import MAX_HEADER_BYTES, MAX_HEADERS, SecurityMiddleware
from prosody_tagger.errors import BadInput

KEY = "first-key-0123456789"
OTHER = "second-key-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


def refuse(status: int, code: str, message: str, headers: Mapping[str, str]) -> App:
    body = json.dumps({"code": code, "message": message}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        sent = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    return answer


def application() -> FastAPI:
    app = FastAPI()

    class Body(BaseModel):
        text: str = ""

    @app.api_route("/who", methods=["GET", "POST"])
    async def who(request: Request) -> dict[str, Any]:
        return {"identity": request.state.identity, "headers": sorted(request.headers)}

    @app.post("/json")
    async def read_json(body: Body) -> dict[str, int]:
        return {"length": len(body.text)}

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.get("/live")
    async def live(request: Request) -> dict[str, str]:
        return {"identity": request.state.identity}

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            for _ in range(3):
                yield b"part"
                await asyncio.sleep(0)

        await request.body()
        return StreamingResponse(parts())

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("a bug")

    return app


def settings(**given: Any) -> SecuritySettings:
    return SecuritySettings.model_validate(given)


def guard(given: SecuritySettings | None = None, app: App | None = None, **options: Any) -> SecurityMiddleware:
    return SecurityMiddleware(
        app or application(), given or settings(keys=f"{KEY}, {OTHER}"), refuse=refuse, uploads=["/upload"], **options
    )


def ask(
    app: Any, method: str, path: str, *, base: str = "http://127.0.0.1", client: str = "127.0.0.1", **request: Any
) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url=base) as session:
            return await session.request(method, path, **request)

    return asyncio.run(go())


# ApiKeys


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        (BEARER, "key 1"),
        ({"Authorization": f"bearer   {OTHER} "}, "key 2"),
        ({"X-API-Key": OTHER}, "key 2"),
        ({"Authorization": "Bearer not-needed", "X-API-Key": KEY}, "key 1"),
        ({"Authorization": "Basic eDp5", "X-API-Key": KEY}, "key 1"),
    ],
)
def test_a_key_gives_access_and_is_removed_from_the_headers(headers: dict[str, str], identity: str) -> None:
    answer = ask(guard(), "GET", "/who", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["identity"] == identity
    assert not {"authorization", "x-api-key"} & set(answer.json()["headers"])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": KEY}, "missing_api_key"),
        ({"Authorization": "Bearer"}, "missing_api_key"),
        ({"Authorization": f"Basic {KEY}"}, "missing_api_key"),
        ({"Authorization": f"Bearer {KEY} {OTHER}"}, "missing_api_key"),
        ({"Authorization": f"Bearer {KEY},{OTHER}"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}x"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY.upper()}"}, "invalid_api_key"),
        ({"X-API-Key": ""}, "invalid_api_key"),
        ({"X-API-Key": "ключ".encode()}, "invalid_api_key"),
        ({"Authorization": b"Bearer \xff\xfe"}, "invalid_api_key"),
    ],
)
def test_requests_without_a_valid_key_are_refused(headers: dict[str, Any], code: str) -> None:
    answer = ask(guard(), "POST", "/json", headers=headers, json={"text": "x"})
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"].startswith('Bearer realm="prosody"')
    assert "Authorization, as Bearer KEY" in answer.json()["message"]


def test_keys_in_the_query_are_not_accepted() -> None:
    assert ask(guard(), "GET", f"/who?api_key={KEY}").status_code == 401


@pytest.mark.parametrize(
    "path", ["/live/", "//live", "/LIVE", "/live/../who", "/who/live", "/live%00", "/live;x", "/openapi.json", "/nothing"]
)
def test_only_the_public_paths_themselves_are_public(path: str) -> None:
    assert ask(guard(), "GET", path).status_code == 401


def test_public_paths() -> None:
    assert ask(guard(), "GET", "/live").json() == {"identity": "address 127.0.0.1"}


@pytest.mark.parametrize(
    ("path", "root", "status"), [("/base/live", "/base", 200), ("/base/who", "/base", 401), ("/live/who", "/live", 401)]
)
def test_public_paths_below_a_mount(path: str, root: str, status: int) -> None:
    scope = http("GET", path) | {"root_path": root, "headers": []}
    assert exchange(guard(), scope)[0]["status"] == status


KEYS_TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=40)


@given(st.lists(KEYS_TEXT, min_size=1, max_size=6, unique=True), st.binary(max_size=60))
def test_exactly_the_keys_are_found(keys: list[str], other: bytes) -> None:
    known = ApiKeys(" , ".join(keys))
    assert [known.find(key.encode()) for key in keys] == [f"key {number}" for number in range(1, len(keys) + 1)]
    assert (known.find(other) is not None) == (other in [key.encode() for key in keys])
    assert repr(known) == f"<{len(keys)} API keys>"
    shown = repr(vars(known))
    assert not any(key in shown for key in keys if len(key) > 6)


@given(st.text(max_size=60))
def test_any_setting_of_keys_is_accepted_or_refused_without_showing_it(text: str) -> None:
    def refused() -> str:
        try:
            held = SecuritySettings(keys=text).keys  # type: ignore[arg-type]
        except ValidationError as error:
            return str(error)
        return "" if (held is None) == (not text.strip()) else text

    assert len(text) < 7 or text not in refused()


@pytest.mark.parametrize("keys", ["good-key-1234567,bad key here", "secret\nkey-value", "schlüssel-geheim", "x" * 513, ",", " , ,"])
def test_keys_that_no_header_can_carry_are_refused_without_showing_them(keys: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SecuritySettings(keys=keys)  # type: ignore[arg-type]
    for part in ("bad key", "secret", "geheim", "xxx", "good-key"):
        assert part not in str(caught.value)


def test_all_keys_are_compared_whichever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compare, compared = hmac.compare_digest, []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, two: (compared.append((len(one), len(two))), compare(one, two))[1])
    keys = ApiKeys(f"{KEY},{OTHER},third")
    for given_key in (KEY, OTHER, "third", "none", "x" * 5_000):
        compared.clear()
        keys.find(given_key.encode())
        assert compared == [(32, 32)] * 3


def test_short_keys_are_warned_about_beyond_loopback(caplog: pytest.LogCaptureFixture) -> None:
    guard(settings(keys="abc-short,0123456789abcdef"), host="127.0.0.1")
    assert not caplog.records
    guard(settings(keys="abc-short,0123456789abcdef"), host="0.0.0.0")
    assert "1 of the API keys have fewer than 16 characters" in caplog.text
    assert "abc-short" not in caplog.text


def test_no_key_appears_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given_settings = settings(keys=f"{KEY},{OTHER}", max_body=1_000)
    app = guard(given_settings, check=RateLimits(RateLimitSettings(rate_limit="20/minute")).check)
    shown = [repr(given_settings), str(given_settings), given_settings.model_dump_json(), repr(app), repr(vars(app))]
    wrong = "wrong-key-987654321"
    for headers in (
        BEARER,
        {"X-API-Key": OTHER},
        {"X-API-Key": wrong},
        {"Authorization": f"Bearer {wrong}"},
        {"Authorization": KEY},
    ):
        for method, path, body in (
            ("GET", "/who", b""),
            ("POST", "/json", b"{"),
            ("POST", "/json", b"x" * 2_000),
            ("GET", "/none", b""),
        ):
            for _ in range(4):
                answer = ask(app, method, path, headers=headers, content=body)
                shown += [answer.text, repr(answer.headers)]
        with suppress(RuntimeError):
            shown.append(ask(app, "GET", "/fail", headers=headers).text)
    with pytest.raises(ValidationError) as caught:
        SecuritySettings(keys=KEY, open=True, max_body=-1)  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as both:
        SecuritySettings(keys=KEY, open=True)  # type: ignore[arg-type]
    shown += [str(caught.value), str(both.value), caplog.text]
    for secret in (KEY, OTHER, wrong):
        assert not [text for text in shown if secret in text]


# The loopback rule


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST", "localhost.", "::ffff:127.0.0.1"]
)
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert not settings().requires_key(host)
    settings().check_host(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.0.2.1", "example.com", "localhost.example.com", "127.0.0.1.example.com", "::ffff:192.0.2.1"]
)
def test_beyond_loopback_nothing_starts_without_a_key(host: str) -> None:
    assert settings().requires_key(host)
    with pytest.raises(BadInput, match=r"PROSODY_API__KEYS.*127\.0\.0\.1.*PROSODY_API__OPEN"):
        guard(settings(), host=host)
    guard(settings(keys=KEY * 2), host=host)
    assert not settings(open=True).requires_key(host)
    guard(settings(open=True), host=host)


def test_keys_are_required_on_loopback_too() -> None:
    assert settings(keys=KEY).requires_key("127.0.0.1")


def test_without_keys_loopback_is_served() -> None:
    for base in ("http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost", "http://testserver", "http://app.localhost:80"):
        answer = ask(guard(settings()), "GET", "/who", base=base)
        assert answer.json()["identity"] == "address 127.0.0.1"


@pytest.mark.parametrize(
    ("base", "headers", "code"),
    [
        ("http://192.0.2.1", {}, "no_keys_set"),  # uvicorn started by hand on an address that other machines reach
        ("http://127.0.0.1", {"host": "evil.example"}, "wrong_host"),
        ("http://127.0.0.1", {"host": "evil.example:8000"}, "wrong_host"),
        ("http://127.0.0.1", {"host": "127.0.0.1.evil.example"}, "wrong_host"),
        ("http://127.0.0.1", {"host": "a b"}, "wrong_host"),
        ("http://127.0.0.1", {"origin": "https://evil.example"}, "wrong_origin"),
        ("http://127.0.0.1", {"origin": "null"}, "wrong_origin"),
        ("http://127.0.0.1", {"origin": "http://127.0.0.1.evil.example"}, "wrong_origin"),
        ("http://127.0.0.1:8000", {"origin": "http://127.0.0.1:9000"}, "wrong_origin"),
    ],
)
def test_without_keys_other_hosts_and_origins_are_refused(base: str, headers: dict[str, str], code: str) -> None:
    answer = ask(guard(settings()), "POST", "/json", base=base, headers=headers, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    with_key = ask(guard(), "POST", "/json", base=base, headers=headers | BEARER, json={})
    assert with_key.status_code == 200


@pytest.mark.parametrize(
    ("base", "headers", "given_settings"),
    [
        ("http://127.0.0.1:8000", {"origin": "http://127.0.0.1:8000"}, {}),
        ("http://127.0.0.1", {"origin": "https://app.example.com"}, {"origins": "https://App.example.com, http://b.example"}),
        ("http://127.0.0.1", {"origin": "https://any.example"}, {"origins": "*"}),
        ("http://127.0.0.1", {"host": "voice.example.com:1"}, {"hosts": "voice.example.com"}),
        ("http://192.0.2.1", {"host": "evil.example", "origin": "https://evil.example"}, {"open": True}),
    ],
)
def test_settings_that_allow_hosts_and_origins(base: str, headers: dict[str, str], given_settings: dict[str, Any]) -> None:
    assert ask(guard(settings(**given_settings)), "POST", "/json", base=base, headers=headers, json={}).status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"origins": "example.com"}, {"origins": "https://a.example/path"}, {"hosts": "a b"}, {"max_body": 0}, {"other": 1}]
)
def test_settings_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="PROSODY_", env_nested_delimiter="__")
        api: SecuritySettings = SecuritySettings()

    monkeypatch.setenv("PROSODY_API__KEYS", f"{KEY},{OTHER}")
    monkeypatch.setenv("PROSODY_API__ORIGINS", "https://a.example,https://b.example")
    monkeypatch.setenv("PROSODY_API__HOSTS", "")
    read = Whole().api
    assert read.keys is not None
    assert len(ApiKeys(read.keys.get_secret_value())) == 2
    assert read.origins == ("https://a.example", "https://b.example")
    assert read.hosts == ()
    monkeypatch.setenv("PROSODY_API__KEYS", "")
    assert Whole().api.keys is None


# Rates


def test_rates_are_by_key_and_wrong_keys_count_for_the_address() -> None:
    app = guard(check=RateLimits(RateLimitSettings(rate_limit="2/minute")).check)
    wrong = {"X-API-Key": "wrong"}
    assert [ask(app, "GET", "/who", headers=wrong).status_code for _ in range(3)] == [401, 401, 429]
    assert [ask(app, "GET", "/who", headers=BEARER).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(app, "GET", "/who", headers={"X-API-Key": OTHER}).status_code == 200
    assert {ask(app, "GET", "/live").status_code for _ in range(5)} == {200}
    refused = ask(app, "GET", "/who", headers=BEARER)
    assert refused.json()["code"] == "rate_limit_exceeded"
    assert 55 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit-limit"] == "2"


# Bodies and headers


def http(method: str, path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    fixed = [(b"host", b"127.0.0.1"), (b"x-api-key", KEY.encode())]
    named = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    return named | {"headers": [*fixed, *headers], "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2), "http_version": "1.1"}


def exchange(app: App, scope: Scope, *chunks: bytes, wait: float = 0.0, more: bool = False) -> list[Message]:
    """Send a request in chunks, each after a wait; with ``more``, nothing follows the last one. Return the response's messages."""
    sent: list[Message] = []
    left = list(chunks or [b""])

    async def receive() -> Message:
        if not left:
            await asyncio.sleep(3_600)
        await asyncio.sleep(wait)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or more}

    async def send(message: Message) -> None:
        sent.append(message)

    virtual_time.run(asyncio.wait_for(app(scope, receive, send), 1_000))
    return sent


def code(sent: list[Message]) -> tuple[int, str]:
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body).get("code", "")


SMALL = settings(keys=KEY, max_body=1_000, max_upload=3_000)


@pytest.mark.parametrize(
    ("path", "size", "status"), [("/json", 1_000, 200), ("/json", 1_001, 413), ("/upload", 3_000, 200), ("/upload", 3_001, 413)]
)
@pytest.mark.parametrize("declared", [True, False])
def test_bodies_are_bounded_declared_or_not(path: str, size: int, status: int, declared: bool) -> None:
    body = json.dumps({"text": ""}).encode().ljust(size)
    app = guard(SMALL)
    length = [(b"content-length", str(size).encode())] if declared else [(b"transfer-encoding", b"chunked")]
    scope = http("POST", path, (b"content-type", b"application/json"), *length)
    sent = exchange(app, scope, body[: size // 2], body[size // 2 :])
    assert sent[0]["status"] == status
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert sent[-1].get("more_body", False) is False
    if status == 413:
        assert code(sent) == (413, "body_too_large")
        assert (b"connection", b"close") in sent[0]["headers"]


def test_a_complete_body_that_is_too_long_is_refused_without_reading_on() -> None:
    received = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": bytes(1_001), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(SMALL)(http("POST", "/json"), receive, send))
    assert code(sent) == (413, "body_too_large")
    assert received == 1


@pytest.mark.parametrize("declared", [True, False])
def test_the_rest_of_a_refused_body_is_read_before_the_response_ends(declared: bool) -> None:
    left = [bytes(900)] * 20
    ended_with: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            ended_with.append(len(left))

    scope = http("POST", "/json", *([(b"content-length", b"18000")] if declared else []))
    asyncio.run(guard(SMALL)(scope, receive, send))
    assert ended_with == [0]


def test_an_endless_body_is_cut_off() -> None:
    held = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            held.append(len(message["body"]))
        assert (await receive())["type"] == "http.disconnect"

    sent = exchange(guard(SMALL, app), http("POST", "/json"), *[bytes(100)] * 1_000)
    assert code(sent) == (413, "body_too_large")
    assert sum(held) == 1_000


@pytest.mark.parametrize("value", [b"-1", b"1e3", b"", b"abc", b"1 0", b"9" * 30, "١٢".encode()])
def test_invalid_lengths(value: bytes) -> None:
    assert code(exchange(guard(), http("POST", "/json", (b"content-length", value)))) == (400, "invalid_content_length")


def test_two_lengths_that_differ() -> None:
    scope = http("POST", "/json", (b"content-length", b"5"), (b"content-length", b"6"))
    assert code(exchange(guard(), scope))[0] == 400


def test_headers_are_bounded() -> None:
    app = guard()
    assert code(exchange(app, http("GET", "/who", *[(b"x", b"y")] * MAX_HEADERS))) == (431, "headers_too_large")
    assert code(exchange(app, http("GET", "/who", (b"x", b"y" * MAX_HEADER_BYTES)))) == (431, "headers_too_large")
    assert code(exchange(app, http("GET", "/who") | {"query_string": b"a" * 8_001})) == (414, "target_too_long")
    assert exchange(app, http("GET", "/who", *[(b"x", b"y")] * 90))[0]["status"] == 200


@pytest.mark.parametrize("chunks", [[], [b"{"], [b"{", b'"text"']])
def test_a_body_that_stops_times_out(chunks: list[bytes]) -> None:
    app = guard(settings(keys=KEY, body_timeout=0.1))
    scope = http("POST", "/json", (b"content-type", b"application/json"), (b"content-length", b"50"))
    sent = exchange(app, scope, *(chunks or [b""]), more=True)
    assert code(sent) == (408, "body_timeout")
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_body_that_drips_times_out() -> None:
    sent = exchange(guard(settings(keys=KEY, body_timeout=0.1)), http("POST", "/upload"), *[b"x"] * 100, wait=0.02)
    assert code(sent) == (408, "body_timeout")


def test_a_long_body_has_more_time() -> None:
    app = guard(settings(keys=KEY, body_timeout=0.1))
    assert exchange(app, http("POST", "/upload"), *[bytes(10_000)] * 10, wait=0.03)[0]["status"] == 200


def test_time_of_the_application_does_not_count() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        for _ in range(4):
            await receive()
            await asyncio.sleep(0.06)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert (
        exchange(guard(settings(keys=KEY, body_timeout=0.1), app), http("POST", "/json"), b"a", b"b", b"c", b"d")[0]["status"]
        == 200
    )


def test_a_disconnect_is_noticed_after_the_body_timeout() -> None:
    seen: list[str] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append((await receive())["type"])

    async def go() -> None:
        messages = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.sleep(0.3)  # longer than `body_timeout`
            seen.append("left")
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            return None

        await guard(settings(keys=KEY, body_timeout=0.05), app)(http("POST", "/json"), receive, send)

    virtual_time.run(go())
    assert seen == ["left", "http.disconnect"]


def test_errors_of_the_application_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        ask(guard(), "GET", "/fail", headers=BEARER)


def test_streamed_chunks_are_passed_on_one_by_one() -> None:
    sent = exchange(guard(), http("POST", "/stream"), b"body")
    assert [message.get("body") for message in sent[1:]] == [b"part"] * 3 + [b""]


def test_websockets_are_guarded_and_the_lifespan_is_not() -> None:
    called: list[str] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        called.append(scope["type"])

    scope = http("GET", "/who") | {"type": "websocket"}
    assert exchange(guard(app=app), scope | {"headers": []}) == [{"type": "websocket.close", "code": 1008}]
    assert called == []
    assert exchange(guard(app=app), scope) == []
    assert exchange(guard(app=app), {"type": "lifespan"}) == []
    assert called == ["websocket", "lifespan"]


@given(
    st.text(max_size=30).map(lambda path: f"/{path}"),
    st.lists(
        st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"content-length", b"host", b"origin"]), st.binary(max_size=30)),
        max_size=5,
    ),
)
def test_no_request_without_a_key_is_accepted(path: str, headers: list[tuple[bytes, bytes]]) -> None:
    async def app(*_: object) -> None:
        raise AssertionError("it was let in")

    app_guard = SecurityMiddleware(app, settings(keys=KEY), refuse=refuse)
    if path not in ("/live", "/ready"):
        scope = http("GET", path) | {"headers": headers, "raw_path": path.encode("utf-8", "replace")}
        assert exchange(app_guard, scope)[0]["status"] in (400, 401, 413)


# Over a socket


@contextmanager
def served(app: App) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http="h11"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def test_a_client_that_sends_too_much_reads_why() -> None:
    with served(guard(settings(max_body=10_000))) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        for content in (bytes(30_000_000), (bytes(100_000) for _ in range(300))):
            answer = client.post("/json", content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert client.post("/json", json={"text": "abc"}).json() == {"length": 3}


def test_a_client_that_never_ends_its_body_is_cut_off() -> None:
    with served(guard(settings(body_timeout=0.2))) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        answer = b""
        while part := client.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"body_timeout"' in answer
