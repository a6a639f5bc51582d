"""The model's layers as training runs them: the arithmetic of its own ``forward``, with text and audio told apart once.

The model's own selects places by a mask, several times a layer: each time a GPU is asked how many there are, and the gradient sorts
them. Here their numbers are found once for all layers. Attention has no mask: it is causal, and rows are padded at their end.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Places(NamedTuple):
    """Which places of a batch [rows, tokens] are audio.

    Attributes:
        is_audio: bool [rows, tokens, 1].
        text, audio: their numbers, counted through all rows.
        back: for each place, where it stands in text and audio in a row.
    """

    is_audio: "torch.Tensor"
    text: "torch.Tensor"
    audio: "torch.Tensor"
    back: "torch.Tensor"


def places_of(ids: "torch.Tensor", config: Any) -> Places:
    """Those of ``ids`` [rows, tokens]."""
    import torch

    is_audio = (ids == config.audio_token_id) | (ids == config.audio_delay_token_id)
    order = is_audio.flatten().int().argsort(stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    texts = len(order) - int(is_audio.sum())
    return Places(is_audio[..., None], order[:texts], order[texts:], back)


def embedded(model: Any, ids: "torch.Tensor", frames: "torch.Tensor | None", places: Places) -> "torch.Tensor":
    """What goes into the first layer: [rows, tokens, width].

    Args:
        model: the model without its heads.
        frames: int64 [audio places, codebooks], in the order of their places; None if there are none.
    """
    text: torch.Tensor = model.embed_tokens(ids)
    if frames is None:
        return text
    audio = model.embed_audio_tokens(frames).to(text.dtype)
    return text.flatten(0, 1).index_copy(0, places.audio, audio).view_as(text)


def through(model: Any, hidden: "torch.Tensor", places: Places, *, checkpointing: bool) -> "torch.Tensor":
    """What comes out of the last layer and its norm.

    Args:
        checkpointing: keep what goes into each layer alone, and compute the rest again for the gradient.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotary = model.rotary_emb(hidden, positions)
    for layer in model.layers[: model.config.num_hidden_layers]:
        if checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(_layer, layer, hidden, places, rotary, use_reentrant=False)
        else:
            hidden = _layer(layer, hidden, places, rotary)
    last: torch.Tensor = model.norm(hidden)
    return last


def _layer(layer: Any, hidden: "torch.Tensor", places: Places, rotary: Any) -> "torch.Tensor":
    import torch

    normed = _norm(layer.input_layernorm, layer.audio_input_layernorm, hidden, places)
    hidden = hidden + layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None)[0]
    normed = _norm(layer.post_attention_layernorm, layer.audio_post_attention_layernorm, hidden, places).flatten(0, 1)
    text = layer.mlp(normed.index_select(0, places.text))
    audio = layer.audio_mlp(normed.index_select(0, places.audio))
    return hidden + torch.cat([text, audio]).index_select(0, places.back).view_as(hidden)


def _norm(text: Any, audio: Any, hidden: "torch.Tensor", places: Places) -> "torch.Tensor":
    """Root mean square, with the weights of text or audio."""
    import torch

    scaled = torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=text.variance_epsilon).to(hidden.dtype)
    return torch.where(places.is_audio, audio.weight, text.weight) * scaled
