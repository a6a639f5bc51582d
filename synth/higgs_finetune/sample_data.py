"""A small manifest that works, with real speech by the embedded voice: to see how one looks, and to try a training run on."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText, parse
from synth.audio.encoding import encode
from synth.audio.signal import concatenate, silence
from synth.base import Audio, SpeechRequest
from synth.embedded.backend import EmbeddedVoice

_MANIFEST = "manifest.json"
_SPEAKERS: Mapping[str, str] = {"en-us": "Sam", "en-gb": "Robin", "ar": "نور"}
_VOICES: Mapping[str, str] = {
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
    """Write the manifest and its recordings, and return where the manifest is.

    Args:
        path: a folder for both; or the manifest, whose name ends in .json or .jsonl, with a folder of its name beside it.

    Raises:
        BadInput: something is there already, or it cannot be written.
        BackendUnavailable: there is no embedded voice.
    """
    manifest = path if path.suffix.lower() in (".json", ".jsonl") else path / _MANIFEST
    clips = manifest.parent / ("clips" if manifest != path else f"{manifest.stem}_clips")
    for there in (manifest, clips):
        if there.exists():
            raise BadInput(f"{str(there)!r} is there already; give another place")
    rows, sounds = asyncio.run(_rows(clips.name))
    try:
        clips.mkdir(parents=True)
        for name, sound in sounds.items():
            (clips / name).write_bytes(sound)
        listed = ",\n".join if manifest.suffix.lower() == ".json" else "\n".join
        text = listed(json.dumps(row, ensure_ascii=False) for row in rows)
        manifest.write_text(f"[\n{text}\n]\n" if manifest.suffix.lower() == ".json" else f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {str(manifest)!r}: {error.strerror or error}; give another place") from None
    return manifest


async def _rows(clips: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The rows, of both forms in turn and one that is answered in writing; and the sound files of the folder ``clips`` by name."""
    voice = EmbeddedVoice()
    sounds: dict[str, bytes] = {}

    async def record(name: str, said: str, marked: str) -> str:
        sounds[name] = encode(await _spoken(voice, said, parse(marked)), "wav")
        return f"{clips}/{name}"

    references = {name: await record(f"{name}.wav", name, text) for name, text in _VOICES.items()}
    rows = []
    for number, (name, line) in enumerate(_LINES, 1):
        clip = await record(f"{name}_{number}.wav", name, line)
        messages = (_in_messages, _in_parts)[number % 2](_VOICES[name], references[name], line, clip)
        rows.append({"messages": messages, "speaker": _SPEAKERS[name], "start_index": len(messages) - 1})
    asked, answered = _CHAT
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*rows, {"messages": chat, "speaker": None, "start_index": 1}], sounds


def _in_messages(said: str, reference: str, line: str, clip: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": said},
        {"role": "assistant", "content": _audio(reference)},
        {"role": "user", "content": line},
        {"role": "assistant", "content": _audio(clip)},
    ]


def _in_parts(said: str, reference: str, line: str, clip: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [_text(said), _audio(reference), _text(line)]},
        {"role": "assistant", "content": [_text(line), _audio(clip)]},
    ]


def _audio(path: str) -> dict[str, str]:
    return {"type": "audio", "audio_url": path}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


async def _spoken(voice: EmbeddedVoice, name: str, marked: MarkedText) -> Audio:
    """A text with its pauses: spoken between them, and joined with silence."""
    pauses = [mark for mark in marked.marks if mark.is_pause]
    cuts = [0, *(mark.offset for mark in pauses), len(marked.text)]
    parts: list[Audio] = []
    for index, (start, end) in enumerate(pairwise(cuts)):
        piece = marked.slice(start, end, with_end=end == len(marked.text))
        kept = tuple(mark for mark in piece.marks if not mark.is_pause)
        request = SpeechRequest(MarkedText(piece.text, kept), voice=name, unfinished=index < len(pauses))
        async with aclosing(voice.speak(request)) as chunks:
            parts += [chunk.audio async for chunk in chunks]
        if index < len(pauses):
            parts.append(silence(round(pauses[index].silence_ms / 1000 * parts[-1].rate), parts[-1].rate))
    return concatenate(parts, parts[0].rate)
