"""Rows and files of ChatML manifests."""

import json
from pathlib import Path
from typing import Any


def audio(path: str) -> dict[str, str]:
    return {"type": "audio", "audio_url": path}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    """Return a row of messages, of user and assistant in turn."""
    return {"messages": [message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)], **fields}


def write_manifest(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
