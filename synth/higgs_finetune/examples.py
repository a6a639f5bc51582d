"""Manifest rows as tokens, audio frames and labels, and their collation into batches.

A label has the position of its own token or frame: ``text_labels[t]`` is ``input_ids[t]`` or -100, ``audio_labels[f]`` is
``audio_ids[f]`` or -100 in each codebook. Nothing is shifted here. The loss makes the one shift by a token:
`synth.higgs_finetune.loss`, or the native model's own ``forward``, which takes a batch as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText
from synth.base import SpeechRequest
from synth.higgs_finetune.chatml import ManifestRow, Turn, scene_in
from synth.higgs_local.model_text import to_model_text
from synth.higgs_local.prompt import Context, PromptWriter, TextTurn, delayed
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of a position that is not learnt."""

CodesOf = Callable[[Path], "torch.Tensor"]
"""Returns the codes of a recording, int64 [frames, codebooks], without the delay pattern, as `CodecCache.codes` does."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingExample:
    """One row as the model reads it: T tokens, and the F frames of all its audio, each for one placeholder token.

    Attributes:
        input_ids: int64 [T].
        audio_ids: int64 [F, codebooks], in the delay pattern, reference recordings included.
        text_labels: int64 [T]; set for the text and control tokens of the last answer, not for audio placeholders.
        audio_labels: int64 [F, codebooks]; set for the codes of the last answer and the first EOS of each codebook after them.
    """

    input_ids: "torch.Tensor"
    audio_ids: "torch.Tensor"
    text_labels: "torch.Tensor"
    audio_labels: "torch.Tensor"

    def __len__(self) -> int:
        return len(self.input_ids)


def build_example(row: ManifestRow, codes: CodesOf, tokenizer: Any, config: Any, mark_ids: Mapping[str, int]) -> TrainingExample:
    """Return the example of a single row. For many rows, use one `ExampleBuilder`."""
    return ExampleBuilder(tokenizer, config, mark_ids).build(row, codes)


class ExampleBuilder:
    """Builds examples for one model, with the prompts that the local backend gives to it.

    As in the local backend, the request is the text alone, with white space normalised, and the answer is audio without text. Marks
    that are trained become their tokens, for a pause regardless of its length. Other marks are dropped, and a pause among them
    becomes a comma. A scene in the system message (between Higgs's own tokens) replaces ``scene`` and ``speakers``. Any other
    system message is dropped before speech, since the backend never sends one, and kept before an answer in text.

    Args:
        tokenizer: tokenizer of the model.
        config: configuration of the model.
        mark_ids: token id of each kind of mark that is trained.
        scene: as in `HiggsLocalSettings`; None is its default.
        speakers: likewise.

    Raises:
        BackendUnavailable: the tokenizer is not that of Higgs.
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

    def build(self, row: ManifestRow, codes: CodesOf) -> TrainingExample:
        """Return the example of a row.

        Raises:
            BadInput: the row is longer than the model's context, or the codes of a recording do not fit the model.
        """
        import torch

        prompt = self._prompt(row, codes)
        if row.clip is None:
            ids, answer = prompt.ids[:-1], self._writer.written(row.answer)
            learnt = answer
            frames = prompt.audio[:0]
        else:
            frames = delayed(self._checked(codes(row.clip), row.clip), self._config)
            ids, answer = prompt.ids, self._writer.spoken(len(frames))
            learnt = [IGNORED] * len(frames) + answer[len(frames) :]
        labels = torch.full((len(ids) + len(answer),), IGNORED)
        labels[len(ids) :] = torch.tensor(learnt)
        if row.clip is not None:
            labels[len(ids) - 1] = ids[-1]  # the token that begins audio is learnt, although the prompt ends with it
        if len(labels) > self._config.max_position_embeddings:
            raise BadInput(
                f"{row.source} takes {len(labels)} positions and the model has {self._config.max_position_embeddings}; "
                "shorten its text or its recordings"
            )
        return TrainingExample(
            torch.cat([ids, torch.tensor(answer)]),
            torch.cat([prompt.audio, frames]),
            labels,
            torch.cat([torch.full_like(prompt.audio, IGNORED), self._frame_labels(frames)]),
        )

    def _prompt(self, row: ManifestRow, codes: CodesOf) -> Any:
        scene, system = self._scene, None
        speakers = self._speakers
        if row.clip is None:
            system = row.system or ""
        elif (own_scene := scene_in(row.system)) is not None:
            scene, speakers = own_scene, ()
        return self._writer.write(
            self._partitioned(row.text),
            scene=scene,
            speakers=speakers,
            turns=[self._context(turn, codes) for turn in row.references],
            mark_ids=self._mark_ids,
            system=system,
        )

    def _context(self, turn: Turn, codes: CodesOf) -> Context | TextTurn:
        text = self._partitioned(turn.text)
        if turn.clip is None:
            return TextTurn(text, turn.answer)
        return Context(text, self._checked(codes(turn.clip), turn.clip))

    def _partitioned(self, marked: MarkedText) -> MarkedText:
        """Return the text as the local backend prepares it. The token of a pause does not depend on the pause's length."""
        marks = tuple(replace(mark, ms=None) if mark.kind in self._mark_ids else mark for mark in marked.marks)
        return to_model_text(SpeechRequest(replace(marked, marks=marks)), self._mark_ids)[0]

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
        """Return labels for the codes and for the first EOS of each codebook.

        Without a learnt EOS the model never stops. If the EOS that fill up the delay pattern were learnt too, the later codebooks
        would learn to emit it too early.
        """
        config = self._config
        ends = frames == config.audio_stream_eos_id
        is_filler = (frames == config.audio_stream_bos_id) | (ends & (ends.cumsum(0) > 1))
        return frames.masked_fill(is_filler, IGNORED)


def collate(examples: Sequence[TrainingExample], config: Any, pad: Literal["left", "right"] = "right") -> dict[str, "torch.Tensor"]:
    """Return B examples as a batch, padded to the longest: the keyword arguments of the native model's ``forward``.

    The examples are not changed. With these labels the native loss is the sum over the codebooks of their cross-entropies, plus
    that of text if the model has a text head.

    Args:
        examples: at least one.
        config: configuration of the model.
        pad: the side to pad on.

    Returns:
        input_ids int64 [B, T], attention_mask bool [B, T], audio_input_ids int64 [B, F, codebooks], audio_input_ids_mask bool
        [B, F], labels int64 [B, T], audio_labels int64 [B, F, codebooks]. F is 0 if no example has audio.
    """
    import torch

    def stack(parts: Sequence[torch.Tensor], filler: int | bool) -> torch.Tensor:
        longest = max(map(len, parts))
        stacked = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), filler)
        for row, part in zip(stacked, parts, strict=True):
            first = longest - len(part) if pad == "left" else 0
            row[first : first + len(part)] = part
        return stacked

    ids = [example.input_ids for example in examples]
    frames = [example.audio_ids for example in examples]
    return {
        "input_ids": stack(ids, config.pad_token_id),
        "attention_mask": stack([torch.ones(len(part), dtype=torch.bool) for part in ids], False),
        "audio_input_ids": stack(frames, config.audio_stream_eos_id),
        "audio_input_ids_mask": stack([torch.ones(len(part), dtype=torch.bool) for part in frames], False),
        "labels": stack([example.text_labels for example in examples], IGNORED),
        "audio_labels": stack([example.audio_labels for example in examples], IGNORED),
    }
