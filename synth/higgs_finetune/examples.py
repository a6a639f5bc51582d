"""Rows as what the model reads and what it is to say, and batches of them.

Labels stand where their token or frame stands: ``text_labels[t]`` is ``input_ids[t]`` or -100, ``audio_labels[f]`` is
``audio_ids[f]`` or -100, a codebook at a time. Nothing is shifted here. The one shift, by a position of the tokens, is made where a
loss is computed: in `synth.higgs_finetune.loss`, or in the native model's own ``forward``, which takes a batch as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText
from synth.base import SpeechRequest
from synth.higgs_finetune.batch_sampler import LengthGroups
from synth.higgs_finetune.chatml import scene_in
from synth.higgs_finetune.manifest import Row, Turn
from synth.higgs_local.backend import lower
from synth.higgs_local.prompt import Context, PromptWriter, Written, delayed
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    import torch

__all__ = ["IGNORED", "Codes", "Example", "ExampleWriter", "LengthGroups", "collate", "example"]

IGNORED = -100
"""A label that is none."""

Codes = Callable[[Path], "torch.Tensor"]
"""Gives the codes of a recording, int64 [frames, codebooks], undelayed: `CodeStore.codes`."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One row as the model reads it: T tokens, and the F frames of all audio in it, each for one placeholder among them.

    Attributes:
        input_ids: int64 [T].
        audio_ids: int64 [F, codebooks], in the delay pattern, recordings of the voice included.
        text_labels: int64 [T]; of the last answer alone, and of no placeholder.
        audio_labels: int64 [F, codebooks]; the codes of the last answer, and the first EOS of each codebook after them.
    """

    input_ids: "torch.Tensor"
    audio_ids: "torch.Tensor"
    text_labels: "torch.Tensor"
    audio_labels: "torch.Tensor"

    def __len__(self) -> int:
        return len(self.input_ids)


def example(row: Row, codes: Codes, tokenizer: Any, config: Any, mark_ids: Mapping[str, int]) -> Example:
    """One row alone; see `ExampleWriter`, and make one of those for many rows."""
    return ExampleWriter(tokenizer, config, mark_ids).write(row, codes)


class ExampleWriter:
    """Makes examples for one model, with the prompt that the local backend would give it.

    So a recording is asked for by the text alone, white space evened out, and answered without words. Marks that are trained become
    their tokens, whatever length a pause has; the others are left out, and a pause among them becomes a comma. A scene in the
    system message, between Higgs's own tokens, takes the place of ``scene`` and ``speakers``; any other instruction in it is left
    out, since the backend never sends one. Where a text is the answer, the system message is kept as it is.

    Args:
        tokenizer: the model's.
        config: the model's.
        mark_ids: the token of each kind of mark that is trained.
        scene: as in `HiggsLocalSettings`; None is its default.
        speakers: likewise.

    Raises:
        BackendUnavailable: the tokenizer is not Higgs's.
    """

    def __init__(
        self,
        tokenizer: Any,
        config: Any,
        mark_ids: Mapping[str, int],
        *,
        scene: str | None = None,
        speakers: Sequence[str] | None = None,
    ) -> None:
        defaults = HiggsLocalSettings.model_fields
        self._scene: str = defaults["scene"].default if scene is None else scene
        self._speakers: Sequence[str] = defaults["speakers"].default if speakers is None else speakers
        self._writer = PromptWriter(tokenizer, config)
        self._config, self._mark_ids = config, dict(mark_ids)

    def write(self, row: Row, codes: Codes) -> Example:
        """
        Raises:
            BadInput: it is longer than the model can take, or a recording's codes are none of this model's.
        """
        import torch

        asked = self._prompt(row, codes)
        if row.clip is None:
            ids, answer = asked.ids[:-1], self._writer.written(row.answer)
            learnt = answer
            frames = asked.audio[:0]
        else:
            frames = delayed(self._checked(codes(row.clip), row.clip), self._config)
            ids, answer = asked.ids, self._writer.spoken(len(frames))
            learnt = [IGNORED] * len(frames) + answer[len(frames) :]
        labels = torch.full((len(ids) + len(answer),), IGNORED)
        labels[len(ids) :] = torch.tensor(learnt)
        if row.clip is not None:
            labels[len(ids) - 1] = ids[-1]  # what begins audio: the answer's too, though the prompt gives it
        if len(labels) > self._config.max_position_embeddings:
            raise BadInput(
                f"{row.source} takes {len(labels)} positions and the model has {self._config.max_position_embeddings}; "
                "cut its text or its recordings"
            )
        return Example(
            torch.cat([ids, torch.tensor(answer)]),
            torch.cat([asked.audio, frames]),
            labels,
            torch.cat([torch.full_like(asked.audio, IGNORED), self._frame_labels(frames)]),
        )

    def _prompt(self, row: Row, codes: Codes) -> Any:
        scene, system = self._scene, None
        speakers = self._speakers
        if row.clip is None:
            system = row.system or ""
        elif (described := scene_in(row.system)) is not None:
            scene, speakers = described, ()
        return self._writer.write(
            self._lowered(row.text),
            scene=scene,
            speakers=speakers,
            turns=[self._turn(turn, codes) for turn in row.references],
            mark_ids=self._mark_ids,
            system=system,
        )

    def _turn(self, turn: Turn, codes: Codes) -> Context | Written:
        text = self._lowered(turn.text)
        if turn.clip is None:
            return Written(text, turn.answer)
        return Context(text, self._checked(codes(turn.clip), turn.clip))

    def _lowered(self, marked: MarkedText) -> MarkedText:
        """As the backend has it lowered. A pause of a given length is, to who learns, one of its kind."""
        marks = tuple(replace(mark, ms=None) if mark.kind in self._mark_ids else mark for mark in marked.marks)
        return lower(SpeechRequest(replace(marked, marks=marks)), self._mark_ids)[0]

    def _checked(self, codes: "torch.Tensor", clip: Path) -> "torch.Tensor":
        config = self._config
        first_control = min(config.audio_stream_bos_id, config.audio_stream_eos_id)
        if codes.ndim != 2 or codes.shape[1] != config.num_codebooks or not len(codes) or int(codes.max()) >= first_control:
            raise BadInput(
                f"the codes of {str(clip)!r}, of shape {list(codes.shape)}, do not fit the model, which has "
                f"{config.num_codebooks} codebooks of {first_control} codes; encode it with the model's own codec"
            )
        return codes

    def _frame_labels(self, frames: "torch.Tensor") -> "torch.Tensor":
        """Codes and each codebook's first EOS. With no EOS to learn, a model never ends; with those that only fill the frames,
        its later codebooks learn to say it early."""
        config = self._config
        ends = frames == config.audio_stream_eos_id
        is_filler = (frames == config.audio_stream_bos_id) | (ends & (ends.cumsum(0) > 1))
        return frames.masked_fill(is_filler, IGNORED)


def collate(examples: Sequence[Example], config: Any, pad: Literal["left", "right"] = "right") -> dict[str, "torch.Tensor"]:
    """B examples as a batch, padded to the longest: what the native model's ``forward`` takes, by its names.

    The examples stay as they are. With labels in the batch, the native loss is the sum of the codebooks' cross-entropies, and the
    text's on top if the model has a text head.

    Returns:
        input_ids int64 [B, T], attention_mask bool [B, T], audio_input_ids int64 [B, F, codebooks], audio_input_ids_mask bool
        [B, F], labels int64 [B, T], audio_labels int64 [B, F, codebooks]. F is 0 where no example has audio.
    """
    import torch

    def stacked(parts: Sequence[torch.Tensor], filler: int | bool) -> torch.Tensor:
        longest = max(map(len, parts))
        whole = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), filler)
        for row, part in zip(whole, parts, strict=True):
            first = longest - len(part) if pad == "left" else 0
            row[first : first + len(part)] = part
        return whole

    ids = [item.input_ids for item in examples]
    frames = [item.audio_ids for item in examples]
    return {
        "input_ids": stacked(ids, config.pad_token_id),
        "attention_mask": stacked([torch.ones(len(part), dtype=torch.bool) for part in ids], False),
        "audio_input_ids": stacked(frames, config.audio_stream_eos_id),
        "audio_input_ids_mask": stacked([torch.ones(len(part), dtype=torch.bool) for part in frames], False),
        "labels": stacked([item.text_labels for item in examples], IGNORED),
        "audio_labels": stacked([item.audio_labels for item in examples], IGNORED),
    }
