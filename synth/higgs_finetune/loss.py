"""The loss that Higgs is trained on: of text, and the mean over its codebooks of that of audio.

    L = text_weight * CE(text) + audio_weight * mean over codebooks k of CE(audio, k)

Each cross-entropy is a sum over labels divided by how many there are in the whole step: over all parts that gradients are added up
from, and all processes. So the update is that of one large batch, however it is cut up, also where a part has no audio at all.

A label is what stands at its own place; the shift, by which a place is scored on what comes next, is made here and nowhere else.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from prosody_tagger.errors import BadInput
from synth.higgs_finetune.forward import embedded, places_of, through

if TYPE_CHECKING:
    Batch = Mapping[str, torch.Tensor]

NOT_SCORED = -100
LOGITS_AT_ONCE = 1 << 24
"""In float32 64 MB. More labels are scored in parts, whose logits are made again for the gradient."""


class Losses(NamedTuple):
    """What one batch gave.

    Attributes:
        loss: a scalar, with its gradient.
        sums: of the cross-entropies in nats, float32 [1 + codebooks]: text, then each codebook. Without gradient.
        counts: of the labels, float32 of the same shape.
    """

    loss: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor


class HiggsLoss(nn.Module):
    """A Higgs model with its loss: the module that is trained, and that a data-parallel wrapper wraps and calls.

    The heads are applied only where there is a label. Attention needs no mask: rows are padded at their end, where no place that
    counts looks.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``, or a ``PeftModel`` of one.
        text_weight, audio_weight: of the two losses. With a text weight of 0 the text head is not needed.
        half: compute in bfloat16 where that is precise enough, as `torch.autocast` has it; the losses themselves are float32.

        checkpointing: in training, forget what is inside a layer and compute it again for the gradient.

    Raises:
        BadInput: a text weight over 0, and a model that was loaded without its text head; or weights that cannot be.
    """

    def __init__(
        self, model: Any, *, text_weight: float = 0.1, audio_weight: float = 1.0, half: bool = False, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.model, self._in_half, self._checkpointing = model, half, checkpointing
        self.text_weight, self.audio_weight = text_weight, audio_weight
        if not (0 <= text_weight < float("inf") and 0 <= audio_weight < float("inf") and text_weight + audio_weight > 0):
            raise BadInput(
                f"the text loss cannot have the weight {text_weight} and the audio loss {audio_weight}; "
                "give 0 or more, and not 0 to both"
            )
        if self.native.config._attn_implementation == "eager":
            self.native.set_attn_implementation("sdpa")  # that one is causal without a mask
        if text_weight and self.native.text_lm_head is None:
            raise BadInput(
                "the model has no text head, so there is no text loss; give --text-loss-weight 0, or a checkpoint with text_lm_head"
            )

    @property
    def native(self) -> Any:
        """The model itself, without PEFT's shell around it; its layers hold the adapter."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, batch: "Batch", totals: torch.Tensor | None = None) -> Losses:
        """Score a batch.

        Args:
            batch: ``input_ids`` [rows, tokens], padded at the end; ``labels`` of the same shape; and, if any row has audio,
                ``audio_input_ids`` and ``audio_labels`` [rows, frames, codebooks] with ``audio_input_ids_mask`` [rows, frames], the
                delayed frames of each row in order, as many as it has placeholders. `NOT_SCORED` is no label.
            totals: labels of the whole step, as `Losses.counts` and `label_counts` count them; by default those of this batch.
        """
        with self.autocast():
            hidden = self.hidden(batch)
            text = self._text(hidden, batch["labels"])
            audio = self._audio(hidden, batch)
        sums = torch.cat([text[0], audio[0]])
        counts = torch.cat([text[1], audio[1]])
        means = sums / (counts if totals is None else totals.to(sums)).clamp(min=1)
        loss = self.text_weight * means[0] + self.audio_weight * means[1:].mean()
        return Losses(loss, sums.detach(), counts)

    def autocast(self) -> torch.autocast:
        """What everything is computed under."""
        return torch.autocast(self.native.device.type, torch.bfloat16, enabled=self._in_half)

    def hidden(self, batch: "Batch") -> torch.Tensor:
        """What the heads are applied to: [rows, tokens, width]."""
        model, ids = self.native.model, batch["input_ids"]
        places = places_of(ids, self.native.config)
        frames = batch["audio_input_ids"][batch["audio_input_ids_mask"].bool()] if "audio_input_ids" in batch else None
        hidden = embedded(model, ids, frames, places)
        return through(model, hidden, places, checkpointing=self._checkpointing and self.training)

    def _text(self, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.text_weight:
            none = hidden.new_zeros(1, dtype=torch.float32)
            return none, none
        return _scored(self.native.text_lm_head, hidden, labels[..., None])

    def _audio(self, hidden: torch.Tensor, batch: "Batch") -> tuple[torch.Tensor, torch.Tensor]:
        config, ids = self.native.config, batch["input_ids"]
        labels = ids.new_full((*ids.shape, config.num_codebooks), NOT_SCORED)
        if "audio_labels" in batch:
            placeholders = (ids == config.audio_token_id) | (ids == config.audio_delay_token_id)
            labels[placeholders] = batch["audio_labels"][batch["audio_input_ids_mask"].bool()]
        return _scored(self.native.audio_lm_head, hidden, labels)


def label_counts(batch: "Batch", codebooks: int, *, text: bool = True) -> torch.Tensor:
    """How many labels a batch has that are scored: float32 [1 + codebooks], text first; ``text`` is whether text is scored at all.

    A row's first place is predicted from nowhere, and so is not counted; audio never stands there.
    """
    counts = torch.zeros(1 + codebooks)
    if text:
        counts[0] = (batch["labels"][:, 1:] != NOT_SCORED).sum()
    if "audio_labels" in batch:
        scored = (batch["audio_labels"] != NOT_SCORED) & batch["audio_input_ids_mask"].bool()[..., None]
        counts[1:] = scored.sum((0, 1))
    return counts


def _scored(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropies of what comes after each place, and how many there are: float32 [books] both.

    Args:
        hidden: [rows, tokens, width].
        labels: [rows, tokens, books], each at its own place.
    """
    following = labels[:, 1:]
    places = (following != NOT_SCORED).any(-1)
    states, targets = hidden[:, :-1][places], following[places]
    size = max(1, LOGITS_AT_ONCE // head.out_features)
    parts = [(states[start : start + size], targets[start : start + size]) for start in range(0, max(1, len(states)), size)]
    if len(parts) == 1 or not torch.is_grad_enabled():
        sums = [_summed(head, *part) for part in parts]
    else:
        sums = [checkpoint(_summed, head, *part, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum(0), (targets != NOT_SCORED).sum(0).float()


def _summed(head: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(states).float().view(targets.numel(), head.out_features // targets.shape[1])
    each = functional.cross_entropy(logits, targets.flatten(), ignore_index=NOT_SCORED, reduction="none")
    return each.view(targets.shape).sum(0)
