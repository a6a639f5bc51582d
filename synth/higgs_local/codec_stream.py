"""Codes to sound, a window at a time."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.base import Audio

if TYPE_CHECKING:
    import torch


class CodecStream:
    """Sound of codes that come bit by bit, equal to that of the whole to within 1e-4 of full scale.

    Nothing is faded: each window overlaps its neighbours by all that the codec's decoder can see, `reach` frames on either side. So
    a frame is heard when so many after it are known. The first chunk has ``first`` frames, every later one at least ``chunk``.
    """

    def __init__(self, codec: "Codec", first: int, chunk: int) -> None:
        self._codec = codec
        self._wanted, self._chunk = first, chunk
        self._codes: torch.Tensor | None = None  # from `_start` on
        self._start = 0  # the first frame that is still needed
        self._said = 0  # frames whose sound has been given

    def push(self, codes: "torch.Tensor") -> Audio:
        """The sound that can be told now, maybe none, after further ``codes`` [n, codebooks]."""
        import torch

        self._codes = codes if self._codes is None else torch.cat([self._codes, codes])
        until = self._start + len(self._codes) - self._codec.reach
        if until - self._said < self._wanted:
            return self._nothing()
        self._wanted = self._chunk
        return self._say(until)

    def finish(self) -> Audio:
        """The rest."""
        if self._codes is None:
            return self._nothing()
        until = self._start + len(self._codes)
        return self._say(until) if until > self._said else self._nothing()

    def _say(self, until: int) -> Audio:
        assert self._codes is not None
        hop = self._codec.hop
        window = self._codec.decode(self._codes)
        audio = Audio(window.samples[(self._said - self._start) * hop : (until - self._start) * hop], window.rate)
        self._said = until
        keep = max(self._start, until - self._codec.reach)
        self._codes = self._codes[keep - self._start :]
        self._start = keep
        return audio

    def _nothing(self) -> Audio:
        return Audio(np.zeros(0, dtype=np.float32), self._codec.rate)


class Codec:
    """The codec's model as this project uses it.

    Attributes:
        rate: of the sound, Hz.
        hop: samples a frame.
        codebooks: codes a frame.
        size: codes are 0 to ``size - 1``.
        reach: frames before and after one that its sound depends on.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.rate: int = model.config.sample_rate
        self.hop: int = model.config.hop_length
        self.codebooks: int = len(model.quantizer.quantizers)
        self.size: int = model.config.codebook_size
        self.reach = _reach(model.acoustic_decoder)

    @property
    def weights(self) -> "Mapping[str, torch.Tensor]":
        """All of them, by name."""
        state: Mapping[str, torch.Tensor] = self._model.state_dict()
        return state

    def decode(self, codes: "torch.Tensor") -> Audio:
        """The sound of ``codes`` [n, codebooks]: n * hop samples."""
        import torch

        if not len(codes):
            return Audio(np.zeros(0, dtype=np.float32), self.rate)
        with torch.inference_mode():
            sound = self._model.decode(codes.T[None].to(self._model.device)).audio_values
        return Audio(sound[0, 0].float().clamp(-1.0, 1.0).cpu().numpy(), self.rate)

    def encode(self, audio: Audio) -> "torch.Tensor":
        """The codes of ``audio``, which has the codec's rate: int64 [frames, codebooks] on the CPU."""
        import torch

        samples = torch.from_numpy(audio.samples).to(self._model.device)
        with torch.inference_mode():
            codes: torch.Tensor = self._model.encode(samples[None, None]).audio_codes[0].T.cpu()
        return codes.clone()


def _reach(decoder: Any) -> int:
    """Frames on either side that one frame's sound depends on, from the sizes of the decoder's convolutions, which are in a row."""
    import torch

    frames, per_frame = 0.0, 1
    for layer in decoder.modules():
        if isinstance(layer, torch.nn.Conv1d):
            frames += layer.dilation[0] * (layer.kernel_size[0] - 1) / 2 / per_frame
        elif isinstance(layer, torch.nn.ConvTranspose1d):
            frames += math.ceil(layer.kernel_size[0] / layer.stride[0]) / 2 / per_frame
            per_frame *= layer.stride[0]
    return math.ceil(frames)
