"""Prompts: a ChatML dialogue of text and audio, as token ids.

    system  the instruction, the scene, the speakers
    user    transcript of the reference recording      assistant  its codes
    user    the sentence before                        assistant  its codes
    user    the text                                   assistant  (the model continues here)

Ids are assembled here and not by a chat template, so that control tokens come from this file only, whatever a text contains.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prosody_tagger.markup import MarkedText, plain
from synth.errors import BackendUnavailable

if TYPE_CHECKING:
    import torch

INSTRUCTION = "Generate audio following instruction."

_BEGIN, _END = "<|begin_of_text|>", "<|eot_id|>"
_ROLE, _ROLE_END = "<|start_header_id|>", "<|end_header_id|>"
SCENE, SCENE_END = "<|scene_desc_start|>", "<|scene_desc_end|>"
_AUDIO_END = "<|audio_eos|>"
_CONTROL = (_BEGIN, _END, _ROLE, _ROLE_END, SCENE, SCENE_END, _AUDIO_END)
_LIKE_CONTROL = r"<\|[^<>|]{0,64}\|>"


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A spoken turn.

    Attributes:
        text: the text, with the marks that the model received.
        codes: its audio, int64 [frames, codebooks], without delay.
    """

    text: MarkedText | str
    codes: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class TextTurn:
    """A turn that was answered in text: the user's text, and the answer."""

    text: MarkedText | str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt for the model.

    Attributes:
        ids: token ids, int64 [tokens], with one placeholder for each frame of audio.
        audio: the delayed frames of all audio in order, int64 [frames, codebooks].
    """

    ids: "torch.Tensor"
    audio: "torch.Tensor"

    def __len__(self) -> int:
        return len(self.ids)


class PromptWriter:
    """Builds prompts for one model.

    Args:
        tokenizer: the model's fast tokenizer.
        config: the model's configuration.

    Raises:
        BackendUnavailable: the tokenizer lacks a control token of Higgs Audio.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self._tokenizer, self._config = tokenizer, config
        known = tokenizer.get_added_vocab()
        missing = [token for token in _CONTROL if token not in known]
        if missing:
            raise BackendUnavailable(
                f"the tokenizer of {tokenizer.name_or_path!r} has no {', '.join(missing)}; it is not that of Higgs Audio v2: "
                "download the checkpoint again"
            )
        self._ids = {token: known[token] for token in _CONTROL}
        self._added = frozenset(known.values())
        others = sorted((token for token in known if not re.fullmatch(_LIKE_CONTROL, token)), key=len, reverse=True)
        self._control = re.compile(f" ?(?:{'|'.join([_LIKE_CONTROL, *map(re.escape, others)])})+ ?")

    def write(
        self,
        text: MarkedText | str,
        *,
        scene: str,
        speakers: Sequence[str],
        turns: Iterable[Context | TextTurn],
        mark_ids: Mapping[str, int],
        system: str | None = None,
    ) -> Prompt:
        """Return the prompt that makes the model speak ``text``.

        Args:
            text: the text to speak, with marks of kinds in ``mark_ids``.
            scene: description of the acoustic scene; empty for none.
            speakers: descriptions of [SPEAKER0], [SPEAKER1] ...
            turns: earlier turns, the oldest first.
            mark_ids: token id of each kind of mark.
            system: system message that replaces instruction, scene and speakers; empty for none.

        Raises:
            ValueError: a mark of a kind that is not in ``mark_ids``.
        """
        import torch

        ids = [self._ids[_BEGIN], *(self._system(scene, speakers) if system is None else self._message(system))]
        audio = [torch.zeros(0, self._config.num_codebooks, dtype=torch.int64)]
        for turn in turns:
            ids += self._user(turn.text, mark_ids)
            if isinstance(turn, TextTurn):
                ids += [*self._header("assistant"), *self.written(turn.answer)]
            else:
                frames = delayed(turn.codes, self._config)
                audio.append(frames)
                ids += [*self._header("assistant"), self._config.audio_bos_token_id, *self.spoken(len(frames))]
        ids += [*self._user(text, mark_ids), *self._header("assistant"), self._config.audio_bos_token_id]
        return Prompt(torch.tensor(ids, dtype=torch.int64), torch.cat(audio))

    def spoken(self, frames: int) -> list[int]:
        """Return the tokens that complete a spoken answer of ``frames`` delayed frames after a prompt of `write`."""
        config = self._config
        held = config.num_codebooks - 1
        placeholders = [config.audio_token_id] * (frames - held) + [config.audio_delay_token_id] * held
        return [*placeholders, self._ids[_AUDIO_END], self._ids[_END]]

    def written(self, answer: str) -> list[int]:
        """Return the tokens of an answer in text; they replace the last token of `write`, which begins audio."""
        return [*self._encode(self.words(answer)), self._ids[_END]]

    def words(self, text: str) -> str:
        """Return ``text`` with each control token, or text that looks like one, replaced by a space, stripped."""
        return self._control.sub(" ", text).strip()

    def _system(self, scene: str, speakers: Sequence[str]) -> list[int]:
        described = [scene, "\n".join(f"SPEAKER{number}: {speaker}" for number, speaker in enumerate(speakers))]
        scenery = "\n\n".join(part for part in map(self.words, described) if part)
        if not scenery:
            return [*self._header("system", INSTRUCTION), self._ids[_END]]
        head = self._header("system", f"{INSTRUCTION}\n\n")
        return [*head, self._ids[SCENE], *self._encode(f"\n{scenery}\n"), self._ids[SCENE_END], self._ids[_END]]

    def _message(self, system: str) -> list[int]:
        words = self.words(system)
        return [*self._header("system", words), self._ids[_END]] if words else []

    def _user(self, text: MarkedText | str, mark_ids: Mapping[str, int]) -> list[int]:
        parts = self._split_at_marks(plain(text) if isinstance(text, str) else text, mark_ids)
        ids = self._header("user", parts[0] if isinstance(parts[0], str) else "")
        for part in parts[1:]:
            ids += self._encode(part) if isinstance(part, str) else [part]
        return [*ids, self._ids[_END]]

    def _header(self, role: str, text: str = "") -> list[int]:
        """Return the header of a turn. ``text`` is encoded together with the line breaks before it, as one string."""
        return [self._ids[_ROLE], *self._encode(role), self._ids[_ROLE_END], *self._encode(f"\n\n{text}")]

    def _split_at_marks(self, marked: MarkedText, mark_ids: Mapping[str, int]) -> list[str | int]:
        """Return text and tokens of marks alternately, text first.

        A mark is placed before the space that precedes its word, so that words have the same tokens as without marks.
        """
        parts: list[str | int] = []
        position = 0
        for mark in marked.marks:
            if mark.kind not in mark_ids:
                raise ValueError(f"the model has no token for <{mark.kind}>; remove such marks first")
            at = max(position, mark.offset - marked.text.startswith(" ", mark.offset - 1))
            parts += [self._control.sub(" ", marked.text[position:at]), mark_ids[mark.kind]]
            position = at
        parts.append(self._control.sub(" ", marked.text[position:]))
        parts[0] = str(parts[0]).lstrip()
        parts[-1] = str(parts[-1]).rstrip()
        return parts

    def _encode(self, text: str) -> list[int]:
        """Return the token ids of text, without tokens that were added to the tokenizer's vocabulary."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return [number for number in ids if number not in self._added]


def delayed(codes: "torch.Tensor", config: Any) -> "torch.Tensor":
    """Return codes in the delay pattern (MusicGen, arXiv:2306.05284): codebook k starts k frames late, between BOS and EOS.

    Args:
        codes: int64 [n, codebooks].
        config: the model's configuration.

    Returns:
        int64 [n + codebooks + 1, codebooks].
    """
    import torch

    books = config.num_codebooks
    frames = torch.full((len(codes) + 1 + books, books), config.audio_stream_eos_id, dtype=torch.int64)
    for book in range(books):
        frames[: book + 1, book] = config.audio_stream_bos_id
        frames[book + 1 : book + 1 + len(codes), book] = codes[:, book]
    return frames


def undelayed(frames: "torch.Tensor", start: int, end: int) -> "torch.Tensor":
    """Return frames ``start`` to ``end`` without the delay: int64 [end - start, codebooks].

    ``frames`` is in the delay pattern, int64 [m, codebooks], and starts with the stream's BOS.
    """
    import torch

    return torch.stack([frames[1 + book + start : 1 + book + end, book] for book in range(frames.shape[1])], dim=1)
