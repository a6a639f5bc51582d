"""How to install an optional part of this project into the running environment."""

from pathlib import Path
from typing import Any

DISTRIBUTION = "prosody-speech"


def install_command(extra: str | None = None) -> str:
    """Return the pip command that installs an extra, or without one every missing dependency.

    The command names the source that the project was installed from: a clone (editable or not), a wheel file, a repository's
    address, or a package index.
    """
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    wanted = f"[{extra}]" if extra else ""
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        folder = Path(url2pathname(urlsplit(url).path))
        shown = "." if folder == Path.cwd() else str(folder)
        return f"pip install {'-e ' if origin['dir_info'].get('editable') else ''}'{shown}{wanted}'"
    if url:
        scheme = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        return f"pip install '{DISTRIBUTION}{wanted} @ {scheme}{url}'"
    return f"pip install '{DISTRIBUTION}{wanted}'"


def _origin() -> dict[str, Any]:
    """Return what pip recorded about the source of the installation (PEP 610); empty for a package index.

    In a clone that is on the import path, the metadata of a build stand before those of the installation, and record no source.
    """
    import json
    from importlib.metadata import distributions

    for found in distributions(name=DISTRIBUTION):
        recorded = found.read_text("direct_url.json")
        if recorded is not None:
            origin = json.loads(recorded)
            return origin if isinstance(origin, dict) else {}
    return {}
