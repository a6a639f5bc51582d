"""Responses to any request match the OpenAPI description of the service."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from fuzz import fuzz
from pydantic import BaseModel
from served import MARKED, Server, running

pytest_plugins = ["one_server"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:schemathesis", "ignore::hypothesis.errors.HypothesisWarning")

CASES = 300


def test_every_response_matches_the_description(fake_served: Server, fake_client: httpx.Client):
    recording = fake_client.post("/speak", json={"text": MARKED, "marked": True}).content
    found = fuzz(fake_served.url, CASES, recording=recording)
    assert not found.faults
    assert found.cases >= 0.9 * CASES
    for operation in ("POST /speak", "POST /mark", "POST /v1/audio/speech", "GET /v1/audio/voices"):
        assert found.statuses[operation, 200], operation
        assert found.statuses[operation, 422], operation
    assert found.costliest[0] < 10, found.costliest


class NumberOut(BaseModel):
    number: int


@contextmanager
def mismatched() -> Iterator[str]:
    """A service whose responses do not match its description."""
    app = FastAPI()

    @app.get("/fails")
    def fails() -> NumberOut:
        raise ZeroDivisionError

    @app.get("/other-status")
    def other_status() -> NumberOut:
        return JSONResponse({"number": 1}, 418)

    @app.get("/other-type")
    def other_type() -> NumberOut:
        return PlainTextResponse("1")

    @app.get("/other-shape")
    def other_shape() -> NumberOut:
        return JSONResponse({"number": "one"})

    @app.get("/truthful")
    def truthful() -> NumberOut:
        return NumberOut(number=1)

    with running(uvicorn.Config(app, port=0, log_config=None)) as (url, _):
        yield url


def test_responses_that_do_not_match_are_found():
    with mismatched() as url:
        found = fuzz(url, 20)
    assert {(operation, fault.partition(":")[0]) for operation, _, fault in found.faults} == {
        ("GET /fails", "an error of the service"),
        ("GET /fails", "status_code_conformance"),
        ("GET /other-status", "status_code_conformance"),
        ("GET /other-type", "content_type_conformance"),
        ("GET /other-shape", "response_schema_conformance"),
    }
