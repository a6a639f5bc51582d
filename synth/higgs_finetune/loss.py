"""Training loss of Higgs: cross-entropy of text, and the mean over the codebooks of that of audio.

    L = text_weight * CE(text) + audio_weight * mean over codebooks k of CE(audio, k)

Each cross-entropy is the sum over all labels of an optimizer step divided by their number: over all micro-batches and all
processes. So the update equals that of one large batch, however it is divided, even where a micro-batch has no audio.

A label has the position of its own token. The shift, by which the model's output at a position is scored on the next token, is made
in this module and nowhere else.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from prosody_tagger.errors import BadInput
from synth.higgs_finetune.forward import embed_inputs, index_modalities, run_layers

if TYPE_CHECKING:
    TensorBatch = Mapping[str, torch.Tensor]

NOT_SCORED = -100
"""The label of a position that is not scored: the default ``ignore_index`` of torch's cross-entropy."""

MAX_LOGITS = 1 << 24
"""Logits that are computed at once, 64 MB in float32. Larger batches are scored in chunks, recomputed in the backward pass."""


class BatchLoss(NamedTuple):
    """Loss of one batch.

    Attributes:
        loss: scalar with its gradient.
        sums: summed cross-entropies in nats, float32 [1 + codebooks]: text, then each codebook. No gradient.
        counts: number of labels, float32 of the same shape.
    """

    loss: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor


class HiggsLoss(nn.Module):
    """A Higgs model with its loss: the module that a data-parallel wrapper wraps and the training loop calls.

    The heads are applied only to positions with a label. Attention needs no mask: rows are padded at their end, and causal
    attention keeps the padding out of all scored positions.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``, or a ``PeftModel`` of one.
        text_weight, audio_weight: weights of the two losses. With a text weight of 0 the model needs no text head.
        half: compute in bfloat16 as `torch.autocast` does; the losses themselves are float32.
        checkpointing: in training, recompute each layer's activations in the backward pass.

    Raises:
        BadInput: a weight is negative or not finite, both are 0, or the text weight is over 0 and the model has no text head.
    """

    def __init__(
        self, model: Any, *, text_weight: float = 0.1, audio_weight: float = 1.0, half: bool = False, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.model, self._half, self._checkpointing = model, half, checkpointing
        self.text_weight, self.audio_weight = text_weight, audio_weight
        if not (0 <= text_weight < float("inf") and 0 <= audio_weight < float("inf") and text_weight + audio_weight > 0):
            raise BadInput(
                f"the text loss cannot have the weight {text_weight} and the audio loss the weight {audio_weight}; "
                "give 0 or more, and more than 0 to at least one"
            )
        if self.native.config._attn_implementation == "eager":
            self.native.set_attn_implementation("sdpa")  # it is causal without a mask, and eager attention is not
        if text_weight and self.native.text_lm_head is None:
            raise BadInput(
                "the model has no text head, so there is no text loss; give --text-loss-weight 0, or a checkpoint with text_lm_head"
            )

    @property
    def native(self) -> Any:
        """The transformers model, without the ``PeftModel`` around it; its layers contain the adapter."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, batch: "TensorBatch", totals: torch.Tensor | None = None) -> BatchLoss:
        """Return the loss of a batch.

        Args:
            batch: ``input_ids`` [rows, tokens], padded at the end; ``labels`` of the same shape; and, if any row has audio,
                ``audio_input_ids`` and ``audio_labels`` [rows, frames, codebooks] with ``audio_input_ids_mask`` [rows, frames]: the
                delayed frames of each row in order, one for each audio placeholder. `NOT_SCORED` marks positions without a label.
            totals: number of labels in the whole step, like `BatchLoss.counts`; by default those of this batch.
        """
        with self.autocast():
            hidden = self.hidden_states(batch)
            text = self._text_losses(hidden, batch["labels"])
            audio = self._audio_losses(hidden, batch)
        sums = torch.cat([text[0], audio[0]])
        counts = torch.cat([text[1], audio[1]])
        means = sums / (counts if totals is None else totals.to(sums)).clamp(min=1)
        loss = self.text_weight * means[0] + self.audio_weight * means[1:].mean()
        return BatchLoss(loss, sums.detach(), counts)

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass: bfloat16 autocast if ``half`` is set."""
        return torch.autocast(self.native.device.type, torch.bfloat16, enabled=self._half)

    def hidden_states(self, batch: "TensorBatch") -> torch.Tensor:
        """Return the input of the heads: [rows, tokens, width]."""
        model, ids = self.native.model, batch["input_ids"]
        index = index_modalities(ids, self.native.config)
        frames = batch["audio_input_ids"][batch["audio_input_ids_mask"].bool()] if "audio_input_ids" in batch else None
        hidden = embed_inputs(model, ids, frames, index)
        return run_layers(model, hidden, index, checkpointing=self._checkpointing and self.training)

    def _text_losses(self, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.text_weight:
            none = hidden.new_zeros(1, dtype=torch.float32)
            return none, none
        return _label_losses(self.native.text_lm_head, hidden, labels[..., None])

    def _audio_losses(self, hidden: torch.Tensor, batch: "TensorBatch") -> tuple[torch.Tensor, torch.Tensor]:
        config, ids = self.native.config, batch["input_ids"]
        labels = ids.new_full((*ids.shape, config.num_codebooks), NOT_SCORED)
        if "audio_labels" in batch:
            placeholders = (ids == config.audio_token_id) | (ids == config.audio_delay_token_id)
            labels[placeholders] = batch["audio_labels"][batch["audio_input_ids_mask"].bool()]
        return _label_losses(self.native.audio_lm_head, hidden, labels)


def label_counts(batch: "TensorBatch", codebooks: int, *, text: bool = True) -> torch.Tensor:
    """Return the number of scored labels of a batch, as `HiggsLoss` counts them: float32 [1 + codebooks], text first.

    The first token of a row has no position before it to be predicted from, so its label does not count; it is never audio.

    Args:
        batch: a batch as `HiggsLoss` takes it.
        codebooks: number of codebooks of the model.
        text: whether the text loss is used; without it, the text count is 0.
    """
    counts = torch.zeros(1 + codebooks)
    if text:
        counts[0] = (batch["labels"][:, 1:] != NOT_SCORED).sum()
    if "audio_labels" in batch:
        scored = (batch["audio_labels"] != NOT_SCORED) & batch["audio_input_ids_mask"].bool()[..., None]
        counts[1:] = scored.sum((0, 1))
    return counts


def _label_losses(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropies of the labels, and their number: float32 [books] both.

    Args:
        head: a linear layer to the logits of all books.
        hidden: [rows, tokens, width].
        labels: [rows, tokens, books], each at the position of its own token.
    """
    following = labels[:, 1:]
    scored = (following != NOT_SCORED).any(-1)
    states, targets = hidden[:, :-1][scored], following[scored]
    size = max(1, MAX_LOGITS // head.out_features)
    chunks = [(states[start : start + size], targets[start : start + size]) for start in range(0, max(1, len(states)), size)]
    if len(chunks) == 1 or not torch.is_grad_enabled():
        sums = [_cross_entropy_sums(head, *chunk) for chunk in chunks]
    else:
        sums = [checkpoint(_cross_entropy_sums, head, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.stack(sums).sum(0), (targets != NOT_SCORED).sum(0).float()


def _cross_entropy_sums(head: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(states).float().view(targets.numel(), head.out_features // targets.shape[1])
    losses = functional.cross_entropy(logits, targets.flatten(), ignore_index=NOT_SCORED, reduction="none")
    return losses.view(targets.shape).sum(0)
