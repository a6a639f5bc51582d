"""The model's layers as training runs them: same arithmetic as the model's own ``forward``, with one index of text and audio.

The native ``forward`` selects text and audio positions by a mask, several times in each layer. On a GPU each selection waits for
the count of positions, and its gradient sorts them. Here the indices are computed once for all layers. Attention gets no mask: it
is causal, and rows are padded at their end.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class ModalityIndex(NamedTuple):
    """Index of the text and audio positions in a batch [rows, tokens].

    Attributes:
        is_audio: bool [rows, tokens, 1].
        text: int64 [text positions], indices into the flattened batch.
        audio: int64 [audio positions], likewise.
        inverse: int64 [rows * tokens]; for each position of the flattened batch its index in ``text`` followed by ``audio``.
    """

    is_audio: "torch.Tensor"
    text: "torch.Tensor"
    audio: "torch.Tensor"
    inverse: "torch.Tensor"


def index_modalities(ids: "torch.Tensor", config: Any) -> ModalityIndex:
    """Return the index of token ids [rows, tokens]."""
    import torch

    is_audio = (ids == config.audio_token_id) | (ids == config.audio_delay_token_id)
    order = is_audio.flatten().int().argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    texts = len(order) - int(is_audio.sum())
    return ModalityIndex(is_audio[..., None], order[:texts], order[texts:], inverse)


def embed_inputs(model: Any, ids: "torch.Tensor", frames: "torch.Tensor | None", index: ModalityIndex) -> "torch.Tensor":
    """Return the input of the first layer: [rows, tokens, width].

    Args:
        model: the model without its heads.
        ids: int64 [rows, tokens].
        frames: int64 [audio positions, codebooks], in order of position; None if there are none.
        index: the index of ``ids``.
    """
    text: torch.Tensor = model.embed_tokens(ids)
    if frames is None:
        return text
    audio = model.embed_audio_tokens(frames).to(text.dtype)
    return text.flatten(0, 1).index_copy(0, index.audio, audio).view_as(text)


def run_layers(model: Any, hidden: "torch.Tensor", index: ModalityIndex, *, checkpointing: bool) -> "torch.Tensor":
    """Return the output of the last layer and the final norm: [rows, tokens, width].

    Args:
        model: the model without its heads.
        hidden: what `embed_inputs` returned.
        index: the index of the token ids.
        checkpointing: keep only the input of each layer, and recompute its activations in the backward pass.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotary = model.rotary_emb(hidden, positions)
    for layer in model.layers[: model.config.num_hidden_layers]:
        if checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(_run_layer, layer, hidden, index, rotary, use_reentrant=False)
        else:
            hidden = _run_layer(layer, hidden, index, rotary)
    output: torch.Tensor = model.norm(hidden)
    return output


def _run_layer(layer: Any, hidden: "torch.Tensor", index: ModalityIndex, rotary: Any) -> "torch.Tensor":
    import torch

    normed = _norm(layer.input_layernorm, layer.audio_input_layernorm, hidden, index)
    hidden = hidden + layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None)[0]
    normed = _norm(layer.post_attention_layernorm, layer.audio_post_attention_layernorm, hidden, index).flatten(0, 1)
    text = layer.mlp(normed.index_select(0, index.text))
    audio = layer.audio_mlp(normed.index_select(0, index.audio))
    return hidden + torch.cat([text, audio]).index_select(0, index.inverse).view_as(hidden)


def _norm(text: Any, audio: Any, hidden: "torch.Tensor", index: ModalityIndex) -> "torch.Tensor":
    """Return the RMS norm of ``hidden``, with the weights of the text or the audio norm at each position."""
    import torch

    scaled = torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=text.variance_epsilon).to(hidden.dtype)
    return torch.where(index.is_audio, audio.weight, text.weight) * scaled
