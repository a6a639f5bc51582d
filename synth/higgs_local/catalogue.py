"""The adapters of a folder, as they are there now."""

from pathlib import Path

from synth.higgs_local.adapter import CONFIG_FILE, PROSODY_FILE, WEIGHTS_FILE, Adapter, AdapterError, find_adapters, read_adapter

_Stamp = tuple[tuple[int, int] | None, ...]


class Catalogue:
    """Reads an adapter again only when its files have changed, so the same object is the same adapter."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[_Stamp, Adapter | AdapterError]] = {}

    def all(self) -> dict[str, Adapter | AdapterError]:
        """Every adapter by name; in the place of one that cannot be used, why."""
        found = {} if self.folder is None else find_adapters(self.folder)
        self._known = {path: self._entry(path) for path in found.values()}
        return {name: self._known[path][1] for name, path in found.items()}

    def _entry(self, path: Path) -> tuple[_Stamp, Adapter | AdapterError]:
        stamp = tuple(_stamp(path / file) for file in (CONFIG_FILE, WEIGHTS_FILE, PROSODY_FILE))
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known
        try:
            return stamp, read_adapter(path)
        except AdapterError as error:
            return stamp, error


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
