"""One conversation of a ChatML manifest: the answer to learn, and its context."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, MarkedText, concatenate, parse, plain
from synth.higgs_local.prompt import INSTRUCTION, SCENE, SCENE_END

_AUDIO_KEYS = ("audio_url", "audio", "path", "url")
_ROLES = ("system", "scene", "user", "assistant")
_MAX_PATH = 4096
_TAG_OR_ESCAPE = re.compile(rf"\\[\\<]|</?(?:{'|'.join(KINDS)})(?![\w.-])|<")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,31}://|data:")
_WORD = re.compile(r"\S++")


@dataclass(frozen=True, slots=True)
class Turn:
    """A request and its answer: the recording ``clip``, or the text ``answer`` if there is no recording.

    A reference recording of the voice is a turn whose ``text`` is its transcript.
    """

    text: MarkedText
    clip: Path | None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One conversation whose last answer is learnt.

    Attributes:
        source: position of the row, "file:line".
        system: the system message; None without one. It contains any message of the role "scene", between Higgs's own tokens.
        speaker: name of the speaker, if the manifest has one.
        start_index: index of the first message to learn, if the manifest has one. Only the last message is learnt.
        references: earlier turns, oldest first, most often reference recordings. They are context and not learnt.
        text: the text of the last request.
        clip: the recording that answers; None if the answer is text.
        answer: the text that answers; beside a recording its transcript, or empty.
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
        """All recordings of the row, in order."""
        return tuple(clip for clip in (*(turn.clip for turn in self.references), self.clip) if clip is not None)


def parse_manifest_text(source: str) -> MarkedText:
    """Parse a text of a manifest: like `prosody_tagger.markup.parse`, but "<" is plain text unless the name of a mark follows.

    Raises:
        MarkupError: malformed mark, such as "</emph>" or "<emph"; or a lone surrogate.
    """
    return parse(_TAG_OR_ESCAPE.sub(lambda match: "\\<" if match[0] == "<" else match[0], source))


def scene_in(system: str | None) -> str | None:
    """Return the scene description in a system message, between Higgs's own tokens; None if it has none."""
    text = system or ""
    start, end = text.find(SCENE), text.rfind(SCENE_END)
    return text[start + len(SCENE) : end] if 0 <= start < end else None


def is_dropped(system: str | None) -> bool:
    """Return whether a system message is dropped from requests for speech.

    That is any instruction but Higgs's own: the local backend never sends another.
    """
    return bool(system) and scene_in(system) is None and str(system).strip() != INSTRUCTION


def read_row(data: Any, source: str, folder: Path) -> ManifestRow:
    """Return a conversation as a row.

    Args:
        data: the JSON value of the row.
        source: position of the row, "file:line".
        folder: base of relative paths.

    Raises:
        BadInput: the row is malformed or has nothing to learn; the message gives the reason.
    """
    if not isinstance(data, dict):
        raise BadInput(f"a row must be a JSON object with messages, got {_shortened(data)}")
    messages = _messages(data, folder)
    system = _system_message(messages)
    turns = [message for message in messages if message.role in ("user", "assistant")]
    _check_order(turns)
    context: list[Turn] = []
    for user, assistant in zip(turns[::2], turns[1::2], strict=True):
        recordings, request = _split_references(user)
        context += recordings
        turn = _turn(request, assistant)
        is_last = assistant is turns[-1]
        if is_last:
            turn = _without_lead_in(turn, assistant.text, recordings)
        elif recordings and not request.text.strip() and turn.clip is None:
            continue  # an answer that only acknowledges the recording
        if not turn.text.text.strip():
            raise BadInput(f"message {user.index} has no text to speak; give it after any reference recording")
        context.append(turn)
    learnt = context.pop()
    return ManifestRow(
        source,
        system,
        _speaker(data.get("speaker")),
        _start_index(data.get("start_index"), turns[-1].index),
        tuple(context),
        learnt.text,
        learnt.clip,
        learnt.answer,
    )


@dataclass(frozen=True, slots=True)
class _ChatMessage:
    """A message: its index, its role, and its texts and recordings in order."""

    index: int
    role: str
    parts: tuple[MarkedText | Path, ...]

    @property
    def text(self) -> MarkedText:
        return _joined([part for part in self.parts if isinstance(part, MarkedText)])


def _messages(data: Mapping[str, Any], folder: Path) -> list[_ChatMessage]:
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadInput("it has no list of messages; give at least one of the user and the assistant's answer")
    is_marked = data.get("marked", True)
    if not isinstance(is_marked, bool):
        raise BadInput(f'"marked" must be true or false, got {_shortened(is_marked)}')
    result = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise BadInput(f"message {index} has the role {_shortened(role)}; give one of {', '.join(_ROLES)}")
        has_marks = is_marked and role in ("user", "assistant")
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        result.append(_ChatMessage(index, role, tuple(_message_part(part, index, folder, has_marks) for part in parts)))
    return result


def _message_part(part: Any, index: int, folder: Path, has_marks: bool) -> MarkedText | Path:
    if isinstance(part, dict) and part.get("type") == "audio":
        return _clip(part, index, folder)
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str):
        raise BadInput(f'message {index} holds {_shortened(part)}; give text, or {{"type": "audio", "audio_url": "FILE"}}')
    return parse_manifest_text(text) if has_marks else plain(text)


def _clip(part: Mapping[str, Any], index: int, folder: Path) -> Path:
    name = next((part[key] for key in _AUDIO_KEYS if part.get(key)), None)
    if not isinstance(name, str) or "\0" in name or len(name) > _MAX_PATH:
        raise BadInput(f"message {index} has {_shortened(name)} for a recording; give the path of a file under audio_url")
    if part.get("offset"):
        raise BadInput(f"message {index} has an offset, so it refers to a part of {name!r}; save that part as a separate file")
    if name.startswith("file://"):
        name = unquote(urlsplit(name).path)
    elif _URL.match(name):
        raise BadInput(f"message {index} has the URL {name[:60]!r} for a recording; download it, and give the path of the file")
    return folder / name


def _system_message(messages: Sequence[_ChatMessage]) -> str | None:
    """Return the system message, with any scene between Higgs's own tokens; None if there is neither."""
    by_role = {role: [message for message in messages if message.role == role] for role in ("system", "scene")}
    first = next((message.index for message in messages if message.role not in by_role), len(messages))
    for message in (*by_role["system"], *by_role["scene"]):
        if message.index > first:
            raise BadInput(f"message {message.index} has the role {message.role}; put it before those of user and assistant")
    texts = {role: "\n\n".join(message.text.text.strip() for message in group) for role, group in by_role.items()}
    if not by_role["scene"]:
        return texts["system"] if by_role["system"] else None
    return f"{texts['system'] or INSTRUCTION}\n\n{SCENE}\n{texts['scene']}\n{SCENE_END}"


def _check_order(turns: Sequence[_ChatMessage]) -> None:
    for message, role in zip(turns, ("user", "assistant") * len(turns), strict=False):
        if message.role != role:
            raise BadInput(f"message {message.index} is from the {message.role}; user and assistant must alternate, the user first")
    if not turns or turns[-1].role != "assistant":
        raise BadInput("there is no answer to learn; the last message must be the assistant's")


def _split_references(user: _ChatMessage) -> tuple[list[Turn], MarkedText]:
    """Split a user message into reference recordings, each after its transcript, and the request that follows them."""
    recordings: list[Turn] = []
    texts: list[MarkedText] = []
    for part in user.parts:
        if isinstance(part, MarkedText):
            texts.append(part)
            continue
        transcript = _joined(texts)
        if not transcript.text.strip():
            raise BadInput(f"message {user.index} has no transcript of {part.name!r}; put it before the recording")
        recordings.append(Turn(transcript, part))
        texts = []
    return recordings, _joined(texts)


def _turn(request: MarkedText, assistant: _ChatMessage) -> Turn:
    clips = [part for part in assistant.parts if isinstance(part, Path)]
    if len(clips) > 1:
        raise BadInput(f"message {assistant.index} answers with {len(clips)} recordings; give one")
    answer = assistant.text.text.strip()
    if not clips and not answer:
        raise BadInput(f"message {assistant.index} is empty; give the recording or the text that answers")
    return Turn(request, clips[0] if clips else None, answer)


def _without_lead_in(turn: Turn, answer: MarkedText, recordings: Sequence[Turn]) -> Turn:
    """Return a request for speech without a lead-in such as "Please say this:", if the answer has a transcript to compare with.

    The local backend sends the text to speak and nothing else, so training uses the same prompt.
    """
    transcript = answer.text.split()
    if turn.clip is None or not transcript:
        return turn
    words = list(_WORD.finditer(turn.text.text))
    if not words:
        if recordings and recordings[-1].text.text.split() == transcript:
            raise BadInput("the user's last message has the text to speak, but no transcript of its recording; put that first")
        return replace(turn, text=answer)
    if [word[0] for word in words[-len(transcript) :]] != transcript:
        return turn
    text = turn.text.slice(words[-len(transcript)].start(), len(turn.text.text), with_end=True)
    return replace(turn, text=text if text.marks else answer)


def _speaker(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadInput(f"the speaker is {_shortened(value)}; give a name")
    return str(value)


def _start_index(value: Any, last: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
        raise BadInput(f"start_index is {_shortened(value)}; give the index of a message to learn, 0 to {last}, or leave it out")
    return value


def _joined(texts: Sequence[MarkedText]) -> MarkedText:
    """Return texts joined by a space."""
    return concatenate([part for text in texts for part in (plain(" "), text)][1:])


def _shortened(value: Any) -> str:
    """Return a value's repr, at most 60 characters long, for messages."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
