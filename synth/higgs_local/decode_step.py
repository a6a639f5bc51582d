"""One decoding step: from the last frame of every slot to the next, entirely on the device.

It computes what the transformers model's layers compute at audio positions, over preallocated memory. No shape, branch or address
depends on a computed value, so a CUDA graph can capture it.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from synth.higgs_local.kv_cache import CUT, ENDED, NEVER, KVCache, SlotStates
from synth.higgs_local.sampling import draw, redraw

if TYPE_CHECKING:
    import torch


_MAX_VARIANTS = 64  # recompilations that torch.compile allows per function; every width is one


class AudioStep:
    """The decoding step of one model.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``. Its layers are looked up at every step.
        fuse: whether torch.compile fuses the operations between the matrix products.
    """

    def __init__(self, model: Any, *, fuse: bool = False) -> None:
        import torch

        self._model = model
        config = model.config
        self._stream_ids = config.audio_stream_bos_id, config.audio_stream_eos_id
        self._grouped = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads, config.head_dim)
        positions = torch.arange(config.max_position_embeddings, device=model.device)[None]
        like = torch.empty(0, device=model.device, dtype=model.dtype)
        self._cos, self._sin = (table[0] for table in model.model.rotary_emb(like, positions))
        self._project, self._finish_layer, self._advance = query_key_value, after_attention, advance
        if fuse:
            # Compiled in parts: all layers share one compiled layer, which does not depend on positions, only on the width.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_VARIANTS)
            fused = partial(torch.compile, fullgraph=True, dynamic=False)
            self._project, self._finish_layer, self._advance = fused(query_key_value), fused(after_attention), fused(advance)

    def __call__(self, cache: KVCache, width: int, length: int, *, masked: bool, candidates: int) -> None:
        """Decode one frame of the first ``width`` slots; codes and status are written to ``cache.out``.

        Args:
            cache: keys, values and state of the slots; updated in place.
            width: slots to compute.
            length: positions to attend to, at least those of the longest row.
            masked: whether a row has fewer, so that attention needs a mask.
            candidates: how many of the most likely codes any row draws from; 1 if every row is greedy.
        """
        logits = self.logits(cache, width, length, masked=masked)
        self._advance(logits, cache.states, cache.out, self._stream_ids, candidates)

    def logits(self, cache: KVCache, width: int, length: int, *, masked: bool) -> "torch.Tensor":
        """Return the logits of the next frame, float32 [width, codebooks, codes]. Arguments as for a call."""
        import torch

        position = cache.states.position[:width]
        slots = torch.arange(width, device=position.device)
        cos, sin = self._cos[position], self._sin[position]
        mask = (torch.arange(length, device=position.device) <= position[:, None])[:, None, None] if masked else None
        hidden = self._model.model.embed_audio_tokens(cache.states.codes[:width])
        for layer, keys, values in zip(self._model.model.layers, cache.keys, cache.values, strict=True):
            query, key, value = self._project(layer, hidden, cos, sin, self._grouped)
            keys[slots, :, position] = key
            values[slots, :, position] = value
            # Queries that share a key-value head take the place of query positions, so keys and values need not be repeated.
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, keys[:width, :, :length], values[:width, :, :length], attn_mask=mask
            )
            hidden = self._finish_layer(layer, hidden, attended)
        head: torch.Tensor = self._model.audio_lm_head(_norm(self._model.model.norm, hidden))
        return head.float().view(width, cache.states.codes.shape[1], -1)


def query_key_value(
    layer: Any, hidden: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor", grouped: tuple[int, int, int]
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Return queries, keys and values of a layer at audio positions, after rotary position embedding.

    Args:
        layer: a decoder layer of the model.
        hidden: [rows, hidden size].
        cos, sin: rotary tables at each row's position, [rows, head size].
        grouped: key-value heads, queries per key-value head, and head size.

    Returns:
        Queries [rows, key-value heads, queries per head, head size]; keys and values [rows, key-value heads, head size].
    """
    attention = layer.self_attn
    normed = _norm(layer.audio_input_layernorm, hidden)
    query = attention.q_proj(normed).view(-1, *grouped)
    key = attention.k_proj(normed).view(-1, grouped[0], grouped[2])
    value = attention.v_proj(normed).view(-1, grouped[0], grouped[2])
    return _rotate(query, cos[:, None, None], sin[:, None, None]), _rotate(key, cos[:, None], sin[:, None]), value


def after_attention(layer: Any, hidden: "torch.Tensor", attended: "torch.Tensor") -> "torch.Tensor":
    """Return the output [rows, hidden size] of a layer: output projection, residuals and the audio feed-forward network."""
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(1))
    result: torch.Tensor = hidden + layer.audio_mlp(_norm(layer.audio_post_attention_layernorm, hidden))
    return result


def advance(logits: "torch.Tensor", states: SlotStates, out: "torch.Tensor", stream_ids: tuple[int, int], candidates: int) -> None:
    """Choose the codes of the next frame, and advance every running slot by one frame.

    In the delay pattern, codebook k starts k frames late; after the first EOS the codebooks end in the same order.

    Args:
        logits: float32 [width, codebooks, codes].
        states: decoding state; updated in place.
        out: receives codes and status, int64 [slots, codebooks + 1].
        stream_ids: codes of the stream's BOS and EOS.
        candidates: see `AudioStep`.
    """
    import torch

    begin, end = stream_ids
    width, books, _ = logits.shape
    frame, ended = states.frame[:width], states.ended[:width]
    book = torch.arange(books, device=logits.device)
    if candidates == 1:
        codes = logits.argmax(-1)
    else:
        uniform = states.draws[torch.arange(width, device=logits.device), frame]
        codes = draw(logits, states.temperature[:width], states.top_p[:width], states.top_k[:width], uniform[:, 0], candidates)
        window, repeats = states.ras_window[:width], states.ras_repeats[:width]
        codes = redraw(codes, logits, states.recent[:width], window, repeats, uniform[:, 1])
    codes = codes.masked_fill(book < (frame - states.first_end[:width])[:, None], end)
    codes = codes.masked_fill(book >= frame[:, None], begin)
    codes = codes.masked_fill(ended[:, None], end)
    is_end = codes == end
    finished = is_end.all(-1)
    cut = ~finished & (frame >= states.last[:width])
    out[:width, :books] = codes
    out[:width, books] = finished * ENDED + cut * CUT
    if candidates > 1:
        valid = codes.masked_fill(codes >= min(begin, end), -1)
        states.recent[:width] = torch.cat([states.recent[:width, 1:], valid[:, None]], dim=1)
    states.first_end[:width] = torch.minimum(states.first_end[:width], frame.masked_fill(~is_end.any(-1), NEVER))
    states.codes[:width] = codes
    continues = ~(ended | finished | cut)
    states.ended[:width] = ~continues
    states.position[:width] += continues
    states.frame[:width] += continues


def _norm(layer: Any, hidden: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.nn.functional.rms_norm(hidden, layer.weight.shape, layer.weight, layer.variance_epsilon)


def _rotate(vectors: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor") -> "torch.Tensor":
    """Apply rotary position embedding (Su et al., 2021, arXiv:2104.09864), pairing the two halves of each vector."""
    import torch

    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat([-second, first], dim=-1) * sin
