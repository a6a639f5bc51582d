"""When each word of a text is heard, told by a neural recogniser of characters in place of a voice to compare with.

The network was trained with connectionist temporal classification: for every frame it gives the probability of each character, and
of none (the blank). The times are those of the likeliest path that spells the text: Viterbi over the text's characters with a blank
between any two (A. Graves et al., "Connectionist temporal classification", ICML 2006), as L. Kürzinger et al. align with it
("CTC-segmentation of large corpora for German end-to-end speech recognition", SPECOM 2020). From them also comes that the worst
stretch tells whether the recording says the text. Between words, the word delimiter is as good as a blank, and neither is needed.

The weights are the user's to bring: any wav2vec 2.0, HuBERT, WavLM, MMS or kindred model with a character vocabulary.
"""

import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput, ModelError
from prosody_tagger.markup import MarkedText, plain
from synth.acoustics import dtw
from synth.acoustics.align import Alignment, _check, _unheard
from synth.audio.signal import resample
from synth.base import Audio, WordTime
from synth.normalisation import SpokenWord, spoken_words

Values = NDArray[np.float32]
Indices = NDArray[np.int64]

_BLANK, _GAP, _FIRST = 0, 1, 2  # columns of the emissions: the blank, what may stand between words, and then the characters
_WINDOW, _CONTEXT = 1000, 100  # frames of one pass, and what it hears on either side; even, as some networks halve the rate
_FAR = np.float32(1e30)
_LOWEST = np.float32(-30.0)  # of a log-probability, so that sums stay exact enough
_LEAST = 0.01  # the probability of a frame that is held against the text; below it, worse makes no difference
_STRETCH_SECONDS = 5.0

_TABLES = "*.json", "*.txt"  # files of a checkpoint on the hub: its configurations and vocabulary,
_WEIGHTS = "model*.safetensors", "pytorch_model*.bin"  # and its weights, in the forms that transformers reads
_PATIENCE = 10.0  # seconds for the hub to answer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The characters that a network tells apart, and their columns in its output.

    Attributes:
        ids: the column of each character.
        blank: the column of the blank.
        delimiter: the column of what it writes between words, if it does.
    """

    ids: Mapping[str, int]
    blank: int
    delimiter: int | None = None

    def spell(self, character: str) -> list[int]:
        """The columns of a character of a text: in the case that the network writes, else without its accents; [] if unknown."""
        bare = unicodedata.normalize("NFKD", character.replace("’", "'"))
        for form in (character, character.lower(), character.upper(), character.casefold(), bare, bare.lower(), bare.upper()):
            known = [self.ids[part] for part in form if part in self.ids]
            if known:
                return known
        return []


class _Spelling(NamedTuple):
    """The characters of a text.

    Attributes:
        ids: the network's column of each.
        owner: the index of the word that each belongs to.
        between: `_BLANK` or `_GAP`, what stands before each, and after the last.
    """

    ids: Indices
    owner: Indices
    between: Indices


class CtcAligner:
    """A network that hears characters. `load` makes one; it is not changed after that, so threads may share it."""

    def __init__(self, network: Any, extractor: Any, vocabulary: Vocabulary) -> None:
        """A transformers CTC network, the feature extractor that it was trained with, and its vocabulary."""
        self.vocabulary = vocabulary
        self._network = network
        self._extractor = extractor
        self.rate: int = extractor.sampling_rate
        """Sample rate that the network hears, Hz."""
        self._hop, self._field = _geometry(network.config)

    @classmethod
    def load(cls, source: str | Path) -> "CtcAligner":
        """Load a checkpoint from its folder or by its hub name, onto the GPU where there is one.

        What is in the hub's cache is taken from there without asking the hub.

        Raises:
            ModelError: it is missing or broken, no CTC model of the wav2vec 2.0 family, untrained for CTC, or has no characters;
                or it is not in the cache and the hub does not give it.
        """
        name = str(source)
        if os.path.isdir(name):
            folder = name
        elif _is_path(source):
            raise ModelError(f"no folder {name[:200]!r}; give the folder of a CTC model or its hub name")
        else:
            folder = _fetched(name)
        import torch
        from transformers import AutoFeatureExtractor, AutoTokenizer

        with _quietly():
            network = _network(name, folder)
            tokenizer = _part(name, folder, AutoTokenizer, "tokenizer (its vocabulary)")
            extractor = _part(name, folder, AutoFeatureExtractor, "feature extractor (preprocessor_config.json)")
        vocabulary = _vocabulary(name, tokenizer, network.config.vocab_size)
        if getattr(extractor, "model_input_names", [""])[0] != "input_values" or not hasattr(network.config, "conv_stride"):
            raise ModelError(
                f"the model {name!r} does not hear samples as wav2vec 2.0 does; give a wav2vec 2.0, HuBERT or MMS model"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(network.to(device).eval(), extractor, vocabulary)

    def align(self, audio: Audio, text: str | MarkedText, *, language: str | None = None) -> Alignment:
        """Find the words of ``text`` in ``audio``, as `synth.acoustics.align.align` does.

        A word lasts from the first frame of its first character to the last of its last; its confidence is the geometric mean of
        the probabilities of its characters' frames. The confidence of the whole is the lower of two: the mean of the words', and
        the geometric mean over the worst 5 seconds. A word without any character that the network knows has no length and
        confidence 0. Numbers and the like are aligned as they are said.

        Args:
            audio: speech. The time taken grows with its length, the memory hardly.
            text: what is said in it. Marks make no difference.
            language: a BCP 47 tag, how numbers are said; None is the default of `synth.normalisation.spoken_words`.

        Raises:
            BadInput: no samples, hours of them, several channels, NaN or infinity; no words.
            ModelError: the network gives NaN, or another number of frames than its configuration says.
        """
        _check(audio)
        marked = plain(text) if isinstance(text, str) else text
        spoken = spoken_words(marked) if language is None else spoken_words(marked, language)
        if not spoken:
            raise BadInput(f"there are no words in {marked.text[:40]!r}; give the text that is said in the recording")
        spelling = _spelling(spoken, self.vocabulary)
        samples = self._prepared(audio)
        frames = max(0, (len(samples) - self._field) // self._hop + 1)
        if not len(spelling.ids) or frames < _fewest_frames(spelling.ids):
            return _unheard(marked.text, [item.word for item in spoken], audio.seconds)
        columns, labels = np.unique(spelling.ids, return_inverse=True)
        emissions = self._emissions(samples, frames, columns)
        path = best_path(emissions, labels + _FIRST, spelling.between)
        owners = np.full(2 * len(labels) + 1, -1)
        owners[1::2] = spelling.owner
        return self._timed(marked.text, spoken, owners[path.places], path.costs, audio.seconds)

    def _prepared(self, audio: Audio) -> Values:
        """What the network is fed, of shape [samples]: at its rate and, where it was trained so, of unit variance."""
        peak = np.float32(np.abs(audio.samples).max()) or np.float32(1.0)
        heard = resample(Audio((audio.samples / peak).astype(np.float32), audio.rate), self.rate)
        fed = self._extractor(heard.samples, sampling_rate=self.rate, return_tensors="np")["input_values"][0]
        return np.asarray(fed, np.float32)

    def _emissions(self, samples: Values, frames: int, columns: Indices) -> Values:
        """Log-probabilities of the blank, the gap and the characters ``columns``, of shape [frames, 2 + characters]."""
        emissions = np.empty((frames, _FIRST + len(columns)), np.float32)
        blank, delimiter = self.vocabulary.blank, self.vocabulary.delimiter
        for first in range(0, frames, _WINDOW):
            last = min(first + _WINDOW, frames)
            low, high = max(0, first - _CONTEXT), min(frames, last + _CONTEXT)
            heard = self._heard(samples[low * self._hop : (high - 1) * self._hop + self._field], high - low)[
                first - low : last - low
            ]
            found = emissions[first:last]
            found[:, _BLANK] = heard[:, blank]
            found[:, _GAP] = heard[:, blank] if delimiter is None else np.logaddexp(heard[:, blank], heard[:, delimiter])
            found[:, _FIRST:] = heard[:, columns]
        return np.maximum(emissions, _LOWEST, out=emissions)

    def _heard(self, samples: Values, frames: int) -> Values:
        """The network's log-probabilities in one pass, of shape [frames, vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(samples)[None].to(self._network.device)).logits[0]
            heard: Values = logits.float().log_softmax(-1).cpu().numpy()
        if len(heard) != frames:
            raise ModelError(f"the model gives {len(heard)} frames where its configuration says {frames}; its times cannot be told")
        if np.isnan(heard).any():
            raise ModelError("the model gives probabilities that are NaN; its weights are broken, fetch them again")
        return heard

    def _timed(self, text: str, spoken: Sequence[SpokenWord], owners: Indices, costs: Values, seconds: float) -> Alignment:
        """The words' times and confidences, from each frame's word (-1 is none) and its negative log-probability."""
        costs = np.minimum(costs, np.float32(-math.log(_LEAST)))
        frames = np.flatnonzero(owners >= 0)
        owner = owners[frames]
        counts = np.bincount(owner, minlength=len(spoken))
        sure = np.exp(-np.bincount(owner, costs[frames], len(spoken)) / np.maximum(counts, 1))
        sure[counts == 0] = 0.0
        stops = np.cumsum(counts)
        margin = (self._field - self._hop) / 2  # a frame is in the middle of what the network hears for it
        times: list[WordTime] = []
        end = 0.0
        for item, count, stop, confidence in zip(spoken, counts.tolist(), stops.tolist(), sure.tolist(), strict=True):
            start = end
            if count:
                start = min((int(frames[stop - count]) * self._hop + margin) / self.rate, seconds)
                end = min(((int(frames[stop - 1]) + 1) * self._hop + margin) / self.rate, seconds)
            times.append(WordTime(item.word.core(text), item.word.core_start, start, end, confidence))
        # A word that another one's sound stands for, or that has none, says nothing of the recording.
        mean = float(sure[counts > 0].mean()) if counts.any() else 0.0
        worst = math.exp(-_worst_mean(costs, round(_STRETCH_SECONDS * self.rate / self._hop)))
        return Alignment(tuple(times), min(mean, worst))


def best_path(emissions: Values, labels: Indices, between: Indices) -> dtw.Path:
    """The likeliest way to spell ``labels``, each for one frame or more, with blanks between them where the frames say so.

    Two labels that are the same have a blank between them. The path is exact while the text has fewer than `dtw.WINDOW` / 2 labels;
    of a longer one a window follows it, and memory stays bounded.

    Args:
        emissions: log-probabilities, finite, of shape [frames, columns].
        labels: of shape [n], the column of each.
        between: of shape [n + 1], the column of the blank before each label, and after the last.

    Returns:
        For each frame the place, where 2 i + 1 is label i and 2 i the blank before it, and the negative log-probability.
    """
    states = np.empty(2 * len(labels) + 1, np.int64)
    states[::2], states[1::2] = between, labels
    skip = np.full(len(states), _FAR, np.float32)
    skip[1] = 0.0
    skip[3::2][labels[1:] != labels[:-1]] = 0.0

    def distance(rows: slice, columns: slice) -> Values:
        return -emissions[rows][:, states[columns]]

    return dtw.warp(distance, len(emissions), np.zeros(len(states), np.float32), skip)


def _fewest_frames(ids: Indices) -> int:
    """The least in which the text can be spelled: one for each character, and a blank between two of the same."""
    return len(ids) + int(np.count_nonzero(ids[1:] == ids[:-1]))


def _worst_mean(costs: Values, width: int) -> float:
    """The highest mean of ``width`` costs in a row, or of all if there are fewer."""
    width = min(width, len(costs))
    sums = np.cumsum(np.concatenate([[0.0], costs]))
    return float((sums[width:] - sums[:-width]).max() / width)


def _spelling(spoken: Sequence[SpokenWord], vocabulary: Vocabulary) -> _Spelling:
    """What is said, in the characters that the network knows; the others have no sound. White space and dashes part words."""
    spell = lru_cache(1024)(vocabulary.spell)
    ids: list[int] = []
    owner: list[int] = []
    between: list[int] = []
    position = -1
    apart = True
    for index, item in enumerate(spoken):
        apart = apart or item.word.start > position
        for character in unicodedata.normalize("NFC", item.spoken):
            known = spell(character)
            if known:
                ids += known
                owner += [index] * len(known)
                between += [_GAP if apart else _BLANK] + [_BLANK] * (len(known) - 1)
                apart = False
            elif character.isspace() or unicodedata.category(character) == "Pd":
                apart = True
        position = item.word.end
    return _Spelling(np.array(ids, np.int64), np.array(owner, np.int64), np.array([*between, _GAP], np.int64))


def _geometry(config: Any) -> tuple[int, int]:
    """How many samples lie between two frames, and how many the convolutions hear for each."""
    hop = field = 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field


def _is_path(source: str | Path) -> bool:
    """Whether what is no folder was meant as one: a hub name is OWNER/NAME or NAME."""
    return isinstance(source, Path) or os.path.exists(source) or source.startswith((".", "~", os.sep)) or source.count("/") > 1


def _fetched(name: str) -> str:
    """The folder of a model of the hub. The hub is asked once, where transformers would go on trying for half a minute."""
    from huggingface_hub import HfApi, snapshot_download

    with suppress(FileNotFoundError, ValueError):  # ValueError: no hub name; the hub's own words for it come below
        cached = snapshot_download(name, local_files_only=True, allow_patterns=list(_TABLES))
        if any(path.match(pattern) for path in Path(cached).iterdir() for pattern in _WEIGHTS):
            return cached
    try:
        files = [file.rfilename for file in HfApi().model_info(name, timeout=_PATIENCE).siblings or ()]
        # The first form that there is: many models hold the same weights in both.
        weights = [pattern for pattern in _WEIGHTS if any(Path(file).match(pattern) for file in files)][:1]
        return snapshot_download(name, allow_patterns=[*_TABLES, *weights])
    except Exception as error:
        raise ModelError(
            f"the CTC model {name[:200]!r} is neither a folder nor in the hub's cache, and the hub does not give it: "
            f"{_first_line(error)}; give the folder of a checkpoint, or a hub name and a connection to fetch it by"
        ) from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars, or its report of weights that only training needs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _network(name: str, folder: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCTC

    config = _part(name, folder, AutoConfig, "configuration (config.json)")
    if type(config) not in AutoModelForCTC._model_mapping:
        raise ModelError(f"the model {name!r} is {config.model_type}, not a CTC model; give a wav2vec 2.0, HuBERT or MMS model")
    try:
        network, loaded = AutoModelForCTC.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise ModelError(f"cannot load the CTC model {name!r}: {_first_line(error)}; fetch it again, or give another") from None
    untrained = sorted(key for key in loaded["missing_keys"] if key.startswith("lm_head"))
    if untrained:
        raise ModelError(f"the model {name!r} was not trained to write text: it lacks {untrained[0]}; give one fine-tuned with CTC")
    return network


def _part(name: str, folder: str, kind: Any, what: str) -> Any:
    """A part of the checkpoint that transformers finds by itself."""
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"cannot load the {what} of the CTC model {name!r}: {_first_line(error)}; "
            "give the folder of a whole checkpoint or its hub name"
        ) from None


def _vocabulary(name: str, tokenizer: Any, size: int) -> Vocabulary:
    """The tokenizer's single characters, without those that mean something else."""
    tokens: dict[str, int] = tokenizer.get_vocab()
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = {delimiter, *tokenizer.all_special_tokens}
    ids = {token: index for token, index in tokens.items() if len(token) == 1 and token not in special and index < size}
    blank = tokenizer.pad_token_id
    if blank is None or blank >= size or not any(token.isalpha() for token in ids):
        raise ModelError(f"the model {name!r} has no vocabulary of single characters with a blank; give one that writes letters")
    between = tokens.get(delimiter) if delimiter is not None else None
    return Vocabulary(ids, int(blank), between if between is not None and between < size else None)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
