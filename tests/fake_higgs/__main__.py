"""``python -m tests.fake_higgs``: the fake server on the command line."""

import contextlib
import logging
import threading
from typing import Annotated

import typer

from .faults import Fault
from .options import Dialect, Options
from .server import serve

_ENVIRONMENT = """\
Listening on {url}. In another terminal:

export PROSODY_BACKEND=higgs-http
export PROSODY_HIGGS__URL={url}
export PROSODY_HIGGS__DIALECT={dialect}
export PROSODY_HIGGS__API_KEY={key}
prosody say "It's only two hundred dollars today." -o out.wav

Change the fault:       curl -X PUT {root}/fake/fault --json '{{"fault": "busy-seconds", "times": 2}}'   (null: none)
List the requests:      curl {root}/fake/requests
Ctrl+C stops the server."""


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 8901,
    dialect: Annotated[
        Dialect, typer.Option(help="The server to imitate: Boson's cloud, its hackathon server, or vLLM and SGLang.")
    ] = "boson",
    key: Annotated[str, typer.Option(help="The API key that it requires; empty requires none.")] = "fake-key",
    delay_ms: Annotated[float, typer.Option(min=0, help="From a request to the first byte of the response.")] = 0,
    chunk_delay_ms: Annotated[float, typer.Option(min=0, help="Between two chunks of a streamed response.")] = 0,
    rate: Annotated[int, typer.Option(min=8_000, max=48_000, help="Sample rate of its audio, Hz.")] = 24_000,
    misbehave: Annotated[Fault | None, typer.Option(help="The fault in its responses.")] = None,
    times: Annotated[int | None, typer.Option(min=0, help="How many responses have the fault; all by default.")] = None,
) -> None:
    """Run a fake Higgs Audio server, to try clients without a key, a GPU or a network.

    It responds like the real server, with speech from the embedded voice, and refuses what the real one refuses. With --misbehave
    its responses have a fault. It prints the settings that make `prosody` use it, and a line for each request.
    """
    options = Options(
        dialect=dialect,
        key=key or None,
        rate=rate,
        delay_ms=delay_ms,
        chunk_delay_ms=chunk_delay_ms,
        fault=misbehave,
        fault_times=times,
    )
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("fake_higgs").setLevel(logging.INFO)
    try:
        with serve(options, port=port) as fake:
            root = fake.url.removesuffix("/v1")
            typer.echo(_ENVIRONMENT.format(url=fake.url, root=root, dialect=dialect, key=key))
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on port {port}: {error.strerror}; give another, or 0 for any") from None


if __name__ == "__main__":
    typer.run(main)
