"""A stand-in for the servers that speak with Higgs Audio: they answer as the real ones, and misbehave on demand.

It speaks three dialects: Boson's cloud (``boson``), the chat form of its hackathon (``boson-chat``), and vLLM or SGLang
(``openai-speech``). It checks what it is sent as strictly as they may: the key, every field, every limit, every control tag. What
it says comes from the embedded voice, so it can be listened to. Everything that it receives is kept (`Fake.requests`).

In a test::

    with serve(Options(dialect="boson")) as fake:
        fake.misbehave(Fault.BUSY_SECONDS, times=2)  # two answers 429, then all is well
        ... PROSODY_HIGGS__URL is fake.url ...
        assert fake.requests[0].json["input"] == "Hello."

By hand, from the root of the repository: ``python -m tests.fake_higgs --help``.
"""

from .app import create_app
from .faults import Fault
from .options import DIALECTS, Dialect, Options
from .record import Fake, Received
from .server import serve

__all__ = ["DIALECTS", "Dialect", "Fake", "Fault", "Options", "Received", "create_app", "serve"]
