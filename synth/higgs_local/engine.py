"""A loaded Higgs model: text to prompt, prompt to codes, codes to audio. It knows no queue and reads no adapter."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosody_tagger.markup import MarkedText
from synth.audio.decoding import decode
from synth.audio.signal import resample
from synth.base import Audio, Reference
from synth.errors import BackendUnavailable, RefusedRequest
from synth.higgs_local.batch import DecodingBatch, room_after
from synth.higgs_local.checkpoint import HiggsCheckpoint, load_checkpoint
from synth.higgs_local.codec_stream import Codec, CodecStream
from synth.higgs_local.kv_cache import KVCache
from synth.higgs_local.prompt import Context, Prompt, PromptWriter
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.step_runner import DecodeMode, StepRunner
from synth.reference import MAX_SECONDS

if TYPE_CHECKING:
    import torch

__all__ = ["CodecStream", "Context", "DecodingBatch", "HiggsEngine", "Prompt", "Sampling"]

_MIN_SECONDS = 10.0  # of audio that must fit after a prompt
_MAX_REFERENCES = 32  # recordings whose codes are cached


class HiggsEngine:
    """One model on one device. Not thread-safe: the worker owns it.

    Attributes:
        settings: what it was loaded with.
        model: the transformers model. An adapter changes its weights in place, because CUDA graphs read them at fixed addresses.
        tokenizer: its tokenizer.
        folder: where the model's files are.
        codec: its codec.
        rate: sample rate, Hz.
        frames_per_second: frames of codes per second of audio.
    """

    model: Any
    tokenizer: Any
    folder: Path
    codec: Codec

    def __init__(self, checkpoint: HiggsCheckpoint, settings: HiggsLocalSettings) -> None:
        self.settings = settings
        self.model, self.tokenizer, self.folder = checkpoint.model, checkpoint.tokenizer, checkpoint.folder
        self.codec = Codec(checkpoint.codec)
        self.rate = self.codec.rate
        self.frames_per_second = self.codec.rate / self.codec.hop
        self._writer = PromptWriter(checkpoint.tokenizer, self.model.config)
        self._runner = StepRunner(self.model, _mode(settings, self.model.device.type))
        self._free_caches: list[KVCache] = []
        self._references: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def load(cls, settings: HiggsLocalSettings) -> "HiggsEngine":
        """Load model and codec.

        Raises:
            BackendUnavailable: the checkpoint is missing, unreachable, in the old format or incomplete; there is no GPU, or too
                little memory.
        """
        return cls(load_checkpoint(settings), settings)

    def warm_up(self) -> None:
        """Compile and capture every step that the settings need, so that no request waits for it; about a minute on a GPU.

        Raises:
            BackendUnavailable: the memory is full.
        """
        import torch

        with torch.inference_mode():
            cache = self._take_cache()
            self._runner.prepare(cache, self.sampling().candidates(self.model.config.codebook_size))
            self._free_caches.append(cache)

    def prompt(
        self,
        text: MarkedText | str,
        *,
        reference: Reference | None = None,
        context: Context | None = None,
        mark_ids: Mapping[str, int] | None = None,
    ) -> Prompt:
        """Return the prompt that makes the model speak ``text``.

        Control tokens, and text that looks like one, are removed from text, transcript and context. A context that exceeds the
        settings' ``context_seconds``, or leaves too little room, is omitted.

        Args:
            text: the text, with marks of kinds in ``mark_ids``.
            reference: recording of the voice to imitate.
            context: the sentence before.
            mark_ids: token id of each kind of mark.

        Raises:
            ValueError: a mark whose kind is not in ``mark_ids``.
            RefusedRequest: text and recording are too long for the model.
        """
        voice = [Context(reference.text, self._reference_codes(reference))] if reference else []
        before = [context] if context and 0 < len(context.codes) <= self.settings.context_seconds * self.frames_per_second else []
        for turns in ([*voice, *before], voice):
            prompt = self._writer.write(
                text, scene=self.settings.scene, speakers=self.settings.speakers, turns=turns, mark_ids=mark_ids or {}
            )
            room = room_after(len(prompt), self.model.config)
            if room >= _MIN_SECONDS * self.frames_per_second:
                return prompt
        raise RefusedRequest(
            f"text and recording take {len(prompt)} of the {self.model.config.max_position_embeddings} positions that the model "
            "has, which leaves too few for the answer; give a shorter text or a shorter recording"
        )

    def sampling(self, seed: int | None = None) -> Sampling:
        """Return the sampling of the settings with ``seed``."""
        settings = self.settings
        return Sampling(settings.temperature, settings.top_p, settings.top_k, settings.ras_window, settings.ras_repeats, seed)

    def start(self, prompts: Sequence[Prompt], samplings: Sequence[Sampling], frames: Sequence[int]) -> DecodingBatch:
        """Start a batch in which row i continues ``prompts[i]`` for at most ``frames[i]`` frames.

        Raises:
            RefusedRequest: a prompt fills the model's longest sequence.
            RuntimeError: more prompts than the settings' ``max_batch``.
            BackendUnavailable: the memory is full.
        """
        batch = DecodingBatch(self.model, self._runner, self.settings.max_batch, self._take_cache, self._free_caches.append)
        try:
            for prompt, sampling, limit in zip(prompts, samplings, frames, strict=True):
                batch.add(prompt, sampling, limit)
        except BaseException:
            batch.close()
            raise
        return batch

    def stream(self) -> CodecStream:
        """Return a new decoder from codes to audio, with the chunk lengths of the settings."""
        return CodecStream(self.codec, self.settings.first_frames, self.settings.chunk_frames)

    def decode(self, codes: "torch.Tensor") -> Audio:
        """Return the audio of ``codes``, int64 [frames, codebooks]."""
        return self.codec.decode(codes)

    def _take_cache(self) -> KVCache:
        """Return a KV cache that no batch uses.

        Raises:
            BackendUnavailable: the memory is full.
        """
        if self._free_caches:
            return self._free_caches.pop()
        import torch

        native = self.model
        try:
            return KVCache.empty(native.config, self.settings.max_batch, native.device, native.dtype)
        except torch.cuda.OutOfMemoryError:
            raise BackendUnavailable(
                f"there is not enough memory on {native.device} for {self.settings.max_batch} requests at once; lower max_batch"
            ) from None

    def _reference_codes(self, reference: Reference) -> "torch.Tensor":
        """Return the codes of a recording, int64 [frames, codebooks], from the cache if it was used recently."""
        codes = self._references.get(reference.digest)
        if codes is None:
            audio = resample(decode(reference.audio, reference.audio_format, max_seconds=MAX_SECONDS), self.rate)
            padding = -len(audio.samples) % self.codec.hop
            codes = self.codec.encode(Audio(np.pad(audio.samples, (0, padding)), self.rate))
            self._references[reference.digest] = codes
            if len(self._references) > _MAX_REFERENCES:
                self._references.popitem(last=False)
        self._references.move_to_end(reference.digest)
        return codes


def _mode(settings: HiggsLocalSettings, device: str) -> DecodeMode:
    if settings.decode == "auto":
        return "compile" if device == "cuda" else "eager"
    if settings.decode != "eager" and device != "cuda":
        raise BackendUnavailable(f"decode {settings.decode} needs a GPU and the model is on {device}; leave decode at auto")
    return settings.decode
