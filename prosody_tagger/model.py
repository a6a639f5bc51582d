"""The tagger's network: a GPT-2 with a LoRA adapter that scores every word of a text in one forward pass.

The input is ``text <SEP> text``. When the causal model reads the copy it has already seen the whole text, so its state at the last
token of a word in the copy depends on the word and on the text after it (sequence repetition, arXiv 2601.17585). The next-token
logits there are computed for the label tokens only, and normalised over each group of labels. No word is generated.

`weights.py` reads the files and merges the adapter, `onnx_graph.py` writes the network as a graph, onnxruntime runs it. Training
runs its network in torch, behind the same `LabelNetwork`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prosody_tagger.errors import ModelError
from prosody_tagger.markup import KINDS
from prosody_tagger.onnx_graph import Gpt2Graph, start_session
from prosody_tagger.segment import Word
from prosody_tagger.weights import Floats, Gpt2Weights, base_of_adapter, merge_adapter, read_base, refuse_another_base

SEP = "<SEP>"
PROMINENCE = ("<prom_0>", "<prom_1>", "<prom_2>")
BOUNDARY = ("<bound_0>", "<bound_2>")
NONE = "<none>"
MARKS = tuple(f"<{kind}>" for kind in KINDS)
LABELS = (*PROMINENCE, *BOUNDARY, NONE, *MARKS)
"""The tokens whose logits are computed, in the order of the columns."""
SCORE_COLUMNS = len(PROMINENCE) + 1 + len(KINDS)
"""Columns of a score table: three degrees of prominence, a boundary after the word, each kind of mark."""
ADDED_TOKENS = (SEP, *PROMINENCE, *BOUNDARY, NONE, *MARKS)
"""Appended to GPT-2's vocabulary in this order."""


def shipped_models() -> Path:
    """Return the folder of the shipped models: inside the package when installed from a wheel, else `models/` of the repository."""
    package = Path(str(files("prosody_tagger"))).resolve()
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


SHIPPED = shipped_models()
SHIPPED_ADAPTER = SHIPPED / "tagger"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised text: ``ids`` of the tokens, and for each word, in ``last``, the index of the last token of its run."""

    ids: Sequence[int]
    last: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Probabilities for the n words of a text, float32.

    Attributes:
        prominence: [n, 3], probability of prominence 0, 1 and 2.
        boundary: [n], probability of a boundary after the word.
        marks: [n, 7], probability of each of `markup.KINDS` against no mark: pauses after the word, the others on it.
    """

    prominence: NDArray[np.float32]
    boundary: NDArray[np.float32]
    marks: NDArray[np.float32]

    @classmethod
    def of(cls, table: NDArray[np.float32]) -> "Scores":
        """Views of the columns of a table of shape [n, `SCORE_COLUMNS`]."""
        return cls(table[:, :3], table[:, 3], table[:, 4:])


def add_tokens(tokenizer: Tokenizer) -> None:
    """Add the label tokens to GPT-2's tokenizer. Text that spells one of them is still read as ordinary characters."""
    tokenizer.add_special_tokens(list(ADDED_TOKENS))
    tokenizer.encode_special_tokens = True


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer file. Text that spells a label token is read as ordinary characters.

    Raises:
        ModelError: the file is missing or broken.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelError(f"cannot read the tokenizer {path}: {error}; restore the folder") from None
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token.

    Raises:
        ModelError: the vocabulary lacks it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ModelError(f"the tokenizer lacks {token}; restore the tagger's folder, or train the adapter again")
    return int(found)


def encode(tokenizer: Tokenizer, texts: Sequence[str], runs: Sequence[Sequence[Word]]) -> list[Encoded]:
    """Tokenise texts, each with a space before its first word as in running text. ``runs`` are the words of each text.

    A word without tokens of its own ends where the word before it does.
    """
    encoded = []
    for encoding, text_words in zip(tokenizer.encode_batch(list(texts), add_special_tokens=False), runs, strict=True):
        starts = [start for start, _ in encoding.offsets]
        ends = [word.end for word in text_words]
        last = np.searchsorted(starts, ends, side="left") - 1
        encoded.append(Encoded(encoding.ids, np.maximum(last, min(0, len(starts) - 1)).tolist()))
    return encoded


class LabelNetwork(Protocol):
    """A network that scores words: in onnxruntime at run time, in torch while it is trained."""

    max_tokens: int
    """Maximum length of a text, in tokens."""

    def label_logits(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Floats:
        """Run once over several texts, and return the logits of `LABELS` at their words, text after text, [words, labels].

        The arguments are those of `TaggerModel.forward`.
        """


class OnnxNetwork:
    """A GPT-2 in onnxruntime. Threads may share it.

    Args:
        weights: of the network, with rows for our tokens.
        sep: the id of `SEP`.
        labels: the ids of `LABELS`.
    """

    def __init__(self, weights: Gpt2Weights, sep: int, labels: Sequence[int]) -> None:
        self.max_tokens = (weights.config.n_positions - 1) // 2
        self._sep = sep
        self._tokens = weights.tokens
        self._positions = weights.tensors["wpe.weight"]
        graph = Gpt2Graph(weights, weights.tokens[labels])
        self._matrices = graph.writer.external  # the session reads them where they are
        self._session = start_session(graph)

    def label_logits(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Floats:
        """Lay out texts as rows ``text <SEP> text`` padded on the right, and return the logits at the words of the copies.

        Each token of the copy has the position of its original. Padding stands where a causal model does not look.
        """
        counts = [len(text) for text in tokens]
        spread = np.zeros((len(counts), 2 * max(counts) + 1), np.int64)
        columns = np.zeros((len(counts), max(len(text) for text in ends)), np.int64)
        is_word = np.zeros(columns.shape, np.bool_)
        first = 0
        for row, (count, last) in enumerate(zip(counts, ends, strict=True)):
            spread[row, : 2 * count + 1] = [*range(first, first + count + 1), *range(first, first + count)]
            columns[row, : len(last)] = np.array(last, np.int64) + count + 1
            is_word[row, : len(last)] = True
            first += count + 1
        ids = [token for text in tokens for token in (*text, self._sep)]
        positions = [position for count in counts for position in range(count + 1)]
        inputs = {"embedded": self._tokens[ids] + self._positions[positions], "spread": spread, "ends": columns}
        logits: Floats = self._session.run(None, inputs)[0]
        return logits[is_word.reshape(-1)]


class TaggerModel:
    """A loaded network and its tokenizer. Its weights do not change after loading, so threads may share it."""

    def __init__(self, network: LabelNetwork, tokenizer: Tokenizer) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.max_tokens = network.max_tokens
        """Maximum length of a text, in tokens."""

    @classmethod
    def load(cls, adapter: Path = SHIPPED_ADAPTER, base: str | None = None) -> "TaggerModel":
        """Load a PEFT adapter folder over its base, a folder or a hub name, by default the one that the adapter names.

        Raises:
            ModelError: a file is missing or broken, or the adapter was trained over another base.
        """
        named = base_of_adapter(adapter)
        source = base or (str((adapter / named).resolve()) if named.startswith(".") else named)
        tokenizer = read_tokenizer(adapter / "tokenizer.json")
        for token in ADDED_TOKENS:
            token_id(tokenizer, token)
        weights = read_base(source)
        if weights.config.vocab_size + len(ADDED_TOKENS) != tokenizer.get_vocab_size():
            raise ModelError(
                f"the adapter {adapter} was trained over another base than {source!r}: its tokenizer has "
                f"{tokenizer.get_vocab_size()} tokens, the base {weights.config.vocab_size} without the marks"
            )
        refuse_another_base(adapter, weights, source)
        weights = merge_adapter(weights, adapter, source)
        return cls(OnnxNetwork(weights, token_id(tokenizer, SEP), label_ids(tokenizer)), tokenizer)

    def score(self, batch: Sequence[Encoded]) -> list[Scores]:
        """Score every word of several texts in one forward pass. No text may be longer than `max_tokens`."""
        return [Scores.of(table) for table in self.forward([text.ids for text in batch], [text.last for text in batch])]

    def forward(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Run the network once over several texts.

        Args:
            tokens: the ids of each text, at most `max_tokens`.
            ends: for each text the index of the last token of each of its words.

        Returns:
            For each text a table of probabilities, float32 of shape [words, `SCORE_COLUMNS`].
        """
        logits = self.network.label_logits(tokens, ends)
        tables: list[Floats] = np.split(probabilities(logits), np.cumsum([len(each) for each in ends])[:-1])
        return tables


def label_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of `LABELS`.

    Raises:
        ModelError: the vocabulary lacks one.
    """
    return [token_id(tokenizer, label) for label in LABELS]


def probabilities(logits: Floats) -> Floats:
    """Return a table of probabilities, float32 of shape [words, `SCORE_COLUMNS`], from logits of `LABELS`, [words, labels]."""
    none = len(PROMINENCE) + len(BOUNDARY)
    against = logits[:, none : none + 1] - logits[:, none + 1 :]
    marks = 1 / (1 + np.exp(np.minimum(against, 80)))  # exp of more would overflow
    prominence, boundary = _softmax(logits[:, : len(PROMINENCE)]), _softmax(logits[:, len(PROMINENCE) : none])
    table: Floats = np.hstack([prominence, boundary[:, 1:], marks])
    return table


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(1, keepdims=True)
    return shares
