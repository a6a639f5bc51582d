"""The codec's class, also where torchaudio is missing or cannot be imported.

transformers' codec uses one function of torchaudio: `resample`, from 24 to 16 kHz. The torchaudio on package indexes is built for
CUDA and cannot be imported beside a CPU build of torch. Then the function below replaces it, within the codec's module only.
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
_WIDTH = 6  # zero crossings of the sinc on either side; torchaudio's default
_ROLLOFF = 0.99  # cutoff, as a fraction of the lower Nyquist frequency; torchaudio's default


def codec_class() -> Any:
    """Return transformers' ``HiggsAudioV2TokenizerModel``, with a working `resample`.

    Raises:
        ImportError: transformers is older than 5.3.
    """
    if _torchaudio_loads():
        return importlib.import_module(_MODULE).HiggsAudioV2TokenizerModel
    substitute = _substitute()
    with _as_torchaudio(substitute):
        module = importlib.import_module(_MODULE)
    module.torchaudio = substitute  # type: ignore[attr-defined]
    return module.HiggsAudioV2TokenizerModel


def resample(waveform: "torch.Tensor", orig_freq: int, new_freq: int) -> "torch.Tensor":
    """Resample by band-limited interpolation with a Hann-windowed sinc (J. O. Smith, "Digital Audio Resampling").

    Args:
        waveform: float, shape [..., samples].
        orig_freq, new_freq: sample rates, Hz.

    Returns:
        Shape [..., ``ceil(samples * new_freq / orig_freq)``].
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
    """Return one filter for each phase of the output, [after, 1, taps], and how many samples it reaches back."""
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
    except (ImportError, OSError):  # OSError: its shared libraries do not load
        return False
    return True


def _substitute() -> ModuleType:
    functional = ModuleType(f"{_NAME}.functional")
    functional.resample = resample  # type: ignore[attr-defined]
    module = ModuleType(_NAME)
    module.functional = functional  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec(_NAME, None)
    return module


@contextmanager
def _as_torchaudio(module: ModuleType) -> Iterator[None]:
    """Let ``import torchaudio`` find ``module`` within the block, and remove every trace of it afterwards."""
    from transformers.utils import is_torchaudio_available

    sys.modules[_NAME] = module
    try:
        yield
    finally:
        del sys.modules[_NAME]
        is_torchaudio_available.cache_clear()
