"""A GPT-2 in torch as the tagger's network, for training and for what is measured while it is trained."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

from prosody_tagger.model import SEP, Encoded, TaggerModel, label_ids, token_id
from prosody_tagger.weights import Floats


def lay_out(texts: Sequence[Encoded], sep: int) -> tuple[torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Lay out texts as rows ``text <SEP> text``, padded on the right.

    Returns:
        Token ids and positions, both [texts, width]; each token of the copy has the position of its original. Then the rows and the
        columns at which the words of the copies end.
    """
    ids = torch.full((len(texts), 2 * max(len(text.ids) for text in texts) + 1), sep)
    positions = torch.zeros_like(ids)
    rows: list[int] = []
    columns: list[int] = []
    for row, text in enumerate(texts):
        count = len(text.ids)
        ids[row, : 2 * count + 1] = torch.tensor([*text.ids, sep, *text.ids])
        positions[row, : 2 * count + 1] = torch.tensor([*range(count + 1), *range(count)])
        rows.extend([row] * len(text.last))
        columns.extend(count + 1 + last for last in text.last)
    return ids, positions, rows, columns


def read(transformer: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states of a GPT-2, [texts, width, dimensions]; ids and positions are [texts, width].

    The attention mask is all ones: padding is on the right, where a causal model does not look. Without a mask, transformers
    treats positions that restart as another sequence in the row, and masks the text from its copy.
    """
    hidden: torch.Tensor = transformer(
        ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden


class TorchNetwork:
    """A `LabelNetwork` of torch: a GPT-2 of transformers, bare or with the layers of an adapter in it."""

    def __init__(self, gpt2: Any, tokenizer: Tokenizer) -> None:
        self.max_tokens: int = (gpt2.config.n_positions - 1) // 2
        self.transformer = gpt2.transformer.eval()
        self.sep = token_id(tokenizer, SEP)
        self.label_rows: torch.Tensor = gpt2.lm_head.weight.detach()[label_ids(tokenizer)].T.contiguous()

    def label_logits(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Floats:
        """Run once over several texts, and return the logits at their words, [words, labels]."""
        device = self.label_rows.device
        ids, positions, rows, columns = lay_out([Encoded(*text) for text in zip(tokens, ends, strict=True)], self.sep)
        with torch.inference_mode():
            hidden = read(self.transformer, ids.to(device), positions.to(device))
            logits: Floats = (hidden[rows, columns] @ self.label_rows).cpu().numpy()
        return logits


def torch_tagger_model(gpt2: Any, tokenizer: Tokenizer) -> TaggerModel:
    """Return the model of a GPT-2 in torch, in the state that its weights have now."""
    return TaggerModel(TorchNetwork(gpt2, tokenizer), tokenizer)
