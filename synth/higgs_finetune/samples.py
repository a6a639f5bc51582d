"""Held-out rows spoken by the model that is being trained, and what can be measured of them."""

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
from synth.higgs_finetune.examples import IGNORED, Example
from synth.higgs_finetune.manifest import Row
from synth.higgs_local.batch import Batch
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.kv_cache import Places
from synth.higgs_local.prompt import Prompt
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.step_runner import Runner

if TYPE_CHECKING:
    import torch

Compare = Callable[[Audio, Audio], float]
"""How alike two voices are: the cosine of their embeddings."""

_LONGER = 2  # a clip is cut when it is so many times as long as the recording, and
_MORE_FRAMES = 25  # so many frames more
_WINDOW_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Said:
    """What a row was answered with: codes [n, codebooks], and whether it had to be cut off."""

    codes: "torch.Tensor"
    cut: bool


def prompt_of(example: Example, config: Any) -> Prompt:
    """What the model is given of an example before it has to speak. The example must have audio to learn."""
    learnt = (example.audio_labels != IGNORED).any(1).nonzero()
    start = int(learnt[0]) - 1  # the stream's BOS is given, and not learnt
    ids = example.input_ids
    places = ((ids == config.audio_token_id) | (ids == config.audio_delay_token_id)).nonzero()
    return Prompt(ids[: int(places[start])], example.audio_ids[:start])


def frames_of(example: Example, config: Any) -> int:
    """How many frames the recording has that an example learns."""
    first = example.audio_labels[:, 0]
    codes = (first != IGNORED) & (first < min(config.audio_stream_bos_id, config.audio_stream_eos_id))
    return int(codes.sum())


def speak(model: Any, examples: Sequence[Example], sampling: Sampling) -> list[Said]:
    """Have ``model`` answer examples with audio, by the loop that the local backend speaks with.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``, with or without PEFT's layers in it. Its dropout is off meanwhile.
    """
    import torch

    config = model.config

    def places() -> Places:
        return Places.empty(config, len(examples), model.device, model.dtype)

    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            batch = Batch(model, Runner(model, "eager"), len(examples), places, lambda _: None)
            for example in examples:
                batch.add(prompt_of(example, config), sampling, _LONGER * frames_of(example, config) + _MORE_FRAMES)
            while batch.running:
                batch.step()
    finally:
        model.train(was_training)
    return [Said(batch.codes(row), batch.cut(row)) for row in range(len(examples))]


class Samples:
    """Speaks the same rows at every evaluation, keeps the sound, and measures it.

    Args:
        rows: those with audio, and their examples.
        codec: makes sound of codes.
        folder: where the sound goes, a folder a step.
        compare: speaker similarity; None leaves it out.
    """

    def __init__(self, rows: Sequence[tuple[Row, Example]], codec: Codec, folder: Path, compare: Compare | None) -> None:
        self._rows, self._codec, self._folder, self._compare = rows, codec, folder, compare
        defaults = HiggsLocalSettings()
        self._sampling = Sampling(
            defaults.temperature, defaults.top_p, defaults.top_k, defaults.ras_window, defaults.ras_repeats, seed=0
        )

    def __call__(self, model: Any, step: int) -> list[dict[str, Any]]:
        """Figures of each row."""
        from synth.audio.encoding import encode

        folder = self._folder / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number, (said, (row, example)) in enumerate(
            zip(speak(model, [example for _, example in self._rows], self._sampling), self._rows, strict=True)
        ):
            figures: dict[str, Any] = {"row": row.source, "ended": not said.cut, "seconds": 0.0}
            figures["recorded_seconds"] = frames_of(example, model.config) * self._codec.hop / self._codec.rate
            if len(said.codes):
                audio = self._codec.decode(said.codes)
                path = folder / f"{number}.wav"
                path.write_bytes(encode(audio, "wav"))
                figures |= {"file": path.name, **self._measured(audio, row)}
            found.append(figures)
        return found

    def _measured(self, audio: Audio, row: Row) -> dict[str, Any]:
        figures: dict[str, Any] = {"seconds": audio.seconds, "silence": silence_share(audio)}
        like = next((turn.clip for turn in reversed(row.references) if turn.clip is not None), row.clip)
        if self._compare is not None and like is not None:
            similarity = self._compare(audio, _read(like))
            if math.isfinite(similarity):  # silence has no voice
                figures["similarity"] = similarity
        if row.text.marks:
            figures |= realised(audio, row.text)
        return figures


def silence_share(audio: Audio) -> float:
    """How much of a clip is silence, 0 to 1: 10 ms windows more than 40 dB below its 95th percentile, or with nothing in them."""
    window = max(1, round(_WINDOW_SECONDS * audio.rate))
    whole = len(audio.samples) // window * window
    if not whole:
        return 1.0
    rms = np.sqrt(np.mean(audio.samples[:whole].reshape(-1, window).astype(np.float64) ** 2, axis=1))
    return float(np.mean(rms <= silence_level(audio)))


def realised(audio: Audio, marked: MarkedText) -> dict[str, Any]:
    """How many of the marks are heard, of how many; why none could be looked for, if so."""
    from synth.acoustics.align import align
    from synth.acoustics.measure import measure
    from synth.acoustics.reference_reading import read_plainly
    from synth.embedded.backend import EmbeddedVoice

    async def look() -> dict[str, Any]:
        voice = EmbeddedVoice()
        found = await align(audio, marked, voice)
        if not found.trusted:
            return {"marks": len(marked.marks), "realised": 0, "note": "what is said is not the text"}
        reading = await read_plainly(marked.text, voice)
        report = measure(audio, marked, found.words, reading=reading)
        return {"marks": report.asked, "realised": report.realised}

    try:
        return asyncio.run(look())
    except ProsodyError as error:
        return {"marks": len(marked.marks), "realised": 0, "note": str(error)}


def resemblyzer() -> Compare:
    """Speaker similarity by Resemblyzer: the cosine of its embeddings (Wan et al., 2018), on the processor.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it is built on
            from resemblyzer import VoiceEncoder
            from resemblyzer.hparams import sampling_rate
    except ImportError as error:
        raise BackendUnavailable(
            f"speaker similarity needs Resemblyzer ({error}); install the extra: {install_command('eval')}"
        ) from None
    encoder = VoiceEncoder("cpu", verbose=False)

    def compare(one: Audio, other: Audio) -> float:
        a, b = (encoder.embed_utterance(resample(audio, sampling_rate).samples) for audio in (one, other))
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    return compare


def _read(path: Path) -> Audio:
    from synth.audio.decoding import decode

    return decode(path.read_bytes())
