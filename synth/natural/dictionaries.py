"""The package's dictionaries and rules of pronunciation, with a cache that loads in a fifth of the time.

Reading the package's JSON takes 0.5 s, most of it for the 80,000 small tables of its part-of-speech tagger. The cache, a file in
the user's cache folder, holds the same data serialised by `marshal`, and each of those tables as bytes that are read when used.
"""

import gzip
import hashlib
import json
import marshal
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from prosody_tagger.errors import first_line, os_reason
from prosody_tagger.files import write_file
from synth.errors import BackendUnavailable
from synth.natural.package import REINSTALL, VERSION, assets

_GOLD, _SILVER, _TAGGER = "lexicon_us_gold.json.gz", "lexicon_us_silver.json.gz", "tagger.json.gz"
_SPECIAL_CASES = "tokenizer_exceptions.json"
_LAYOUT = 1
"""Raised whenever the content of the cache changes."""


class PackedTables:
    """A mapping of mappings whose inner ones are kept as bytes until they are asked for."""

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self._packed = packed

    def get(self, key: str) -> Mapping[str, float] | None:
        """Return the mapping of ``key``, or None."""
        packed = self._packed.get(key)
        table: Mapping[str, float] | None = None if packed is None else marshal.loads(packed)
        return table


_lock = Lock()


def grapheme_to_phoneme() -> Any:
    """Return the package's `hibari.g2p.G2P` of this process; the first call loads it.

    Raises:
        BackendUnavailable: the package is not installed, or one of its files cannot be read.
    """
    with _lock:
        return _load()


@lru_cache(maxsize=1)
def _load() -> Any:
    folder = assets()
    try:
        from hibari.g2p import G2P
        from hibari.g2p.lexicon import Lexicon
        from hibari.g2p.oov import OOV
        from hibari.g2p.tagger import Tagger
        from hibari.g2p.tokenize import Tokenizer

        data = _read_data(folder)
        found = G2P.__new__(G2P)  # its constructor reads the JSON files
        found.lexicon = Lexicon(data["gold"], data["silver"], False)
        found.tokenizer = Tokenizer(json.loads((folder / _SPECIAL_CASES).read_text(encoding="utf-8")))
        found.tagger = Tagger({**data["tagger"], "weights": PackedTables(data["weights"])})
        found._oov = _spelling_reader(lambda: OOV(str(folder / "oov.onnx")))
        found.unk, found.british = "", False
    except OSError as error:
        reason = f"{error.filename or folder}: {os_reason(error)}"
        raise BackendUnavailable(f"the natural voice cannot read its dictionaries: {reason}") from None
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise BackendUnavailable(
            f"hibari-tts is not version {VERSION}, or is damaged ({first_line(error)}); run: {REINSTALL}"
        ) from error
    return found


_SPELLING_LETTERS = 24
"""The longest word that the package's network for unknown words reads; it ignores what follows."""


def _spelling_reader(load: Callable[[], Any]) -> Callable[[str], str]:
    """Return a function from an unknown word to its phonemes, which reads a long word in parts."""
    loaded = lru_cache(maxsize=1)(load)

    @lru_cache(maxsize=4096)
    def read(word: str) -> str:
        parts = [word[start : start + _SPELLING_LETTERS] for start in range(0, len(word), _SPELLING_LETTERS)]
        return "".join(loaded()(part) or "" for part in parts)

    return read


def _read_data(folder: Path) -> dict[str, Any]:
    """Return the data from the cache, or from the package's files, which then are cached."""
    sources = [(folder / name).read_bytes() for name in (_GOLD, _SILVER, _TAGGER)]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()[:16]
    path = _cache_path(f"natural-{_LAYOUT}-{sys.implementation.cache_tag}-{digest}.marshal")
    cached = None if path is None else _read_cache(path)
    if cached is not None:
        return cached
    gold, silver, tagger = (json.loads(gzip.decompress(source)) for source in sources)
    weights = {name: marshal.dumps(table) for name, table in tagger.pop("weights").items()}
    data = {"gold": gold, "silver": silver, "tagger": tagger, "weights": weights}
    if path is not None:
        _write_cache(path, data)
    return data


def _cache_path(name: str) -> Path | None:
    """Return the path of a file in the user's cache folder; None if there is no such folder."""
    configured = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(configured) if configured else Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return None
    return folder / "prosody-speech" / name


def _read_cache(path: Path) -> dict[str, Any] | None:
    """Return the cached data, or None if there is none or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    checksum, payload = stored[:4], stored[4:]
    if zlib.crc32(payload).to_bytes(4, "big") != checksum:
        return None
    data: dict[str, Any] = marshal.loads(payload)
    return data


def _write_cache(path: Path, data: dict[str, Any]) -> None:
    """Write the cache. Where that fails, the next process reads the package's files again."""
    payload = marshal.dumps(data)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, zlib.crc32(payload).to_bytes(4, "big") + payload)
    except OSError:
        return
