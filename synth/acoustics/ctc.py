"""Forced alignment with a neural CTC model of characters, as an alternative to comparison with a reference reading.

A network trained with connectionist temporal classification gives for every frame the probability of each character and of none,
the blank. The word times are those of the most probable path that spells the text: Viterbi search over the text's characters with
an optional blank between any two (A. Graves et al., "Connectionist temporal classification", ICML 2006), as in L. Kürzinger et al.,
"CTC-segmentation of large corpora for German end-to-end speech recognition", SPECOM 2020, whose confidence, that of the worst
stretch, is used as well. Between words, the word delimiter counts as a blank, and neither is required.

No weights are shipped. Any wav2vec 2.0, HuBERT, WavLM, MMS or similar model with a character vocabulary can be used.
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

from prosody_tagger.errors import BadInput, ModelError, first_line
from prosody_tagger.markup import MarkedText, plain
from synth.acoustics import dtw
from synth.acoustics.align import Alignment, check_recording, unaligned
from synth.audio.signal import resample
from synth.base import Audio, WordTime
from synth.normalisation import SpokenWord, spoken_words

Values = NDArray[np.float32]
Indices = NDArray[np.int64]

_BLANK, _GAP, _FIRST = 0, 1, 2  # columns of the emissions: the blank, blank or delimiter between words, the first character
_WINDOW, _CONTEXT = 1000, 100  # frames of one forward pass and of its context on either side; even, as some networks halve the rate
_FAR = np.float32(1e30)
_LOWEST = np.float32(-30.0)  # clip of the log-probabilities, so that float32 sums stay exact enough
_LEAST = 0.01  # floor of a frame's probability in the confidence, so that a single frame cannot dominate it
_STRETCH_SECONDS = 5.0  # the stretch whose mean gives the confidence of the whole

_CONFIG_FILES = "*.json", "*.txt"  # configuration and vocabulary of a checkpoint on the hub
_WEIGHT_FILES = "model*.safetensors", "pytorch_model*.bin"  # its weights, in the formats that transformers reads
_HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The characters that a network distinguishes, and their columns in its output.

    Attributes:
        ids: the column of each character.
        blank: the column of the blank.
        delimiter: the column of the word delimiter, or None if the network writes none.
    """

    ids: Mapping[str, int]
    blank: int
    delimiter: int | None = None

    def spell(self, character: str) -> list[int]:
        """Return the columns of a character, in the case that the network writes or else without accents; [] if unknown."""
        bare = unicodedata.normalize("NFKD", character.replace("’", "'"))
        for form in (character, character.lower(), character.upper(), character.casefold(), bare, bare.lower(), bare.upper()):
            known = [self.ids[part] for part in form if part in self.ids]
            if known:
                return known
        return []


class _Spelling(NamedTuple):
    """The characters of a text.

    Attributes:
        ids: the network's column of each character, shape [n].
        owner: the index of the word that each belongs to, shape [n].
        between: `_BLANK` or `_GAP` before each character and after the last, shape [n + 1].
    """

    ids: Indices
    owner: Indices
    between: Indices


class CtcAligner:
    """An aligner with a CTC network. `load` creates one; it is immutable after that, so threads may share it."""

    def __init__(self, network: Any, extractor: Any, vocabulary: Vocabulary) -> None:
        """Use a transformers CTC network with the feature extractor that it was trained with and its vocabulary."""
        self.vocabulary = vocabulary
        self._network = network
        self._extractor = extractor
        self.rate: int = extractor.sampling_rate
        """Sample rate of the network's input, Hz."""
        self._hop, self._field = _hop_and_field(network.config)

    @classmethod
    def load(cls, source: str | Path) -> "CtcAligner":
        """Load a checkpoint from its folder or by its hub name, onto the GPU if there is one.

        A checkpoint in the hub's local cache is loaded without a network connection.

        Raises:
            ModelError: it is missing or broken; it is no CTC model of the wav2vec 2.0 family, not trained for CTC, or has no
                character vocabulary; or it is not in the cache and cannot be downloaded.
        """
        name = str(source)
        if os.path.isdir(name):
            folder = name
        elif _is_path(source):
            raise ModelError(f"no folder {name[:200]!r}; give the folder of a CTC model or its hub name")
        else:
            folder = _hub_snapshot(name)
        import torch
        from transformers import AutoFeatureExtractor, AutoTokenizer

        with _quiet_transformers():
            network = _load_network(name, folder)
            tokenizer = _load_part(name, folder, AutoTokenizer, "tokenizer (its vocabulary)")
            extractor = _load_part(name, folder, AutoFeatureExtractor, "feature extractor (preprocessor_config.json)")
        vocabulary = _vocabulary(name, tokenizer, network.config.vocab_size)
        if getattr(extractor, "model_input_names", [""])[0] != "input_values" or not hasattr(network.config, "conv_stride"):
            raise ModelError(
                f"the model {name!r} does not take samples as input as wav2vec 2.0 does; give a wav2vec 2.0, HuBERT or MMS model"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(network.to(device).eval(), extractor, vocabulary)

    def align(self, audio: Audio, text: str | MarkedText, *, language: str | None = None) -> Alignment:
        """Find the words of ``text`` in ``audio``, as `synth.acoustics.align.align` does.

        A word extends from the first frame of its first character to the last frame of its last; its confidence is the geometric
        mean of the probabilities of its frames. The confidence of the whole is the lower of two values: the mean confidence of
        the words, and the geometric mean over the worst 5 seconds. A word without any character that the network knows has no
        length and confidence 0. Numbers and the like are aligned in their spoken form.

        Args:
            audio: speech. Time grows with its length, memory hardly does.
            text: its transcript. Marks make no difference.
            language: a BCP 47 tag for verbalising numbers; None is the default of `synth.normalisation.spoken_words`.

        Raises:
            BadInput: no samples, hours of them, several channels, NaN or infinity; no words.
            ModelError: the network's output is NaN, or has another number of frames than its configuration says.
        """
        check_recording(audio)
        marked = plain(text) if isinstance(text, str) else text
        spoken = spoken_words(marked) if language is None else spoken_words(marked, language)
        if not spoken:
            raise BadInput(f"there are no words in {marked.text[:40]!r}; give the transcript of the recording")
        spelling = _spelling(spoken, self.vocabulary)
        samples = self._network_input(audio)
        frames = max(0, (len(samples) - self._field) // self._hop + 1)
        if not len(spelling.ids) or frames < _fewest_frames(spelling.ids):
            return unaligned(marked.text, [item.word for item in spoken], audio.seconds)
        columns, labels = np.unique(spelling.ids, return_inverse=True)
        emissions = self._emissions(samples, frames, columns)
        path = best_path(emissions, labels + _FIRST, spelling.between)
        owners = np.full(2 * len(labels) + 1, -1)
        owners[1::2] = spelling.owner
        return self._alignment(marked.text, spoken, owners[path.states], path.costs, audio.seconds)

    def _network_input(self, audio: Audio) -> Values:
        """Return the network's input, shape [samples]: at its rate, and normalised if the network was trained that way."""
        peak = np.float32(np.abs(audio.samples).max()) or np.float32(1.0)
        resampled = resample(Audio((audio.samples / peak).astype(np.float32), audio.rate), self.rate)
        values = self._extractor(resampled.samples, sampling_rate=self.rate, return_tensors="np")["input_values"][0]
        return np.asarray(values, np.float32)

    def _emissions(self, samples: Values, frames: int, columns: Indices) -> Values:
        """Return the log-probabilities of the blank, the gap and the characters ``columns``, shape [frames, 2 + characters]."""
        emissions = np.empty((frames, _FIRST + len(columns)), np.float32)
        blank, delimiter = self.vocabulary.blank, self.vocabulary.delimiter
        for first in range(0, frames, _WINDOW):
            last = min(first + _WINDOW, frames)
            low, high = max(0, first - _CONTEXT), min(frames, last + _CONTEXT)
            part = samples[low * self._hop : (high - 1) * self._hop + self._field]
            log_probs = self._log_probabilities(part, high - low)[first - low : last - low]
            target = emissions[first:last]
            target[:, _BLANK] = log_probs[:, blank]
            target[:, _GAP] = (
                log_probs[:, blank] if delimiter is None else np.logaddexp(log_probs[:, blank], log_probs[:, delimiter])
            )
            target[:, _FIRST:] = log_probs[:, columns]
        return np.maximum(emissions, _LOWEST, out=emissions)

    def _log_probabilities(self, samples: Values, frames: int) -> Values:
        """Return the network's log-probabilities from one forward pass, shape [frames, vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(samples)[None].to(self._network.device)).logits[0]
            log_probs: Values = logits.float().log_softmax(-1).cpu().numpy()
        if len(log_probs) != frames:
            raise ModelError(
                f"the model gives {len(log_probs)} frames where its configuration says {frames}, so word times cannot be computed; "
                "give another model"
            )
        if np.isnan(log_probs).any():
            raise ModelError("the model gives probabilities that are NaN; its weights are broken, fetch them again")
        return log_probs

    def _alignment(self, text: str, spoken: Sequence[SpokenWord], owners: Indices, costs: Values, seconds: float) -> Alignment:
        """Return the words' times and confidences, from each frame's word (-1 is none) and its negative log-probability."""
        costs = np.minimum(costs, np.float32(-math.log(_LEAST)))
        frames = np.flatnonzero(owners >= 0)
        owner = owners[frames]
        counts = np.bincount(owner, minlength=len(spoken))
        confidences = np.exp(-np.bincount(owner, costs[frames], len(spoken)) / np.maximum(counts, 1))
        confidences[counts == 0] = 0.0
        stops = np.cumsum(counts)
        margin = (self._field - self._hop) / 2  # a frame is centred in its receptive field
        times: list[WordTime] = []
        end = 0.0
        for item, count, stop, confidence in zip(spoken, counts.tolist(), stops.tolist(), confidences.tolist(), strict=True):
            start = end
            if count:
                start = min((int(frames[stop - count]) * self._hop + margin) / self.rate, seconds)
                end = min(((int(frames[stop - 1]) + 1) * self._hop + margin) / self.rate, seconds)
            times.append(WordTime(item.word.core(text), item.word.core_start, start, end, confidence))
        # A word without frames does not count in the mean.
        mean = float(confidences[counts > 0].mean()) if counts.any() else 0.0
        worst = math.exp(-_worst_mean(costs, round(_STRETCH_SECONDS * self.rate / self._hop)))
        return Alignment(tuple(times), min(mean, worst))


def best_path(emissions: Values, labels: Indices, between: Indices) -> dtw.WarpingPath:
    """Return the most probable path that spells ``labels``, each for one frame or more, with optional blanks between them.

    Two equal labels in a row have a blank between them. The path is exact for fewer than `dtw.WINDOW` / 2 labels; for more, the
    search is limited to a window that follows the path, and memory stays bounded.

    Args:
        emissions: finite log-probabilities, float32 of shape [frames, columns].
        labels: the column of each label, shape [n].
        between: the column of the blank before each label and after the last, shape [n + 1].

    Returns:
        For each frame the state, where 2 i + 1 is label i and 2 i the blank before it, and the negative log-probability.
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
    """Return the least number of frames that can spell the text: one for each character, and a blank between equal ones."""
    return len(ids) + int(np.count_nonzero(ids[1:] == ids[:-1]))


def _worst_mean(costs: Values, width: int) -> float:
    """Return the highest mean of ``width`` consecutive costs, or of all if there are fewer."""
    width = min(width, len(costs))
    sums = np.cumsum(np.concatenate([[0.0], costs]))
    return float((sums[width:] - sums[:-width]).max() / width)


def _spelling(spoken: Sequence[SpokenWord], vocabulary: Vocabulary) -> _Spelling:
    """Return the spoken text in the characters that the network knows. White space and dashes separate words."""
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


def _hop_and_field(config: Any) -> tuple[int, int]:
    """Return the samples from one frame to the next, and those in the receptive field of the convolutions."""
    hop = field = 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field


def _is_path(source: str | Path) -> bool:
    """Return whether a source that is not a folder was meant as a path: a hub name is OWNER/NAME or NAME."""
    return isinstance(source, Path) or os.path.exists(source) or source.startswith((".", "~", os.sep)) or source.count("/") > 1


def _hub_snapshot(name: str) -> str:
    """Return the local folder of a model on the hub; download what the cache lacks.

    The hub is contacted once; transformers would retry for half a minute.
    """
    from huggingface_hub import HfApi, snapshot_download

    with suppress(FileNotFoundError, ValueError):  # ValueError: not a valid hub name; the error below says so in the hub's words
        cached = snapshot_download(name, local_files_only=True, allow_patterns=list(_CONFIG_FILES))
        if any(path.match(pattern) for path in Path(cached).iterdir() for pattern in _WEIGHT_FILES):
            return cached
    try:
        files = [file.rfilename for file in HfApi().model_info(name, timeout=_HUB_TIMEOUT).siblings or ()]
        # Many models hold the same weights in both formats; the first one is enough.
        weights = [pattern for pattern in _WEIGHT_FILES if any(Path(file).match(pattern) for file in files)][:1]
        return snapshot_download(name, allow_patterns=[*_CONFIG_FILES, *weights])
    except Exception as error:
        raise ModelError(
            f"the CTC model {name[:200]!r} is neither a folder nor in the hub's cache, and downloading it failed: "
            f"{first_line(error, 300)}; give the folder of a checkpoint, or a hub name with a network connection"
        ) from None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Suppress transformers' progress bars and its report of weights that only training needs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _load_network(name: str, folder: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCTC

    config = _load_part(name, folder, AutoConfig, "configuration (config.json)")
    if type(config) not in AutoModelForCTC._model_mapping:
        raise ModelError(f"the model {name!r} is {config.model_type}, not a CTC model; give a wav2vec 2.0, HuBERT or MMS model")
    try:
        network, loaded = AutoModelForCTC.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise ModelError(f"cannot load the CTC model {name!r}: {first_line(error, 300)}; fetch it again, or give another") from None
    untrained = sorted(key for key in loaded["missing_keys"] if key.startswith("lm_head"))
    if untrained:
        raise ModelError(f"the model {name!r} was not trained to write text: it lacks {untrained[0]}; give one fine-tuned with CTC")
    return network


def _load_part(name: str, folder: str, kind: Any, what: str) -> Any:
    """Load a part of the checkpoint with the transformers class ``kind``."""
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"cannot load the {what} of the CTC model {name!r}: {first_line(error, 300)}; "
            "give the folder of a complete checkpoint or its hub name"
        ) from None


def _vocabulary(name: str, tokenizer: Any, size: int) -> Vocabulary:
    """Return the tokenizer's single characters, without special tokens."""
    tokens: dict[str, int] = tokenizer.get_vocab()
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = {delimiter, *tokenizer.all_special_tokens}
    ids = {token: index for token, index in tokens.items() if len(token) == 1 and token not in special and index < size}
    blank = tokenizer.pad_token_id
    if blank is None or blank >= size or not any(token.isalpha() for token in ids):
        raise ModelError(f"the model {name!r} has no vocabulary of single characters with a blank; give one that writes letters")
    between = tokens.get(delimiter) if delimiter is not None else None
    return Vocabulary(ids, int(blank), between if between is not None and between < size else None)
