"""A sentence encoder that judges prominence and boundaries, for the tagger's base to start from and to learn from.

A GPT-2 of the tagger's size has read too little to know what words mean. An encoder that was trained on a thousand times as much
knows. `transplant` makes a GPT-2 of its weights, and while that learns, the encoder reads the same tokens and says what it makes of
them (knowledge distillation, Hinton et al., arXiv 1503.02531). `benchmarks/gpu/teacher.py` trains it. It is not shipped.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, processors
from torch import nn
from torch.nn import functional

from prosody_tagger.model import Encoded, token_id

HEADS = 6  # prominence 0, 1, 2; a boundary; emphasis; real-valued prominence
HEAD_FILE = "head.pt"
TOKENIZER_FILE = "tokenizer.json"
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lengths to which texts are padded: few in all, because a processor's kernels are made anew for each one."""


class Teacher(nn.Module):
    """An encoder of BERT's kind, with one linear layer on the mean of each word's tokens.

    Attributes:
        tokenizer: its word pieces alone; our tokens are added to a copy of it.
        knows_emphasis: whether it learnt it; only the released labelling tells it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        # Dropout of attention leaves the fast kernels no way.
        self.encoder = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attention_probs_dropout_prob=0.0, add_pooling_layer=False
        )
        self.tokenizer = read_word_pieces(folder / TOKENIZER_FILE)
        self.ends = (token_id(self.tokenizer, "[CLS]"), token_id(self.tokenizer, "[SEP]"))
        self.padding = token_id(self.tokenizer, "[PAD]")
        self.head = nn.Linear(self.encoder.config.hidden_size, HEADS)
        self.knows_emphasis = False
        if (folder / HEAD_FILE).exists():
            state = torch.load(folder / HEAD_FILE, weights_only=True)
            self.knows_emphasis = state.pop("knows_emphasis")
            self.head.load_state_dict(state)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save(str(folder / TOKENIZER_FILE))
        torch.save({**self.head.state_dict(), "knows_emphasis": self.knows_emphasis}, folder / HEAD_FILE)

    def forward(self, texts: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """What it makes of some texts, all of one batch.

        Returns:
            The vectors of all tokens of all texts in order, [tokens, width], and logits for all their words, [words, HEADS].
        """
        device = self.head.weight.device
        counts = torch.tensor([len(text.ids) for text in texts])
        longest = int(counts.max()) + 2
        width = next((width for width in WIDTHS if width >= longest), longest)
        ids = torch.full((len(texts), width), self.padding)
        start, end = self.ends
        ids[:, 0] = start
        for row, text in enumerate(texts):
            ids[row, 1 : len(text.ids) + 2] = torch.tensor([*text.ids, end])
        ids = ids.to(device)
        seen = torch.ne(ids, self.padding).long()
        hidden = self.encoder(input_ids=ids, attention_mask=seen).last_hidden_state
        places = torch.arange(width)
        vectors = hidden[((places > 0) & (places <= counts[:, None])).to(device)]
        ends = _word_ends(texts).to(device)
        sums = functional.pad(vectors.float().cumsum(0), (0, 0, 1, 0))
        spans = (ends[:, 1] - ends[:, 0])[:, None]
        means = (sums[ends[:, 1]] - sums[ends[:, 0]]) / spans
        with torch.autocast(device.type, enabled=False):
            logits: torch.Tensor = self.head(functional.dropout(means, 0.1, self.training))
        return vectors, logits


def read_word_pieces(path: Path) -> Tokenizer:
    """An encoder's tokenizer, which gives the tokens of the text and nothing around them."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.encode_special_tokens = True
    return tokenizer


def _word_ends(texts: Sequence[Encoded]) -> torch.Tensor:
    """For each word of all texts its first token and the one after its last, [words, 2]; one token of a word that has none."""
    spans = []
    shift = 0
    for text in texts:
        before = 0
        for last in text.last:
            spans.append((shift + min(before, last), shift + last + 1))
            before = last + 1
        shift += len(text.ids)
    return torch.tensor(spans)
