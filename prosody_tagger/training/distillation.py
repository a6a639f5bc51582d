"""Knowledge distillation: a sentence encoder as teacher of the tagger's base (Hinton et al., arXiv 1503.02531).

A GPT-2 of the tagger's size has seen too little text to represent word meanings well; an encoder pre-trained on a thousand times as
much text has. `transplant` initialises a GPT-2 from its weights. During training the encoder reads the same tokens, and the GPT-2
learns its label probabilities and its hidden vectors. `benchmarks/gpu/teacher.py` trains the encoder, which is not shipped.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, processors
from torch import nn
from torch.nn import functional

from prosody_tagger.markup import KINDS
from prosody_tagger.model import Encoded, token_id

HEADS = 6  # prominence 0, 1, 2; boundary; emphasis; real-valued prominence
HEAD_FILE = "head.pt"
TOKENIZER_FILE = "tokenizer.json"
HEAD_DROPOUT = 0.1
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lengths to which texts are padded. Few distinct lengths are used, because the CPU library prepares its kernels for each new
one."""
VECTOR_WEIGHT = 3.0
"""Weight of the distance between hidden vectors relative to the cross-entropies, as used for the shipped base; other values were
not recorded."""
EMPHASIS_GROUP = 2 + KINDS.index("emph")
"""Index of emphasis among the groups of `batches.label_groups`."""


class Teacher(nn.Module):
    """A BERT-like encoder with one linear layer on the mean of each word's tokens.

    Attributes:
        tokenizer: the encoder's word pieces, without our tokens.
        knows_emphasis: whether the emphasis output was trained; only the released labelling has labels for it.
    """

    def __init__(self, folder: Path) -> None:
        """Load the encoder, its tokenizer and, if there is one, the trained head from ``folder``."""
        super().__init__()
        from transformers import AutoModel

        # Without dropout in attention, the fused attention kernels can be used.
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
        """Write encoder, tokenizer and head to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save(str(folder / TOKENIZER_FILE))
        torch.save({**self.head.state_dict(), "knows_emphasis": self.knows_emphasis}, folder / HEAD_FILE)

    def forward(self, texts: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a batch of texts.

        Returns:
            The vectors of all tokens of all texts in order, [tokens, width], and the logits of all their words, [words, HEADS].
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
        mask = torch.ne(ids, self.padding).long()
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        positions = torch.arange(width)
        vectors = hidden[((positions > 0) & (positions <= counts[:, None])).to(device)]
        spans = _word_spans(texts).to(device)
        sums = functional.pad(vectors.float().cumsum(0), (0, 0, 1, 0))
        lengths = (spans[:, 1] - spans[:, 0])[:, None]
        means = (sums[spans[:, 1]] - sums[spans[:, 0]]) / lengths
        with torch.autocast(device.type, enabled=False):
            logits: torch.Tensor = self.head(functional.dropout(means, HEAD_DROPOUT, self.training))
        return vectors, logits


def read_word_pieces(path: Path) -> Tokenizer:
    """Read an encoder's tokenizer and configure it to add no tokens around a text."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.encode_special_tokens = True
    return tokenizer


def distillation_loss(
    hidden: torch.Tensor,
    group_logits: Sequence[torch.Tensor],
    texts: Sequence[Encoded],
    words: int,
    tokens: int,
    teacher: Teacher,
) -> torch.Tensor:
    """Return the distillation loss: match the teacher's label probabilities and hidden vectors.

    It is the cross-entropy with the teacher's probabilities at each word, plus `VECTOR_WEIGHT` times one minus the cosine with the
    teacher's vector at each token.

    Args:
        hidden: [texts, width, dimensions], the student's vectors of ``text <SEP> text``.
        group_logits: the student's logits at the n words, for each group of `batches.label_groups` [n, choices].
        texts: the tokens of the texts.
        words, tokens: numbers of words and tokens of the whole batch, to divide the sums by.
        teacher: reads the same tokens, without gradients.
    """
    with torch.no_grad():
        vectors, teacher_logits = teacher(texts)
    # The copies' tokens, text by text, in the order of the teacher's vectors.
    lengths = torch.tensor([len(text.ids) for text in texts], device=hidden.device)[:, None]
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    copies = hidden[(positions > lengths) & (positions <= 2 * lengths)]
    distance = (1 - functional.cosine_similarity(copies.float(), vectors.float(), dim=1)).sum() / tokens
    prominence = functional.cross_entropy(group_logits[0], teacher_logits[:, :3].softmax(1), reduction="sum") / words
    total = VECTOR_WEIGHT * distance + prominence
    total = total + _binary_cross_entropy(group_logits[1], teacher_logits[:, 3]) / words
    if teacher.knows_emphasis:
        total = total + _binary_cross_entropy(group_logits[EMPHASIS_GROUP], teacher_logits[:, 4]) / words
    return total


def _binary_cross_entropy(logits: torch.Tensor, teacher_logit: torch.Tensor) -> torch.Tensor:
    """Return the sum of the cross-entropies of binary choices, [n, 2], with the teacher's logit of the second choice, [n]."""
    return functional.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], teacher_logit.sigmoid(), reduction="sum")


def _word_spans(texts: Sequence[Encoded]) -> torch.Tensor:
    """Return the first token of each word of all texts and the one after its last, [words, 2]; a word without tokens gets one."""
    spans = []
    shift = 0
    for text in texts:
        before = 0
        for last in text.last:
            spans.append((shift + min(before, last), shift + last + 1))
            before = last + 1
        shift += len(text.ids)
    return torch.tensor(spans)
