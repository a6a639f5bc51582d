"""Decode codec codes to audio, all at once or chunk by chunk."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.base import Audio

if TYPE_CHECKING:
    import torch


class CodecStream:
    """Decodes codes chunk by chunk; the result equals decoding them at once to within 1e-4 of full scale.

    No crossfade is needed, because each decoded window overlaps its neighbours by the decoder's receptive field, `Codec.reach`
    frames on either side. A frame's audio is therefore available once ``reach`` further frames are known.

    Args:
        codec: the codec.
        first: frames of the first chunk.
        chunk: fewest frames of every later chunk.
    """

    def __init__(self, codec: "Codec", first: int, chunk: int) -> None:
        self._codec = codec
        self._wanted, self._chunk = first, chunk
        self._codes: torch.Tensor | None = None  # frames from `_start` on
        self._start = 0  # first frame that is still needed as context
        self._decoded = 0  # frames whose audio has been returned

    def push(self, codes: "torch.Tensor") -> Audio:
        """Add ``codes``, int64 [frames, codebooks], and return the audio that has become available, possibly empty."""
        import torch

        self._codes = codes if self._codes is None else torch.cat([self._codes, codes])
        until = self._start + len(self._codes) - self._codec.reach
        if until - self._decoded < self._wanted:
            return self._empty()
        self._wanted = self._chunk
        return self._decode_until(until)

    def finish(self) -> Audio:
        """Return the rest of the audio."""
        if self._codes is None:
            return self._empty()
        until = self._start + len(self._codes)
        return self._decode_until(until) if until > self._decoded else self._empty()

    def _decode_until(self, until: int) -> Audio:
        assert self._codes is not None
        hop = self._codec.hop
        window = self._codec.decode(self._codes)
        audio = Audio(window.samples[(self._decoded - self._start) * hop : (until - self._start) * hop], window.rate)
        self._decoded = until
        keep = max(self._start, until - self._codec.reach)
        self._codes = self._codes[keep - self._start :]
        self._start = keep
        return audio

    def _empty(self) -> Audio:
        return Audio(np.zeros(0, dtype=np.float32), self._codec.rate)


class Codec:
    """The codec's model.

    Args:
        model: a loaded ``HiggsAudioV2TokenizerModel``.

    Attributes:
        rate: sample rate, Hz.
        hop: samples per frame.
        codebooks: codes per frame.
        size: codes are 0 to ``size - 1``.
        reach: receptive field of the decoder: frames on either side that a frame's audio depends on.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.rate: int = model.config.sample_rate
        self.hop: int = model.config.hop_length
        self.codebooks: int = len(model.quantizer.quantizers)
        self.size: int = model.config.codebook_size
        self.reach = _receptive_field(model.acoustic_decoder)

    @property
    def weights(self) -> "Mapping[str, torch.Tensor]":
        """All weights, by name."""
        state: Mapping[str, torch.Tensor] = self._model.state_dict()
        return state

    def decode(self, codes: "torch.Tensor") -> Audio:
        """Return the audio of ``codes``, int64 [frames, codebooks]: frames * hop samples."""
        import torch

        if not len(codes):
            return Audio(np.zeros(0, dtype=np.float32), self.rate)
        with torch.inference_mode():
            samples = self._model.decode(codes.T[None].to(self._model.device)).audio_values
        return Audio(samples[0, 0].float().clamp(-1.0, 1.0).cpu().numpy(), self.rate)

    def encode(self, audio: Audio) -> "torch.Tensor":
        """Return the codes of ``audio``, which must have the codec's sample rate: int64 [frames, codebooks] on the CPU."""
        import torch

        samples = torch.from_numpy(audio.samples).to(self._model.device)
        with torch.inference_mode():
            codes: torch.Tensor = self._model.encode(samples[None, None]).audio_codes[0].T.cpu()
        return codes.clone()


def _receptive_field(decoder: Any) -> int:
    """Return the frames on either side that a frame's audio depends on, from the decoder's convolutions, which are in series."""
    import torch

    frames, per_frame = 0.0, 1
    for layer in decoder.modules():
        if isinstance(layer, torch.nn.Conv1d):
            frames += layer.dilation[0] * (layer.kernel_size[0] - 1) / 2 / per_frame
        elif isinstance(layer, torch.nn.ConvTranspose1d):
            frames += math.ceil(layer.kernel_size[0] / layer.stride[0]) / 2 / per_frame
            per_frame *= layer.stride[0]
    return math.ceil(frames)
