"""The network in three pieces, cut at its durations and at its pitch and energy.

Encoder: symbols to two sequences of hidden states and a duration for each symbol. Melody: hidden states, repeated by the durations,
to pitch and energy. Decoder: hidden states, pitch and energy to spectra, from which `hibari.dsp` makes the samples. Unchanged
durations, pitch and energy give the samples of the whole network bit for bit.
"""

from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import Samples
from synth.errors import BackendError, BackendUnavailable
from synth.natural.onnx_graph import FLOAT, INT64, OnnxGraph, TensorType
from synth.natural.package import read_model

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

RATE = 24_000
FRAME_SECONDS = 0.0125
"""Seconds of a frame of pitch, energy and spectra."""
FRAME_SAMPLES = 300
FRAMES_PER_STEP = 2
"""Frames of a step, the unit of the durations."""
VOICED_HZ = 40.0
"""Frames with a lower pitch have no voice."""

_SPECTRAL, _PROSODIC, _DURATION = "/Transpose_22_output_0", "/Transpose_55_output_0", "/Sub_output_0"
_PROSODIC_REPEATED, _SPECTRAL_REPEATED = "/Gather_33_output_0", "/Reshape_42_output_0"
_PITCH, _ENERGY = "f0", "/Mul_62_output_0"
_SPECTRA = ("lh", "theta", "ln", "lr", "phi")
_BY_FRAME = TensorType(FLOAT, (1, "F"))


class EncodedSymbols(NamedTuple):
    """What the encoder returns for n symbols.

    Attributes:
        spectral, prosodic: hidden states, shape [1, channels, n].
        durations: steps of each symbol, not rounded, shape [n].
    """

    spectral: Floats
    prosodic: Floats
    durations: Floats


class SpeechNetwork:
    """The three pieces as sessions of onnxruntime, each of one thread. May be used from several threads at a time.

    Raises:
        BackendUnavailable: the package or onnxruntime is missing, or the model is not the one that was cut.
    """

    def __init__(self) -> None:
        graph = OnnxGraph(read_model())
        self._encoder = _session(
            graph.cut(
                {"ids": TensorType(INT64, (1, "L"))},
                {
                    _SPECTRAL: TensorType(FLOAT, (1, "C", "L")),
                    _PROSODIC: TensorType(FLOAT, (1, "C", "L")),
                    _DURATION: TensorType(FLOAT, ("L",)),
                },
            )
        )
        self._melody = _session(
            graph.cut({_PROSODIC_REPEATED: TensorType(FLOAT, (1, 192, "T"))}, {_PITCH: _BY_FRAME, _ENERGY: _BY_FRAME})
        )
        self._decoder = _session(
            graph.cut(
                {_SPECTRAL_REPEATED: TensorType(FLOAT, (1, 128, "F")), _PITCH: _BY_FRAME, _ENERGY: _BY_FRAME},
                {name: TensorType(FLOAT, (1, 601, "F")) for name in _SPECTRA},
            )
        )

    def encode(self, ids: list[int]) -> EncodedSymbols:
        """Encode symbols, given as their numbers in the vocabulary with a pad (0) at either end."""
        return EncodedSymbols(*_run(self._encoder, [_SPECTRAL, _PROSODIC, _DURATION], {"ids": np.asarray([ids], np.int64)}))

    def melody(self, encoded: EncodedSymbols, steps: Counts) -> tuple[Floats, Floats]:
        """Return pitch in Hz and energy, both of shape [frames], for symbols that last ``steps``."""
        pitch, energy = _run(self._melody, [_PITCH, _ENERGY], {_PROSODIC_REPEATED: np.repeat(encoded.prosodic, steps, axis=2)})
        return pitch[0], energy[0]

    def spectra(self, encoded: EncodedSymbols, frames: Counts, pitch: Floats, energy: Floats) -> list[Floats]:
        """Return the five spectra, each of shape [601, frames], for symbols that last ``frames``."""
        inputs = {
            _SPECTRAL_REPEATED: np.repeat(encoded.spectral, frames, axis=2),
            _PITCH: pitch[None],
            _ENERGY: energy[None],
        }
        return [spectrum[0] for spectrum in _run(self._decoder, list(_SPECTRA), inputs)]

    def waveform(self, spectra: list[Floats], pitch: Floats, seed: int) -> Samples:
        """Return the samples of spectra; ``seed`` chooses the noise in them."""
        from hibari import dsp

        samples: Samples = dsp.synth(*spectra, pitch, np.random.default_rng(seed))
        return samples


_lock = Lock()


@lru_cache(maxsize=1)
def _load() -> SpeechNetwork:
    return SpeechNetwork()


def network() -> SpeechNetwork:
    """Return the network of this process; the first call loads it, in about 0.2 s.

    Raises:
        BackendUnavailable: as for `SpeechNetwork`.
    """
    with _lock:
        return _load()


def natural_steps(durations: Floats) -> Counts:
    """Return the durations of the network rounded as it rounds them itself: whole steps, at least one."""
    return np.maximum(np.round(durations), 1).astype(np.int64)


def _session(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        from prosody_tagger.extras import install_command

        raise BackendUnavailable(f"the natural voice needs onnxruntime ({error}); run: {install_command('natural')}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions derive from Exception
        raise BackendUnavailable(f"onnxruntime {onnxruntime.__version__} cannot load the natural voice's model: {error}") from error


def _run(session: Any, outputs: list[str], inputs: dict[str, Any]) -> list[Floats]:
    try:
        found: list[Floats] = session.run(outputs, inputs)
    except Exception as error:  # onnxruntime's own exceptions derive from Exception
        raise BackendError(f"the natural voice's network failed: {error}") from error
    return found
