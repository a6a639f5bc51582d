"""A loaded Higgs model: texts to prompts, prompts to codes, codes to sound. It knows nothing of queues or adapters' files."""

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
from synth.higgs_local.batch import Batch, room_after
from synth.higgs_local.checkpoint import Checkpoint, load_checkpoint
from synth.higgs_local.codec_stream import Codec, CodecStream
from synth.higgs_local.kv_cache import Places
from synth.higgs_local.prompt import Context, Prompt, PromptWriter
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.step_runner import Mode, Runner
from synth.reference import MAX_SECONDS

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "CodecStream", "Context", "Engine", "Prompt", "Sampling"]

_LEAST_SECONDS = 10.0  # of speech that a prompt must leave room for
_REFERENCES = 32  # voices whose codes are kept


class Engine:
    """One model on one device. It is not for two threads at once: its worker owns it.

    Attributes:
        settings: what it was loaded with.
        model: the transformers model. An adapter changes its weights where they are: recorded steps read them there.
        tokenizer: its tokenizer.
        folder: where the model's files are.
        codec: its codec.
        rate: of the sound, Hz.
        frames_per_second: of the codes.
    """

    model: Any
    tokenizer: Any
    folder: Path
    codec: Codec

    def __init__(self, checkpoint: Checkpoint, settings: HiggsLocalSettings) -> None:
        self.settings = settings
        self.model, self.tokenizer, self.folder = checkpoint.model, checkpoint.tokenizer, checkpoint.folder
        self.codec = Codec(checkpoint.codec)
        self.rate = self.codec.rate
        self.frames_per_second = self.codec.rate / self.codec.hop
        self._writer = PromptWriter(checkpoint.tokenizer, self.model.config)
        self._runner = Runner(self.model, _mode(settings, self.model.device.type))
        self._free: list[Places] = []
        self._references: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def load(cls, settings: HiggsLocalSettings) -> "Engine":
        """Load model and codec.

        Raises:
            BackendUnavailable: not there, not reachable, of the old form, incomplete, no GPU, or too little memory.
        """
        return cls(load_checkpoint(settings), settings)

    def warm_up(self) -> None:
        """Compile and record all that decoding by the settings needs, so that no request waits for it: a minute or so on a GPU.

        Raises:
            BackendUnavailable: the memory is full.
        """
        import torch

        with torch.inference_mode():
            places = self._take()
            self._runner.prepare(places, self.sampling().candidates(self.model.config.codebook_size))
            self._free.append(places)

    def prompt(
        self,
        text: MarkedText | str,
        *,
        reference: Reference | None = None,
        context: Context | None = None,
        mark_ids: Mapping[str, int] | None = None,
    ) -> Prompt:
        """``text`` as the model reads it: each of its marks becomes the token that ``mark_ids`` has for its kind.

        What is or looks like a control token within text, transcript and context is taken out. A context that is longer than the
        settings allow, or too long beside the text, is left out.

        Raises:
            ValueError: a mark whose kind is not in ``mark_ids``; those are lowered before.
            RefusedRequest: text and recording are too long for the model.
        """
        voice = [Context(reference.text, self._reference_codes(reference))] if reference else []
        before = [context] if context and 0 < len(context.codes) <= self.settings.context_seconds * self.frames_per_second else []
        for turns in ([*voice, *before], voice):
            prompt = self._writer.write(
                text, scene=self.settings.scene, speakers=self.settings.speakers, turns=turns, mark_ids=mark_ids or {}
            )
            room = room_after(len(prompt), self.model.config)
            if room >= _LEAST_SECONDS * self.frames_per_second:
                return prompt
        raise RefusedRequest(
            f"text and recording take {len(prompt)} of the {self.model.config.max_position_embeddings} positions that the model "
            "has, which leaves too few to speak in; give a shorter text or a shorter recording"
        )

    def sampling(self, seed: int | None = None) -> Sampling:
        """The settings' sampling with a seed of its own."""
        settings = self.settings
        return Sampling(settings.temperature, settings.top_p, settings.top_k, settings.ras_window, settings.ras_repeats, seed)

    def start(self, prompts: Sequence[Prompt], samplings: Sequence[Sampling], frames: Sequence[int]) -> Batch:
        """Begin to decode ``prompts`` together; row i is prompt i and has ``frames[i]`` frames at most.

        Raises:
            RefusedRequest: a prompt fills all that the model can take.
            RuntimeError: more than the settings' ``max_batch``.
            BackendUnavailable: the memory is full.
        """
        batch = Batch(self.model, self._runner, self.settings.max_batch, self._take, self._free.append)
        try:
            for prompt, sampling, most in zip(prompts, samplings, frames, strict=True):
                batch.add(prompt, sampling, most)
        except BaseException:
            batch.close()
            raise
        return batch

    def stream(self) -> CodecStream:
        """A new stream of sound, in chunks as the settings have them."""
        return CodecStream(self.codec, self.settings.first_frames, self.settings.chunk_frames)

    def decode(self, codes: "torch.Tensor") -> Audio:
        """The sound of all of ``codes`` [n, codebooks] at once."""
        return self.codec.decode(codes)

    def _take(self) -> Places:
        """Memory that no batch uses."""
        if self._free:
            return self._free.pop()
        import torch

        native = self.model
        try:
            return Places.empty(native.config, self.settings.max_batch, native.device, native.dtype)
        except torch.cuda.OutOfMemoryError:
            raise BackendUnavailable(
                f"there is not enough memory on {native.device} for {self.settings.max_batch} requests at once; lower max_batch"
            ) from None

    def _reference_codes(self, reference: Reference) -> "torch.Tensor":
        codes = self._references.get(reference.digest)
        if codes is None:
            sound = resample(decode(reference.audio, reference.form, max_seconds=MAX_SECONDS), self.rate)
            whole = -len(sound.samples) % self.codec.hop
            codes = self.codec.encode(Audio(np.pad(sound.samples, (0, whole)), self.rate))
            self._references[reference.digest] = codes
            if len(self._references) > _REFERENCES:
                self._references.popitem(last=False)
        self._references.move_to_end(reference.digest)
        return codes


def _mode(settings: HiggsLocalSettings, device: str) -> Mode:
    if settings.decode == "auto":
        return "compile" if device == "cuda" else "eager"
    if settings.decode != "eager" and device != "cuda":
        raise BackendUnavailable(f"decode {settings.decode} needs a GPU and the model is on {device}; leave decode at auto")
    return settings.decode
