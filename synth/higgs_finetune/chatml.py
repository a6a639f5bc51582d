"""One conversation of a manifest: what is to be learnt of it, and what came before."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, Mark, MarkedText, parse, plain
from synth.higgs_local.prompt import INSTRUCTION, SCENE, SCENE_END

_AUDIO_KEYS = ("audio_url", "audio", "path", "url")
_ROLES = ("system", "scene", "user", "assistant")
_MAX_PATH = 4096
_TAGS = re.compile(rf"\\[\\<]|</?(?:{'|'.join(KINDS)})(?![\w.-])|<")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,31}://|data:")
_WORD = re.compile(r"\S++")


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that was asked, and its answer: the recording ``clip``, or the text ``answer`` where there is none.

    A recording of the voice is one: ``text`` is what is said in it.
    """

    text: MarkedText
    clip: Path | None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to learn.

    Attributes:
        source: where it stands, "file:line".
        system: the system message as it is; None without one. A message of the role "scene" is in it, between Higgs's own tokens.
        speaker: who speaks, if the manifest says so.
        start_index: the first message that may be learnt, if the manifest says so. Only the last one is.
        references: what came before, the oldest first: recordings of the voice, as a rule. It is not learnt.
        text: what is asked for.
        clip: the recording that answers; None if a text does.
        answer: the text that answers; beside a recording what is said in it, or empty.
    """

    source: str
    system: str | None
    speaker: str | None
    start_index: int | None
    references: tuple[Turn, ...]
    text: MarkedText
    clip: Path | None
    answer: str = ""

    @property
    def clips(self) -> tuple[Path, ...]:
        """All recordings in it, in order."""
        return tuple(clip for clip in (*(turn.clip for turn in self.references), self.clip) if clip is not None)


def marked_text(source: str) -> MarkedText:
    """A manifest's text: as `prosody_tagger.markup.parse` reads it, save that "<" is text where no mark's name follows.

    Raises:
        MarkupError: a tag has a mark's name and is none, as "</emph>" and "<emph" are; or there is a lone surrogate.
    """
    return parse(_TAGS.sub(lambda found: "\\<" if found[0] == "<" else found[0], source))


def scene_in(system: str | None) -> str | None:
    """What a system message describes between Higgs's own tokens; None where it does not."""
    text = system or ""
    start, end = text.find(SCENE), text.rfind(SCENE_END)
    return text[start + len(SCENE) : end] if 0 <= start < end else None


def is_left_out(system: str | None) -> bool:
    """Whether a system message says something that the local backend never does: an instruction other than Higgs's own."""
    return bool(system) and scene_in(system) is None and str(system).strip() != INSTRUCTION


def read_row(found: Any, source: str, folder: Path) -> Row:
    """A conversation as a row.

    Args:
        found: what the manifest holds for it.
        source: where it stands.
        folder: where relative paths begin.

    Raises:
        BadInput: it is none, or there is nothing in it that can be learnt; the message says why.
    """
    if not isinstance(found, dict):
        raise BadInput(f"a row is a JSON object with messages, and this is {_named(found)}")
    messages = _messages(found, folder)
    system = _system(messages)
    turns = [message for message in messages if message.role in ("user", "assistant")]
    _check_order(turns)
    before: list[Turn] = []
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        recordings, request = _heard(asked)
        before += recordings
        turn = _turn(request, answered)
        is_last = answered is turns[-1]
        if is_last:
            turn = _asked_alone(turn, answered.text, recordings)
        elif recordings and not request.text.strip() and turn.clip is None:
            continue  # an answer that only says that the recording was heard
        if not turn.text.text.strip():
            raise BadInput(f"message {asked.index} asks for nothing: give the text that is said, after any recording of the voice")
        before.append(turn)
    learnt = before.pop()
    return Row(
        source,
        system,
        _speaker(found.get("speaker")),
        _start_index(found.get("start_index"), turns[-1].index),
        tuple(before),
        learnt.text,
        learnt.clip,
        learnt.answer,
    )


@dataclass(frozen=True, slots=True)
class _Message:
    """A message: its place, and texts and recordings in order."""

    index: int
    role: str
    parts: tuple[MarkedText | Path, ...]

    @property
    def text(self) -> MarkedText:
        return _joined([part for part in self.parts if isinstance(part, MarkedText)])


def _messages(found: Mapping[str, Any], folder: Path) -> list[_Message]:
    messages = found.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadInput("it has no list of messages; give at least one of the user and the assistant's answer")
    is_marked = found.get("marked", True)
    if not isinstance(is_marked, bool):
        raise BadInput(f'"marked" is true or false, and here {_named(is_marked)}')
    read = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise BadInput(f"message {index} has the role {_named(role)}; give one of {', '.join(_ROLES)}")
        has_marks = is_marked and role in ("user", "assistant")
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        read.append(_Message(index, role, tuple(_part(part, index, folder, has_marks) for part in parts)))
    return read


def _part(part: Any, index: int, folder: Path, has_marks: bool) -> MarkedText | Path:
    if isinstance(part, dict) and part.get("type") == "audio":
        return _clip(part, index, folder)
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str):
        raise BadInput(f'message {index} holds {_named(part)}; give text, or {{"type": "audio", "audio_url": "FILE"}}')
    return marked_text(text) if has_marks else plain(text)


def _clip(part: Mapping[str, Any], index: int, folder: Path) -> Path:
    name = next((part[key] for key in _AUDIO_KEYS if part.get(key)), None)
    if not isinstance(name, str) or "\0" in name or len(name) > _MAX_PATH:
        raise BadInput(f"message {index} has {_named(name)} for a recording; give the path of a file under audio_url")
    if part.get("offset"):
        raise BadInput(f"message {index} means a part of {name!r}; cut it out into a file of its own")
    if name.startswith("file://"):
        name = unquote(urlsplit(name).path)
    elif _ADDRESS.match(name):
        raise BadInput(f"message {index} has the address {name[:60]!r} for a recording; fetch it, and give the path of the file")
    return folder / name


def _system(messages: Sequence[_Message]) -> str | None:
    """What stands before the conversation. A scene is put where Higgs has it."""
    said = {role: [message for message in messages if message.role == role] for role in ("system", "scene")}
    first = next((message.index for message in messages if message.role not in said), len(messages))
    for message in (*said["system"], *said["scene"]):
        if message.index > first:
            raise BadInput(f"message {message.index} has the role {message.role}; it comes before user and assistant")
    texts = {role: "\n\n".join(message.text.text.strip() for message in found) for role, found in said.items()}
    if not said["scene"]:
        return texts["system"] if said["system"] else None
    return f"{texts['system'] or INSTRUCTION}\n\n{SCENE}\n{texts['scene']}\n{SCENE_END}"


def _check_order(turns: Sequence[_Message]) -> None:
    for message, role in zip(turns, ("user", "assistant") * len(turns), strict=False):
        if message.role != role:
            raise BadInput(f"message {message.index} is of the {message.role}; user and assistant take turns, the user first")
    if not turns or turns[-1].role != "assistant":
        raise BadInput("there is no answer to learn; the last message is to be the assistant's")


def _heard(asked: _Message) -> tuple[list[Turn], MarkedText]:
    """The recordings of the voice within a user's message, each after what is said in it; and what is asked for after them."""
    recordings: list[Turn] = []
    texts: list[MarkedText] = []
    for part in asked.parts:
        if isinstance(part, MarkedText):
            texts.append(part)
            continue
        said = _joined(texts)
        if not said.text.strip():
            raise BadInput(f"message {asked.index} does not say what {part.name!r} says; put that before the recording")
        recordings.append(Turn(said, part))
        texts = []
    return recordings, _joined(texts)


def _turn(request: MarkedText, answered: _Message) -> Turn:
    clips = [part for part in answered.parts if isinstance(part, Path)]
    if len(clips) > 1:
        raise BadInput(f"message {answered.index} answers with {len(clips)} recordings; give one")
    answer = answered.text.text.strip()
    if not clips and not answer:
        raise BadInput(f"message {answered.index} is empty; give the recording or the text that answers")
    return Turn(request, clips[0] if clips else None, answer)


def _asked_alone(turn: Turn, answer: MarkedText, recordings: Sequence[Turn]) -> Turn:
    """A request for speech without what leads up to it ("Please say this: ..."), where the answer tells what is said.

    The voice is asked by the text alone, so that is what it is taught with.
    """
    said = answer.text.split()
    if turn.clip is None or not said:
        return turn
    asked = list(_WORD.finditer(turn.text.text))
    if not asked:
        if recordings and recordings[-1].text.text.split() == said:
            raise BadInput("the user's last message has the text to be said, but not what its recording says; put that first")
        return replace(turn, text=answer)
    if [word[0] for word in asked[-len(said) :]] != said:
        return turn
    text = turn.text.slice(asked[-len(said)].start(), len(turn.text.text), with_end=True)
    return replace(turn, text=text if text.marks else answer)


def _speaker(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadInput(f"the speaker is {_named(value)}; give a name")
    return str(value)


def _start_index(value: Any, last: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
        raise BadInput(f"start_index is {_named(value)}; give the place of a message that is learnt, {last} or before, or none")
    return value


def _joined(texts: Sequence[MarkedText]) -> MarkedText:
    """Texts in a row, a space between."""
    marks: list[Mark] = []
    start = 0
    for text in texts:
        marks += [mark.moved(start) for mark in text.marks]
        start += len(text.text) + 1
    return MarkedText(" ".join(text.text for text in texts), tuple(marks))


def _named(value: Any) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
