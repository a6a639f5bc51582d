"""A fake of the servers that offer Higgs Audio: it responds like the real ones, and fails on demand.

It has three dialects: Boson's cloud (``boson``), the chat completions of its hackathon (``boson-chat``), and vLLM or SGLang
(``openai-speech``). It checks requests at least as strictly as they do: the key, every field, every limit, every control tag. Its
speech comes from the embedded voice. It records every request (`Fake.requests`).

In a test::

    with serve(Options(dialect="boson")) as fake:
        fake.misbehave(Fault.BUSY_SECONDS, times=2)  # two responses with status 429, then good ones
        ... PROSODY_HIGGS__URL is fake.url ...
        assert fake.requests[0].json["input"] == "Hello."

On the command line, from the root of the repository: ``python -m tests.fake_higgs --help``.
"""

from .app import create_app
from .faults import Fault
from .options import DIALECTS, Dialect, Options
from .server import serve
from .state import Fake, ReceivedRequest

__all__ = ["DIALECTS", "Dialect", "Fake", "Fault", "Options", "ReceivedRequest", "create_app", "serve"]
