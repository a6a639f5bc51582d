"""Speech generated from held-out rows by the model in training, and its measurements."""

import asyncio
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosody_tagger.errors import ProsodyError
from prosody_tagger.extras import install_command
from prosody_tagger.markup import MarkedText
from synth.audio.signal import resample, silence_level
from synth.base import Audio
from synth.errors import BackendUnavailable
from synth.higgs_finetune.chatml import ManifestRow
from synth.higgs_finetune.examples import IGNORED, TrainingExample
from synth.higgs_local.batch import DecodingBatch
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.kv_cache import KVCache
from synth.higgs_local.prompt import Prompt
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.step_runner import StepRunner

if TYPE_CHECKING:
    import torch

SpeakerSimilarity = Callable[[Audio, Audio], float]
"""Returns how alike two voices are: the cosine of their speaker embeddings, -1 to 1."""

# A sample is cut off after twice the frames of the recording and a second (25 frames) more.
_MAX_LENGTH_RATIO = 2
_EXTRA_FRAMES = 25
_WINDOW_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class GeneratedCodes:
    """Codes int64 [n, codebooks] that the model generated, and whether it was cut off before it stopped by itself."""

    codes: "torch.Tensor"
    cut: bool


def generation_prompt(example: TrainingExample, config: Any) -> Prompt:
    """Return the part of an example before its learnt audio. The example must have such audio."""
    learnt = (example.audio_labels != IGNORED).any(1).nonzero()
    start = int(learnt[0]) - 1  # the BOS frame before the first learnt frame is the model's first output
    ids = example.input_ids
    placeholders = ((ids == config.audio_token_id) | (ids == config.audio_delay_token_id)).nonzero()
    return Prompt(ids[: int(placeholders[start])], example.audio_ids[:start])


def learnt_frames(example: TrainingExample, config: Any) -> int:
    """Return the number of frames of the recording that an example learns."""
    first = example.audio_labels[:, 0]
    codes = (first != IGNORED) & (first < min(config.audio_stream_bos_id, config.audio_stream_eos_id))
    return int(codes.sum())


def generate_codes(model: Any, examples: Sequence[TrainingExample], sampling: Sampling) -> list[GeneratedCodes]:
    """Generate audio answers to examples, with the decoding loop of the local backend.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``, with or without PEFT's layers in it. Dropout is off during the call.
        examples: examples whose answer is audio.
        sampling: sampling parameters.
    """
    import torch

    config = model.config

    def cache() -> KVCache:
        return KVCache.empty(config, len(examples), model.device, model.dtype)

    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            batch = DecodingBatch(model, StepRunner(model, "eager"), len(examples), cache, lambda _: None)
            for example in examples:
                max_frames = _MAX_LENGTH_RATIO * learnt_frames(example, config) + _EXTRA_FRAMES
                batch.add(generation_prompt(example, config), sampling, max_frames)
            while batch.running:
                batch.step()
    finally:
        model.train(was_training)
    return [GeneratedCodes(batch.codes(row), batch.cut(row)) for row in range(len(examples))]


class SampleGenerator:
    """Generates speech for the same rows at every evaluation, writes it to WAV files and measures it.

    Args:
        rows: rows whose answer is audio, with their examples.
        codec: decodes the generated codes.
        folder: folder of the WAV files, with a folder for each step.
        similarity: measures speaker similarity; None leaves it out.
    """

    def __init__(
        self,
        rows: Sequence[tuple[ManifestRow, TrainingExample]],
        codec: Codec,
        folder: Path,
        similarity: SpeakerSimilarity | None,
    ) -> None:
        self._rows, self._codec, self._folder, self._similarity = rows, codec, folder, similarity
        defaults = HiggsLocalSettings()
        self._sampling = Sampling(
            defaults.temperature, defaults.top_p, defaults.top_k, defaults.ras_window, defaults.ras_repeats, seed=0
        )

    def __call__(self, model: Any, step: int) -> list[dict[str, Any]]:
        """Return the metrics of each sample, by the names of the metrics log."""
        from synth.audio.encoding import encode

        folder = self._folder / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        generated = generate_codes(model, [example for _, example in self._rows], self._sampling)
        for number, (sample, (row, example)) in enumerate(zip(generated, self._rows, strict=True)):
            metrics: dict[str, Any] = {"row": row.source, "ended": not sample.cut, "seconds": 0.0}
            metrics["recorded_seconds"] = learnt_frames(example, model.config) * self._codec.hop / self._codec.rate
            if len(sample.codes):
                audio = self._codec.decode(sample.codes)
                path = folder / f"{number}.wav"
                path.write_bytes(encode(audio, "wav"))
                metrics |= {"file": path.name, **self._measure(audio, row)}
            results.append(metrics)
        return results

    def _measure(self, audio: Audio, row: ManifestRow) -> dict[str, Any]:
        metrics: dict[str, Any] = {"seconds": audio.seconds, "silence": silence_share(audio)}
        reference = next((turn.clip for turn in reversed(row.references) if turn.clip is not None), row.clip)
        if self._similarity is not None and reference is not None:
            similarity = self._similarity(audio, _read_audio(reference))
            if math.isfinite(similarity):  # it is NaN for silence, which has no embedding
                metrics["similarity"] = similarity
        if row.text.marks:
            metrics |= count_realised_marks(audio, row.text)
        return metrics


def silence_share(audio: Audio) -> float:
    """Return the share of a clip that is silence, 0 to 1: 10 ms windows more than 40 dB below its 95th percentile, or all zero."""
    window = max(1, round(_WINDOW_SECONDS * audio.rate))
    usable = len(audio.samples) // window * window
    if not usable:
        return 1.0
    rms = np.sqrt(np.mean(audio.samples[:usable].reshape(-1, window).astype(np.float64) ** 2, axis=1))
    return float(np.mean(rms <= silence_level(audio)))


def count_realised_marks(audio: Audio, marked: MarkedText) -> dict[str, Any]:
    """Return the metrics ``marks`` and ``realised``, and a ``note`` if the marks could not be measured."""
    from synth.acoustics.align import align
    from synth.acoustics.measure import measure
    from synth.acoustics.reference_reading import read_plainly
    from synth.embedded.backend import EmbeddedVoice

    async def measure_marks() -> dict[str, Any]:
        backend = EmbeddedVoice()
        alignment = await align(audio, marked, backend)
        if not alignment.trusted:
            return {"marks": len(marked.marks), "realised": 0, "note": "the speech does not match the text"}
        reading = await read_plainly(marked.text, backend)
        report = measure(audio, marked, alignment.words, reading=reading)
        return {"marks": report.asked, "realised": report.realised}

    try:
        return asyncio.run(measure_marks())
    except ProsodyError as error:
        return {"marks": len(marked.marks), "realised": 0, "note": str(error)}


def load_resemblyzer() -> SpeakerSimilarity:
    """Return Resemblyzer's speaker similarity on the CPU: the cosine of its embeddings (Wan et al., 2018).

    Raises:
        BackendUnavailable: Resemblyzer is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in Resemblyzer's own dependencies
            from resemblyzer import VoiceEncoder
            from resemblyzer.hparams import sampling_rate
    except ImportError as error:
        raise BackendUnavailable(
            f"speaker similarity needs Resemblyzer ({error}); install the extra: {install_command('eval')}"
        ) from None
    encoder = VoiceEncoder("cpu", verbose=False)

    def similarity(first: Audio, second: Audio) -> float:
        a, b = (encoder.embed_utterance(resample(audio, sampling_rate).samples) for audio in (first, second))
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    return similarity


def _read_audio(path: Path) -> Audio:
    from synth.audio.decoding import decode

    return decode(path.read_bytes())
