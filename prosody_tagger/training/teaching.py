"""The loss of a network that follows a teacher: it is to say what the teacher says, and to have in mind what the teacher has."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from prosody_tagger.markup import KINDS
from prosody_tagger.model import Encoded
from prosody_tagger.training.distillation import Teacher

VECTOR_WEIGHT = 3.0
"""Of the distance between the vectors, beside the cross-entropies."""
EMPH = 2 + KINDS.index("emph")


def teaching_loss(
    hidden: torch.Tensor, parts: Sequence[torch.Tensor], texts: Sequence[Encoded], words: int, tokens: int, teacher: Teacher
) -> torch.Tensor:
    """Cross-entropy with the teacher's probabilities at each word, and one less the cosine with its vector at each token.

    Args:
        hidden: [texts, width, dimensions], the network's vectors of ``text <SEP> text``.
        parts: its logits at the words, for each group of `batches.label_groups` [n, choices].
        words, tokens: what to divide the sums by.
    """
    with torch.no_grad():
        vectors, said = teacher(texts)
    # The copies' tokens, text by text, as the teacher gives them.
    lengths = torch.tensor([len(text.ids) for text in texts], device=hidden.device)[:, None]
    places = torch.arange(hidden.shape[1], device=hidden.device)
    copies = hidden[(places > lengths) & (places <= 2 * lengths)]
    distance = (1 - functional.cosine_similarity(copies.float(), vectors.float(), dim=1)).sum() / tokens
    total = VECTOR_WEIGHT * distance + functional.cross_entropy(parts[0], said[:, :3].softmax(1), reduction="sum") / words
    total = total + _binary(parts[1], said[:, 3]) / words
    if teacher.knows_emphasis:
        total = total + _binary(parts[EMPH], said[:, 4]) / words
    return total


def _binary(logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies of a choice between two, [n, 2], with the teacher's logit for the second, [n]."""
    return functional.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], said.sigmoid(), reduction="sum")
