"""Command `prosody serve`: the service, run by uvicorn."""

import os
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on; other than loopback needs API keys.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, show_default="8000")] = None,
    log: Annotated[str | None, typer.Option("--log", help="debug, info, warning or error.", show_default="info")] = None,
) -> None:
    """Run the HTTP service: POST /speak, OpenAI's speech endpoint, /docs.

    Settings come from the environment: PROSODY_* and, for the service, PROSODY_API__*. On SIGTERM or Ctrl-C it finishes the running
    requests and accepts no new ones.
    """
    import uvicorn

    for name, value in (("HOST", host), ("PORT", port), ("LOG", log)):
        if value is not None:
            os.environ[f"PROSODY_API__{name}"] = str(value)
    # Parallelism comes from concurrent requests, so limit each tagger pass to one thread; more threads are slower overall,
    # especially on shared processors. The variable has no effect once torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import importlib

    # Imported by name: `ai_core` does not depend on `api`.
    settings = importlib.import_module("api.settings").load_api_settings()
    settings.check_host(settings.host)
    importlib.import_module("api.logs").configure(settings.log, settings.log_form)
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=settings.connections,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.drain,
    )
