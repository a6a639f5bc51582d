"""The list of backends, with the class and the requirements of each."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from prosody_tagger.errors import BadInput
from prosody_tagger.extras import install_command
from prosody_tagger.markup import closest
from synth.base import Synthesizer
from synth.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class Backend:
    """One entry.

    Attributes:
        name: its name for users.
        about: a description of one line.
        target: ``module:class`` of its Synthesizer, imported when used; the class takes its settings as only argument.
        settings: the name of its group in the settings.
        modules: modules that must be importable, beside the dependencies of the base install.
        extra: the extra that installs those, if they are optional.
    """

    name: str
    about: str
    target: str
    settings: str
    modules: tuple[str, ...] = ()
    extra: str | None = None

    def missing(self) -> list[str]:
        """Needed modules that are not installed."""
        return [module for module in self.modules if find_spec(module) is None]


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            name="embedded",
            about="espeak-ng inside the process: needs no server, no GPU, no download",
            target="synth.embedded.backend:EmbeddedVoice",
            settings="embedded",
            modules=("espeakng_loader",),
        ),
        Backend(
            name="natural",
            about="a small neural voice inside the process, English: needs no server, no GPU, no download",
            target="synth.natural.backend:NaturalVoice",
            settings="natural",
            modules=("hibari", "onnxruntime"),
            extra="natural",
        ),
        Backend(
            name="higgs-http",
            about="Higgs Audio over HTTP: the cloud, or a server of your own (vLLM, SGLang)",
            target="synth.higgs_http.backend:HiggsHttp",
            settings="higgs",
        ),
        Backend(
            name="higgs-local",
            about="Higgs Audio on a GPU of your own, with LoRA adapters",
            target="synth.higgs_local.backend:HiggsLocal",
            settings="higgs_local",
        ),
    )
}


def find(name: str) -> Backend:
    """Return the entry of a backend.

    Raises:
        BadInput: there is none.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    nearest = closest(name, BACKENDS)
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise BadInput(f"unknown backend {name!r}{hint} (the backends: {', '.join(BACKENDS)})")


def create(name: str, settings: object) -> Synthesizer:
    """Create a backend. This is cheap: a backend loads its engine at first use.

    Raises:
        BadInput: there is none of that name.
        BackendUnavailable: a module that it needs is not installed.
    """
    backend = find(name)
    missing = backend.missing()
    if missing:
        raise BackendUnavailable(f"backend {name} needs {', '.join(missing)}; run: {install_command(backend.extra)}")
    module, _, attribute = backend.target.partition(":")
    synthesizer: Synthesizer = getattr(import_module(module), attribute)(settings)
    return synthesizer
