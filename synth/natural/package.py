"""The files of PyPI hibari-tts, and the check that its model is the one that this backend cuts open.

The model is a distillation of the voice af_heart of Kokoro-82M; both are Apache-2.0. The package's own voices and downloads are
not used: only its model, its dictionaries and its rules of pronunciation, all of which are in the wheel.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from prosody_tagger.errors import os_reason
from prosody_tagger.extras import install_command
from synth.errors import BackendUnavailable

VERSION = "0.2.1"
REINSTALL = f"pip install --force-reinstall hibari-tts=={VERSION}"
MODEL_SHA256 = "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"


def assets() -> Path:
    """Return the package's folder of models and dictionaries.

    Raises:
        BackendUnavailable: the package is not installed.
    """
    try:
        spec = find_spec("hibari")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise BackendUnavailable(f"the natural voice needs hibari-tts {VERSION}; run: {install_command('natural')}")
    return Path(spec.origin).parent / "assets"


def read_model() -> bytes:
    """Return the model.

    Raises:
        BackendUnavailable: the package is not installed, or its model is missing or not that of `VERSION`.
    """
    path = assets() / "hibari.onnx"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BackendUnavailable(f"the natural voice cannot read its model {path}: {os_reason(error)}; run: {REINSTALL}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != MODEL_SHA256:
        raise BackendUnavailable(
            f"the model {path} is not that of hibari-tts {VERSION} (its SHA-256 is {digest[:12]}…, not {MODEL_SHA256[:12]}…); "
            f"run: {REINSTALL}"
        )
    return data
