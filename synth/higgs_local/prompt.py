"""What the model is asked: a ChatML dialogue of text and audio, as token ids.

    system  what to do, where it is heard, what the speakers sound like
    user    what is said in the recording of the voice        assistant  its codes
    user    the sentence before                               assistant  its codes
    user    the text                                          assistant  (the model goes on here)

Ids are put together here and not by a chat template: control tokens come from this file alone, whatever a text holds.
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
    """Something said before: the text, with the marks that the model was given, and its codes [n, codebooks], undelayed."""

    text: MarkedText | str
    codes: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class TextTurn:
    """Something said before that was answered in writing."""

    text: MarkedText | str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One request as the model reads it.

    Attributes:
        ids: tokens, int64 of shape [tokens]; where audio stands, its placeholders, as many as it has frames.
        audio: the delayed frames of all audio in it, int64 of shape [frames, codebooks], in order.
    """

    ids: "torch.Tensor"
    audio: "torch.Tensor"

    def __len__(self) -> int:
        return len(self.ids)


class PromptWriter:
    """Writes prompts for one model.

    Args:
        tokenizer: the model's, a fast one.
        config: the model's.

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
        """The prompt that has ``text`` spoken.

        Args:
            scene: where it is heard; empty leaves it out.
            speakers: what [SPEAKER0], [SPEAKER1] ... sound like.
            turns: what was said before, the oldest first.
            mark_ids: the token of each kind of mark.
            system: another system message, in place of instruction, scene and speakers; an empty one is left out.

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
        """The rest of an answer that `write` left open, in so many delayed frames."""
        config = self._config
        held = config.num_codebooks - 1
        placeholders = [config.audio_token_id] * (frames - held) + [config.audio_delay_token_id] * held
        return [*placeholders, self._ids[_AUDIO_END], self._ids[_END]]

    def written(self, answer: str) -> list[int]:
        """An answer in writing: what stands in place of the last token of `write`, which begins audio."""
        return [*self._encode(self.words(answer)), self._ids[_END]]

    def words(self, text: str) -> str:
        """``text`` with a space for everything that is, or looks like, a control token, and without outer white space."""
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
        pieces = self._pieces(plain(text) if isinstance(text, str) else text, mark_ids)
        ids = self._header("user", pieces[0] if isinstance(pieces[0], str) else "")
        for piece in pieces[1:]:
            ids += self._encode(piece) if isinstance(piece, str) else [piece]
        return [*ids, self._ids[_END]]

    def _header(self, role: str, text: str = "") -> list[int]:
        """A turn's beginning; ``text`` is encoded together with the line ends before it, as one run."""
        return [self._ids[_ROLE], *self._encode(role), self._ids[_ROLE_END], *self._encode(f"\n\n{text}")]

    def _pieces(self, marked: MarkedText, mark_ids: Mapping[str, int]) -> list[str | int]:
        """Text and marks' tokens in turn, text first. A mark goes before the space before its word, so that words keep the tokens
        that they have without marks."""
        pieces: list[str | int] = []
        position = 0
        for mark in marked.marks:
            if mark.kind not in mark_ids:
                raise ValueError(f"the model has no token for <{mark.kind}>; lower it before")
            at = max(position, mark.offset - marked.text.startswith(" ", mark.offset - 1))
            pieces += [self._control.sub(" ", marked.text[position:at]), mark_ids[mark.kind]]
            position = at
        pieces.append(self._control.sub(" ", marked.text[position:]))
        pieces[0] = str(pieces[0]).lstrip()
        pieces[-1] = str(pieces[-1]).rstrip()
        return pieces

    def _encode(self, text: str) -> list[int]:
        """Tokens of plain text; never one that the tokenizer was given as a whole."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return [number for number in ids if number not in self._added]


def delayed(codes: "torch.Tensor", config: Any) -> "torch.Tensor":
    """Codes [n, codebooks] between BOS and EOS, codebook k later by k frames: the delay pattern, [n + codebooks + 1, codebooks]."""
    import torch

    books = config.num_codebooks
    frames = torch.full((len(codes) + 1 + books, books), config.audio_stream_eos_id, dtype=torch.int64)
    for book in range(books):
        frames[: book + 1, book] = config.audio_stream_bos_id
        frames[book + 1 : book + 1 + len(codes), book] = codes[:, book]
    return frames


def undelayed(frames: "torch.Tensor", start: int, end: int) -> "torch.Tensor":
    """Codes ``start`` to ``end`` of delayed ``frames`` [m, codebooks] whose first is the stream's BOS."""
    import torch

    return torch.stack([frames[1 + book + start : 1 + book + end, book] for book in range(frames.shape[1])], dim=1)
