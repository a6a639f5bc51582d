"""Parts of the OpenAPI description that FastAPI cannot derive: streams, bodies that routes read themselves, and the API key."""

from typing import Any

from fastapi import FastAPI

from synth.audio.encoding import MEDIA_TYPES

SSML_TYPE = "application/ssml+xml"


def _event(kind: str, **fields: str) -> dict[str, Any]:
    """Return the schema of an event; ``fields`` are JSON types, alternatives separated by ``|``."""
    properties = {"type": {"const": kind}, **{name: {"type": types.split("|")} for name, types in fields.items()}}
    return {"type": "object", "required": list(properties), "properties": properties}


EVENT: dict[str, Any] = {
    "oneOf": [
        _event(
            "speech.sentence",
            text="string",
            marked="string",
            words="array",
            backend="string",
            fallback="string|null",
            warnings="array",
        ),
        _event("speech.audio.delta", audio="string"),
        _event("speech.audio.done", usage="object", seconds="number"),
        _event("error", error="object"),
    ]
}
"""The JSON of each server-sent event. The audio is base64; an error is the last event."""

AUDIO_RESPONSE: dict[str, Any] = {
    "description": "The audio; with Accept: application/json one object; with Accept: text/event-stream events during synthesis.",
    "content": {
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "contentMediaType": "application/json", "contentSchema": EVENT}},
            },
        },
    },
    "headers": {
        f"X-Prosody-{name}": {"schema": {"type": "string"}, "description": f"{about} Percent-encoded."}
        for name, about in {
            "Reply": "The reply that is spoken.",
            "Marked": "The text with its marks.",
            "Backend": "The backend that spoke.",
            "Fallback": "The backend that failed, if the fallback spoke.",
            "Warnings": "What was not done as asked.",
            "Timings": "Seconds that each step took.",
        }.items()
    },
}
"""The successful response of the endpoints that speak."""

SPEAK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SpeakRequest"}},
            SSML_TYPE: {
                "schema": {"type": "string"},
                "example": '<speak>It costs <emphasis>nine</emphasis> dollars.<break time="300ms"/></speak>',
            },
        },
    }
}
"""The body of POST /speak."""

_UPLOAD_FIELDS = {
    "text": {"type": "string", "description": "Transcript."},
    "name": {"type": "string", "description": "Optional name."},
}


def _upload(audio: dict[str, str]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": ["audio", "text"], "properties": {"audio": audio, **_UPLOAD_FIELDS}}}


VOICE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _upload(
                {"type": "string", "format": "binary", "description": "The recording, 3 to 30 s: wav, flac, mp3 or opus."}
            ),
            "application/json": _upload({"type": "string", "description": "The recording in base64, or as a data URI."}),
        },
    }
}
"""The body of POST /v1/audio/voices."""


def complete_openapi(app: FastAPI) -> None:
    """Add the API key and the schema of ``SpeakRequest`` to what ``app.openapi()`` returns."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            schema = generate()
            from api.schemas import SpeakRequest

            schema["components"]["schemas"]["SpeakRequest"] = SpeakRequest.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
            schema["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "One of PROSODY_API__KEYS, if any are set."}
            }
            schema["security"] = [{"bearer": []}, {}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
