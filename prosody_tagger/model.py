"""The tagger's network: a GPT-2 with a LoRA adapter that scores every word of a text in one forward pass.

The input is ``text <SEP> text``. When the causal model reads the copy it has already seen the whole text, so its state at the last
token of a word in the copy depends on the word and on the text after it (sequence repetition, arXiv 2601.17585). The next-token
logits there are computed for the label tokens only, and normalised over each group of labels. No word is generated.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prosody_tagger.errors import ModelError, first_line
from prosody_tagger.markup import KINDS
from prosody_tagger.segment import Word

SEP = "<SEP>"
PROMINENCE = ("<prom_0>", "<prom_1>", "<prom_2>")
BOUNDARY = ("<bound_0>", "<bound_2>")
NONE = "<none>"
MARKS = tuple(f"<{kind}>" for kind in KINDS)
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


def lay_out(texts: Sequence[Encoded], sep: int) -> tuple[Any, Any, list[int], list[int]]:
    """Lay out texts as rows ``text <SEP> text``, padded on the right.

    Returns:
        Token ids and positions, both [texts, width]; each token of the copy has the position of its original. Then the rows and the
        columns at which the words of the copies end.
    """
    import torch

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


def read(transformer: Any, ids: Any, positions: Any) -> Any:
    """Return the last hidden states of a GPT-2, [texts, width, dimensions]; ids and positions are [texts, width].

    The attention mask is all ones: padding is on the right, where a causal model does not look. Without a mask, transformers
    treats positions that restart as another sequence in the row, and masks the text from its copy.
    """
    import torch

    return transformer(ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False).last_hidden_state


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


class TaggerModel:
    """A loaded network and its tokenizer. Its weights do not change after loading, so threads may share it."""

    def __init__(self, network: Any, tokenizer: Tokenizer) -> None:
        import torch

        self.tokenizer = tokenizer
        self._transformer = network.transformer.eval()
        self._sep = token_id(tokenizer, SEP)
        labels = (*PROMINENCE, *BOUNDARY, NONE, *MARKS)
        self._rows: torch.Tensor = network.lm_head.weight.detach()[[token_id(tokenizer, label) for label in labels]].T.contiguous()
        self._device = self._rows.device
        self.max_tokens: int = (network.config.n_positions - 1) // 2
        """Maximum length of a text, in tokens."""

    @classmethod
    def load(cls, adapter: Path = SHIPPED_ADAPTER, base: str | None = None) -> "TaggerModel":
        """Load a PEFT adapter folder over its base, a folder or a hub name, by default the one that the adapter names.

        Raises:
            ModelError: a file is missing or broken, or the adapter was trained over another base.
        """
        named = _base_of(adapter)
        source = base or (str((adapter / named).resolve()) if named.startswith(".") else named)
        import torch
        from transformers import GPT2LMHeadModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = read_tokenizer(adapter / "tokenizer.json")
        for token in ADDED_TOKENS:
            token_id(tokenizer, token)
        try:
            network = GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32)
        except Exception as error:
            raise ModelError(
                f"cannot load the tagger's base {source!r}: {first_line(error)}; give a folder or a hub name"
            ) from None
        if network.config.vocab_size + len(ADDED_TOKENS) != tokenizer.get_vocab_size():
            raise ModelError(
                f"the adapter {adapter} was trained over another base than {source!r}: its tokenizer has "
                f"{tokenizer.get_vocab_size()} tokens, the base {network.config.vocab_size} without the marks"
            )
        _refuse_another_base(adapter, network, source)
        network.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
        return cls(_merge(network, adapter, source), tokenizer)

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
        import torch

        ids, positions, rows, columns = lay_out([Encoded(*text) for text in zip(tokens, ends, strict=True)], self._sep)
        with torch.inference_mode():
            hidden = read(self._transformer, ids.to(self._device), positions.to(self._device))
            logits = (hidden[rows, columns] @ self._rows).cpu()
            return np.split(probabilities(logits), np.cumsum([len(each) for each in ends])[:-1])


def probabilities(logits: Any) -> NDArray[np.float32]:
    """Return a table of probabilities, float32 of shape [words, `SCORE_COLUMNS`], from logits of the labels, [words, labels]."""
    import torch

    marks = (logits[:, 6:] - logits[:, 5:6]).sigmoid()
    table: NDArray[np.float32] = torch.cat([logits[:, :3].softmax(-1), logits[:, 3:5].softmax(-1)[:, 1:], marks], dim=1).numpy()
    return table


def split_scores(logits: Any, counts: Sequence[int]) -> list[Scores]:
    """Return the scores of texts with ``counts`` words each, from the label logits of all words, [words, labels]."""
    return [Scores.of(table) for table in np.split(probabilities(logits), np.cumsum(counts)[:-1])]


def fingerprint(network: Any) -> str:
    """Return the fingerprint of a base: the SHA-256 of its position embeddings in 16 bit, the precision they may be stored in."""
    weights = network.transformer.wpe.weight.detach().half().contiguous()
    return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()


def _refuse_another_base(adapter: Path, network: Any, source: str) -> None:
    """Check that the base has the fingerprint in the adapter's `training.json`."""
    try:
        trained: Any = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    base = trained.get("base") if isinstance(trained, dict) else None
    if isinstance(base, dict) and base.get("fingerprint", "") not in ("", fingerprint(network)):
        raise ModelError(
            f"the adapter {adapter} was trained over another base than {source!r}, namely {base.get('name')!r}; "
            "give that one, or train an adapter over this base with train-tagger"
        )


def _base_of(adapter: Path) -> str:
    """Return the base that an adapter folder names: a hub name, or a path relative to the folder that starts with a dot."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"no tagger in {adapter}: adapter_config.json is missing; give the folder of a trained adapter "
            "(--tagger or PROSODY_TAGGER__ADAPTER)"
        ) from None
    except ValueError as error:
        raise ModelError(f"{adapter / 'adapter_config.json'} is broken: {error}; restore the folder") from None
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(named, str) or not named:
        raise ModelError(f"{adapter / 'adapter_config.json'} names no base_model_name_or_path; restore the folder")
    return named


def _merge(network: Any, adapter: Path, source: str) -> Any:
    """Merge the adapter's weights into the base, so that a forward pass costs no more than that of the base."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
            return PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"the adapter {adapter} does not fit the base {source!r}: {reason}; train it over this base") from None
