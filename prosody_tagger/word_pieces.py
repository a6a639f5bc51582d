"""Rows of a GPT-2's embedding that start as the word pieces of an encoder of the same width."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from prosody_tagger.model import ADDED_TOKENS

ROW_STD = 0.05
"""Of the rows together, in place of the encoder's own scale."""


def start_from_word_pieces(network: Any, tokenizer: Tokenizer, encoder: Path) -> float:
    """Set each token's row to the mean of the encoder's word pieces for the same string, within a word to pieces within one.

    Tokens that it has no piece for stay as they are, as do our own. What a small network was never shown it can then still know: a
    word that it never saw lies beside words that it did.

    Args:
        encoder: folder of a BERT-like encoder (WordPiece), as wide as the network.

    Returns:
        The share of tokens that were set.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    pieces = AutoTokenizer.from_pretrained(encoder)
    rows = AutoModel.from_pretrained(encoder, dtype=torch.float32).get_input_embeddings().weight.detach()
    rows = rows * (ROW_STD / rows.std())
    known = pieces.get_vocab()
    decoder = decoders.ByteLevel()
    weight = network.transformer.wte.weight
    count = tokenizer.get_vocab_size() - len(ADDED_TOKENS)
    done = 0
    with torch.no_grad():
        for index in range(count):
            text = decoder.decode([tokenizer.id_to_token(index) or ""])
            ids = _pieces(text, pieces, known)
            if ids:
                weight[index] = rows[ids].mean(0)
                done += 1
    return done / count


def _pieces(text: str, pieces: Any, known: dict[str, int]) -> list[int]:
    bare = text.strip().lower()
    if not text.startswith(" ") and bare.isalnum():
        within = known.get(f"##{bare}")
        if within is not None:
            return [within]
    return [piece for piece in pieces.encode(bare, add_special_tokens=False) if piece != pieces.unk_token_id] if bare else []
