"""The codec's class, also where torchaudio is missing or does not load.

transformers imports torchaudio for the codec and takes one function of it: `resample` from 24 to 16 kHz. The torchaudio that
package indexes offer is built for CUDA, and its import fails beside a torch that is not. There, the function below takes its place
within the codec's module, and nowhere else.
"""

import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MODULE = "transformers.models.higgs_audio_v2_tokenizer.modeling_higgs_audio_v2_tokenizer"
_NAME = "torchaudio"
_WIDTH = 6  # zero crossings of the sinc on either side
_ROLLOFF = 0.99  # of the lower Nyquist frequency


def codec_class() -> Any:
    """transformers' ``HiggsAudioV2TokenizerModel``, made able to encode.

    Raises:
        ImportError: transformers is older than 5.3.
    """
    if _torchaudio_loads():
        return importlib.import_module(_MODULE).HiggsAudioV2TokenizerModel
    stand_in = _stand_in()
    with _standing_in(stand_in):
        module = importlib.import_module(_MODULE)
    module.torchaudio = stand_in  # type: ignore[attr-defined]
    return module.HiggsAudioV2TokenizerModel


def resample(waveform: "torch.Tensor", orig_freq: int, new_freq: int) -> "torch.Tensor":
    """Another sample rate, by band-limited interpolation with a Hann-windowed sinc (J. O. Smith, "Digital Audio Resampling").

    Args:
        waveform: float, shape [..., samples].

    Returns:
        The same shape with ``ceil(samples * new_freq / orig_freq)`` samples.
    """
    import torch

    common = math.gcd(orig_freq, new_freq)
    before, after = orig_freq // common, new_freq // common
    if before == after:
        return waveform
    kernels, reach = _kernels(before, after)
    flat = waveform.reshape(-1, 1, waveform.shape[-1])
    padded = torch.nn.functional.pad(flat, (reach, reach + before))
    phases = torch.nn.functional.conv1d(padded, kernels.to(waveform), stride=before)
    samples = math.ceil(waveform.shape[-1] * after / before)
    return phases.transpose(1, 2).reshape(len(flat), -1)[:, :samples].reshape(*waveform.shape[:-1], samples)


@lru_cache
def _kernels(before: int, after: int) -> tuple["torch.Tensor", int]:
    """A filter [after, 1, taps] for each phase of the output, and how many samples it reaches back."""
    import torch

    cutoff = min(before, after) * _ROLLOFF
    reach = math.ceil(_WIDTH * before / cutoff)
    taps = torch.arange(-reach, reach + before, dtype=torch.float64) / before
    phases = torch.arange(after, dtype=torch.float64) / after
    crossings = ((taps[None, :] - phases[:, None]) * cutoff).clamp(-_WIDTH, _WIDTH)
    window = torch.cos(crossings * math.pi / _WIDTH / 2) ** 2
    return (torch.sinc(crossings) * window * cutoff / before)[:, None, :], reach


def _torchaudio_loads() -> bool:
    try:
        importlib.import_module(_NAME)
    except (ImportError, OSError):  # the latter where its libraries are of another build
        return False
    return True


def _stand_in() -> ModuleType:
    functional = ModuleType(f"{_NAME}.functional")
    functional.resample = resample  # type: ignore[attr-defined]
    module = ModuleType(_NAME)
    module.functional = functional  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec(_NAME, None)
    return module


@contextmanager
def _standing_in(module: ModuleType) -> Iterator[None]:
    """Have ``import torchaudio`` find ``module`` for a while, and nobody remember it afterwards."""
    from transformers.utils import is_torchaudio_available

    sys.modules[_NAME] = module
    try:
        yield
    finally:
        del sys.modules[_NAME]
        is_torchaudio_available.cache_clear()
