"""Examine which backends, models and extras are ready, and how to make the others so."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ai_core.settings import Settings
from prosody_tagger.errors import ProsodyError
from prosody_tagger.extras import DISTRIBUTION, install_command
from synth import registry

EXTRAS: dict[str, tuple[str, ...]] = {
    "plot": ("matplotlib",),
    "natural": ("hibari-tts", "onnxruntime"),
    "higgs": ("safetensors", "huggingface-hub"),
    "train-higgs": ("safetensors", "matplotlib"),
    "tensorboard": ("tensorboard",),
    "eval": ("resemblyzer",),
    "test": ("pytest", "hypothesis"),
    "dev": ("ruff", "mypy"),
}
"""The extras of this project; each is installed if its distributions here are."""

PACKAGES = ("prosody_tagger", "synth", "ai_core", "api")
"""The top-level packages of this project."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of a package, a backend, a model or an extra.

    Attributes:
        needed: whether the default backend requires it.
        detail: a description, or how to make it ready.
    """

    what: str
    name: str
    ready: bool
    needed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Examine everything. The tagger is loaded and every backend lists its voices, so this takes some seconds."""
    return [*_packages(), *_backends(settings), _tagger(settings), *_extras()]


def _packages() -> Iterator[Finding]:
    """Report top-level packages whose name also belongs to another distribution or to another folder on the import path."""
    owners = packages_distributions()
    ours = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        others = sorted({owner for owner in owners.get(name, ()) if owner.lower().replace("_", "-") != DISTRIBUTION})
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parent != ours / name:
            detail = f"import {name} finds {origin or 'nothing'} instead of {ours / name}; rename or remove that folder"
            yield Finding("package", name, False, True, detail)
        elif others:
            detail = f"{', '.join(others)} installs a package of this name too; use an environment without it"
            yield Finding("package", name, False, False, detail)


def _backends(settings: Settings) -> Iterator[Finding]:
    for name, backend in registry.BACKENDS.items():
        try:
            created = registry.create(name, getattr(settings, backend.settings))
            why = created.unready()
            ready, detail = why is None, why or f"{backend.about}; {len(asyncio.run(created.voices()))} voices"
        except ProsodyError as error:
            ready, detail = False, str(error)
        yield Finding("backend", name, ready, name == settings.backend, detail)
    if settings.backend not in registry.BACKENDS:
        detail = f"PROSODY_BACKEND is not a backend; set it to one of {', '.join(registry.BACKENDS)}"
        yield Finding("backend", settings.backend, False, True, detail)


def _tagger(settings: Settings) -> Finding:
    from prosody_tagger.tagger import ProsodyTagger

    folder = settings.tagger.adapter
    name = "shipped" if folder is None else str(folder)
    try:
        ProsodyTagger.load(folder, base=settings.tagger.base).mark("It speaks.")
    except ProsodyError as error:
        return Finding("model", f"tagger {name}", False, True, str(error))
    return Finding("model", f"tagger {name}", True, True, "loads and marks")


def _extras() -> Iterator[Finding]:
    for name, distributions in EXTRAS.items():
        missing = [d for d in distributions if not _installed(d)]
        detail = install_command(name) if missing else "installed"
        yield Finding("extra", name, not missing, False, detail)


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
