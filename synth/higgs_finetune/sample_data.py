"""Writer of a small working manifest with recordings by the embedded voice: an example of the format, and data for a first run."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput, os_reason
from prosody_tagger.markup import MarkedText, parse
from synth.audio.encoding import encode
from synth.audio.signal import concatenate, silence
from synth.base import Audio, SpeechRequest
from synth.embedded.backend import EmbeddedVoice

_MANIFEST = "manifest.json"
_SPEAKERS: Mapping[str, str] = {"en-us": "Sam", "en-gb": "Robin", "ar": "نور"}
_REFERENCES: Mapping[str, str] = {
    "en-us": "This is what I sound like when I read a whole sentence aloud.",
    "en-gb": "A reference recording should last for three seconds or a little more.",
    "ar": "هٰذَا تَسْجِيلٌ قَصِيرٌ لِصَوْتِي أَثْنَاءَ القِرَاءَةِ.",
}
_LINES: Sequence[tuple[str, str]] = (
    ("en-us", "It costs <emph>only two hundred and ninety-nine dollars today."),
    ("en-us", "I did not say that <emph>she took it. <pause_short>I said that it was gone."),
    ("en-us", "The train leaves at noon, and the next one in the <pitch_rising>evening?"),
    ("en-gb", "We ship in three days, <pause_long>and returns are <emph>free."),
    ("en-gb", "Please keep your ticket until the very end of the journey."),
    ("en-gb", "That was the <pitch_low>last thing that anybody expected."),
    ("ar", "السِّعْرُ <emph>اليَوْمَ أَقَلُّ مِنْ أَمْسِ."),
    ("ar", "أُحِبُّ كِتَابَ <emph>Python الجَدِيدَ كَثِيرًا."),
)
_CHAT = ("What does the mark before a word mean?", "It asks for that word to be stressed.")


def create_sample_data(path: Path) -> Path:
    """Write the manifest and its recordings, and return the path of the manifest.

    Args:
        path: a folder for both; or the manifest, ending in .json or .jsonl, with its recordings in the folder ``NAME_clips`` beside
        it.

    Raises:
        BadInput: the path exists already or cannot be written.
        BackendUnavailable: the embedded voice is not available.
    """
    manifest = path if path.suffix.lower() in (".json", ".jsonl") else path / _MANIFEST
    clips = manifest.parent / ("clips" if manifest != path else f"{manifest.stem}_clips")
    for existing in (manifest, clips):
        if existing.exists():
            raise BadInput(f"{str(existing)!r} exists already; give another path")
    rows, recordings = asyncio.run(_rows(clips.name))
    try:
        clips.mkdir(parents=True)
        for name, data in recordings.items():
            (clips / name).write_bytes(data)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        is_list = manifest.suffix.lower() == ".json"
        text = "[\n" + ",\n".join(lines) + "\n]\n" if is_list else "\n".join(lines) + "\n"
        manifest.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {str(manifest)!r}: {os_reason(error)}; give another path") from None
    return manifest


async def _rows(clips: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the rows, and the recordings by their names in the folder ``clips``.

    The rows use both layouts of `synth.higgs_finetune.manifest` in turn; the last one has an answer in text.
    """
    backend = EmbeddedVoice()
    recordings: dict[str, bytes] = {}

    async def record(name: str, voice: str, marked: str) -> str:
        recordings[name] = encode(await _speak_with_pauses(backend, voice, parse(marked)), "wav")
        return f"{clips}/{name}"

    references = {voice: await record(f"{voice}.wav", voice, text) for voice, text in _REFERENCES.items()}
    rows = []
    for number, (voice, line) in enumerate(_LINES, 1):
        clip = await record(f"{voice}_{number}.wav", voice, line)
        messages = (_as_messages, _as_parts)[number % 2](_REFERENCES[voice], references[voice], line, clip)
        rows.append({"messages": messages, "speaker": _SPEAKERS[voice], "start_index": len(messages) - 1})
    question, answer = _CHAT
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*rows, {"messages": chat, "speaker": None, "start_index": 1}], recordings


def _as_messages(transcript: str, reference: str, line: str, clip: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": transcript},
        {"role": "assistant", "content": _audio(reference)},
        {"role": "user", "content": line},
        {"role": "assistant", "content": _audio(clip)},
    ]


def _as_parts(transcript: str, reference: str, line: str, clip: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [_text(transcript), _audio(reference), _text(line)]},
        {"role": "assistant", "content": [_text(line), _audio(clip)]},
    ]


def _audio(path: str) -> dict[str, str]:
    return {"type": "audio", "audio_url": path}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


async def _speak_with_pauses(backend: EmbeddedVoice, voice: str, marked: MarkedText) -> Audio:
    """Speak a text: the parts between its pauses, joined with silence."""
    pauses = [mark for mark in marked.marks if mark.is_pause]
    cuts = [0, *(mark.offset for mark in pauses), len(marked.text)]
    parts: list[Audio] = []
    for index, (start, end) in enumerate(pairwise(cuts)):
        part = marked.slice(start, end, with_end=end == len(marked.text))
        without_pauses = tuple(mark for mark in part.marks if not mark.is_pause)
        request = SpeechRequest(MarkedText(part.text, without_pauses), voice=voice, unfinished=index < len(pauses))
        async with aclosing(backend.speak(request)) as chunks:
            parts += [chunk.audio async for chunk in chunks]
        if index < len(pauses):
            parts.append(silence(round(pauses[index].silence_ms / 1000 * parts[-1].rate), parts[-1].rate))
    return concatenate(parts, parts[0].rate)
