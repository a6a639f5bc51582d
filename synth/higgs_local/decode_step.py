"""One audio step: the frame before in, a frame out, on the device throughout.

The arithmetic is the model's own layers' for audio positions, over memory that stays where it is: no shape, no branch and no
address depends on what is computed, so that a CUDA graph can hold it.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from synth.higgs_local.kv_cache import CUT, ENDED, NEVER, Places, Rows
from synth.higgs_local.sampling import draw, redraw

if TYPE_CHECKING:
    import torch


_VARIANTS = 64  # of a compiled part, before torch takes their number for a mistake


class AudioStep:
    """The step of one model.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``. Its layers are looked up at every step, as adapters replace them.
        fuse: have torch.compile fuse what lies between the matrix products.
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
        self._query, self._rest, self._advance = query_key_value, after_attention, advance
        if fuse:
            # By parts: all layers share the code of one, and none of it depends on how far a row is. Widths make variants.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
            fused = partial(torch.compile, fullgraph=True, dynamic=False)
            self._query, self._rest, self._advance = fused(query_key_value), fused(after_attention), fused(advance)

    def __call__(self, places: Places, width: int, length: int, *, masked: bool, candidates: int) -> None:
        """Decode a frame of the rows in the first ``width`` places.

        Args:
            length: positions that are looked at: more than any row has.
            masked: some row has fewer.
            candidates: how many of the likeliest codes any row draws from; 1 if every row takes the likeliest.
        """
        logits = self.logits(places, width, length, masked=masked)
        self._advance(logits, places.rows, places.out, self._stream_ids, candidates)

    def logits(self, places: Places, width: int, length: int, *, masked: bool) -> "torch.Tensor":
        """Scores of the frame that comes next, float32 [width, codebooks, codes]."""
        import torch

        position = places.rows.position[:width]
        numbers = torch.arange(width, device=position.device)
        cos, sin = self._cos[position], self._sin[position]
        mask = (torch.arange(length, device=position.device) <= position[:, None])[:, None, None] if masked else None
        hidden = self._model.model.embed_audio_tokens(places.rows.codes[:width])
        for layer, keys, values in zip(self._model.model.layers, places.keys, places.values, strict=True):
            query, key, value = self._query(layer, hidden, cos, sin, self._grouped)
            keys[numbers, :, position] = key
            values[numbers, :, position] = value
            # The queries that share a key-value head stand in a row, as if at several positions: nothing is repeated.
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, keys[:width, :, :length], values[:width, :, :length], attn_mask=mask
            )
            hidden = self._rest(layer, hidden, attended)
        head: torch.Tensor = self._model.audio_lm_head(_norm(self._model.model.norm, hidden))
        return head.float().view(width, places.rows.codes.shape[1], -1)


def query_key_value(
    layer: Any, hidden: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor", grouped: tuple[int, int, int]
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Of ``hidden`` [rows, width]: queries [rows, key-value heads, queries a head, size], keys and values without the third."""
    attention = layer.self_attn
    normed = _norm(layer.audio_input_layernorm, hidden)
    query = attention.q_proj(normed).view(-1, *grouped)
    key = attention.k_proj(normed).view(-1, grouped[0], grouped[2])
    value = attention.v_proj(normed).view(-1, grouped[0], grouped[2])
    return _rotate(query, cos[:, None, None], sin[:, None, None]), _rotate(key, cos[:, None], sin[:, None]), value


def after_attention(layer: Any, hidden: "torch.Tensor", attended: "torch.Tensor") -> "torch.Tensor":
    """The rest of a layer, by its audio weights."""
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(1))
    result: torch.Tensor = hidden + layer.audio_mlp(_norm(layer.audio_post_attention_layernorm, hidden))
    return result


def advance(logits: "torch.Tensor", rows: Rows, out: "torch.Tensor", stream_ids: tuple[int, int], candidates: int) -> None:
    """Choose the next frame's codes and move every row on by it.

    The delay pattern has codebook k start k frames late and, after the first EOS, end in the same order.
    """
    import torch

    begin, end = stream_ids
    width, books, _ = logits.shape
    frame, ended = rows.frame[:width], rows.ended[:width]
    book = torch.arange(books, device=logits.device)
    if candidates == 1:
        codes = logits.argmax(-1)
    else:
        uniform = rows.draws[torch.arange(width, device=logits.device), frame]
        codes = draw(logits, rows.temperature[:width], rows.top_p[:width], rows.top_k[:width], uniform[:, 0], candidates)
        window, repeats = rows.ras_window[:width], rows.ras_repeats[:width]
        codes = redraw(codes, logits, rows.recent[:width], window, repeats, uniform[:, 1])
    codes = codes.masked_fill(book < (frame - rows.first_end[:width])[:, None], end)
    codes = codes.masked_fill(book >= frame[:, None], begin)
    codes = codes.masked_fill(ended[:, None], end)
    is_end = codes == end
    over = is_end.all(-1)
    cut = ~over & (frame >= rows.last[:width])
    out[:width, :books] = codes
    out[:width, books] = over * ENDED + cut * CUT
    if candidates > 1:
        heard = codes.masked_fill(codes >= min(begin, end), -1)
        rows.recent[:width] = torch.cat([rows.recent[:width, 1:], heard[:, None]], dim=1)
    rows.first_end[:width] = torch.minimum(rows.first_end[:width], frame.masked_fill(~is_end.any(-1), NEVER))
    rows.codes[:width] = codes
    goes_on = ~(ended | over | cut)
    rows.ended[:width] = ~goes_on
    rows.position[:width] += goes_on
    rows.frame[:width] += goes_on


def _norm(layer: Any, hidden: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.nn.functional.rms_norm(hidden, layer.weight.shape, layer.weight, layer.variance_epsilon)


def _rotate(vectors: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor") -> "torch.Tensor":
    """Rotary position embedding, half against half."""
    import torch

    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat([-second, first], dim=-1) * sin
