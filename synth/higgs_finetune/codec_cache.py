"""Codec cache: recordings as codec codes on disk, so that training never runs the codec.

    FOLDER/CODEC/NAME.safetensors   codes of many recordings, int16 [frames, codebooks] each, keyed by the SHA-256 of the sound file
    FOLDER/files.json               size, modification time and that SHA-256 of each path, so that a file is hashed once

CODEC is the `codec_fingerprint` of the codec, so codes of different codecs never mix. Every file is replaced atomically: a run that
is killed leaves no partial file, and two runs may fill the same folder.

This module also has the reader of sound files, which `synth.higgs_finetune.validate` shares.
"""

import json
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from prosody_tagger.errors import BadInput, DataError, first_line, os_reason
from prosody_tagger.files import replaced_file
from synth.audio.decoding import decode
from synth.audio.signal import resample
from synth.base import Audio
from synth.higgs_local.weights_file import read_header

if TYPE_CHECKING:
    import torch

    from synth.higgs_local.codec_stream import Codec

ProgressCallback = Callable[[int, int], None]
"""Called with the number of items that are done and the number of all items."""

MAX_SECONDS = 600.0
"""Recordings are decoded up to this length; training takes only much shorter ones."""

_MAX_BYTES = 500_000_000  # size of the largest sound file that is read
_READ_THREADS = 4
_PREFETCHED = 8  # files that are read and decoded ahead
_INDEX = "files.json"
_SHARD_SIZE = 256  # recordings in a file; a killed run has to encode at most this many again
_OPEN_SHARDS = 64
_MAX_LISTED = 20  # recordings that an error message names

Loaded = TypeVar("Loaded")


class _FileRecord(NamedTuple):
    """A sound file at the time when it was hashed."""

    size: int
    modified: int
    digest: str


class _StoredCodes(NamedTuple):
    """The shard that holds the codes of a recording, and their number of frames."""

    shard: Path
    frames: int


class CodecCache:
    """Codec codes of recordings in a folder.

    A pickled copy, such as one in a data loader's process, can only read.

    Args:
        folder: folder of the cache; created if it does not exist.
        codec: the codec that encodes; or its `codec_fingerprint`, for a cache that is only read.
    """

    def __init__(self, folder: Path, codec: "Codec | str") -> None:
        self.fingerprint = codec if isinstance(codec, str) else codec_fingerprint(codec)
        self._codec = None if isinstance(codec, str) else codec
        self._folder = folder
        self._shards = folder / self.fingerprint
        self._files = _read_index(folder / _INDEX)
        self._stored = dict(_scan_shards(self._shards))
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codec": None, "_open": OrderedDict()}

    def prepare(self, paths: Iterable[Path], progress: ProgressCallback | None = None) -> None:
        """Encode all recordings that are not in the cache, and those that changed since.

        Threads read and decode files while the codec runs. After an interruption, everything that was encoded is kept.

        Raises:
            DataError: recordings that cannot be read or decoded; all others are in the cache.
            BadInput: the folder cannot be written.
        """
        wanted = list(dict.fromkeys(path.absolute() for path in paths))
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            bad = self._fill(wanted, progress or (lambda done, total: None))
        except OSError as error:
            raise BadInput(f"cannot write codes to {str(self._folder)!r}: {os_reason(error)}; give another folder") from None
        if bad:
            raise DataError(_listed(bad))

    def codes(self, path: Path) -> "torch.Tensor":
        """Return the codes of a recording: int64 [frames, codebooks], without the delay pattern.

        Raises:
            BadInput: the recording is not in the cache.
        """
        import torch

        digest, stored = self._find(path)
        codes: torch.Tensor = self._open_shard(stored.shard).get_tensor(digest)
        return codes.to(torch.int64)

    def frames(self, path: Path) -> int:
        """Return the number of frames of a recording, without reading its codes.

        Raises:
            BadInput: the recording is not in the cache.
        """
        return self._find(path)[1].frames

    def _find(self, path: Path) -> tuple[str, _StoredCodes]:
        file = self._files.get(str(path.absolute()))
        if file is None or file.digest not in self._stored:
            raise BadInput(f"{str(path)!r} has not been encoded with this codec; prepare it first")
        return file.digest, self._stored[file.digest]

    def _open_shard(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise BadInput(
                    f"cannot read the codes in {str(path)!r}: {first_line(error)}; delete the file and run the command again"
                ) from None
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]

    def _fill(self, wanted: Sequence[Path], progress: ProgressCallback) -> list[str]:
        """Encode recordings that are missing; return those that cannot be used, each with the reason."""
        bad: list[str] = []
        fresh: dict[str, torch.Tensor] = {}
        try:
            for done, (path, loaded) in enumerate(prefetch(self._load, wanted), 1):
                try:
                    self._files[str(path)], audio = loaded.result()
                    digest = self._files[str(path)].digest
                    if audio is not None and digest not in fresh and digest not in self._stored:
                        fresh[digest] = self._encode(audio)
                except BadInput as error:
                    bad.append(f"{path}: {error}")
                if len(fresh) == _SHARD_SIZE:
                    self._save(fresh)
                progress(done, len(wanted))
        finally:
            self._save(fresh)
        return bad

    def _load(self, path: Path) -> tuple[_FileRecord, Audio | None]:
        """Return the record of a file, and its audio at the codec's rate unless its codes are stored. Runs in a thread."""
        known = self._files.get(str(path))
        size, modified = _size_and_mtime(path)
        if known and (known.size, known.modified) == (size, modified) and known.digest in self._stored:
            return known, None
        data = read_file(path)
        file = _FileRecord(size, modified, sha256(data).hexdigest())
        if file.digest in self._stored:
            return file, None
        if self._codec is None:
            raise BadInput("it has not been encoded, and this cache has no codec; encode it where the cache was made")
        return file, resample(decode(data, max_seconds=MAX_SECONDS), self._codec.rate)

    def _encode(self, audio: Audio) -> "torch.Tensor":
        """Return codes as the local backend makes them for a reference recording: the last frame is padded with silence."""
        import torch

        assert self._codec is not None
        padded = np.pad(audio.samples, (0, -len(audio.samples) % self._codec.hop))
        return self._codec.encode(Audio(padded, audio.rate)).to(torch.int16).contiguous()

    def _save(self, fresh: dict[str, "torch.Tensor"]) -> None:
        """Write ``fresh`` as a shard, empty it, and update the index of files."""
        from safetensors.torch import save

        if fresh:
            shard = self._shards / f"{sha256(''.join(sorted(fresh)).encode()).hexdigest()[:32]}.safetensors"
            _write_durably(shard, save(fresh))
            self._stored |= {digest: _StoredCodes(shard, len(codes)) for digest, codes in fresh.items()}
            fresh.clear()
        _write_durably(self._folder / _INDEX, json.dumps(_read_index(self._folder / _INDEX) | self._files).encode())


def codec_fingerprint(codec: "Codec") -> str:
    """Return a hash over a codec's format and weights, 32 hexadecimal digits: codecs with equal hashes give equal codes."""
    import torch

    digest = sha256(f"{codec.rate} {codec.hop} {codec.codebooks} {codec.size}".encode())
    for name, weight in sorted(codec.weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def read_file(path: Path) -> bytes:
    """Return the content of a sound file.

    Raises:
        BadInput: the file does not exist, is not a regular file, is over 500 MB, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise BadInput(f"it is {kind}; give a sound file")
        if status.st_size > _MAX_BYTES:
            raise BadInput(f"it has {status.st_size} bytes, more than {_MAX_BYTES}; cut it into shorter recordings")
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput("there is no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"it cannot be read: {os_reason(error)}") from None


def prefetch(load: Callable[[Path], Loaded], paths: Iterable[Path]) -> Iterator[tuple[Path, "Future[Loaded]"]]:
    """Yield each path with the future of ``load(path)``, in order; threads load a few paths ahead of the caller."""
    waiting: deque[tuple[Path, Future[Loaded]]] = deque()
    with ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="recordings") as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(load, path)))
                if len(waiting) > _PREFETCHED:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _scan_shards(folder: Path) -> Iterator[tuple[str, _StoredCodes]]:
    """Yield the digest and location of all codes in a folder. A damaged file is skipped: its recordings are encoded again."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = read_header(path)
        except BadInput:
            continue
        yield from ((digest, _StoredCodes(path, shard.shape(digest)[0])) for digest in shard.tensors)


def _size_and_mtime(path: Path) -> tuple[int, int]:
    """Return size in bytes and modification time in nanoseconds, both -1 if the file does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read_index(path: Path) -> dict[str, _FileRecord]:
    """Return the index of files, empty if it cannot be read: the files are then hashed again, and nothing else is lost."""
    try:
        known = json.loads(path.read_bytes())
        return {name: _FileRecord(int(size), int(modified), str(digest)) for name, (size, modified, digest) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also after a power failure: the data is on disk before the file gets its name."""
    with replaced_file(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _listed(bad: Sequence[str]) -> str:
    shown = "\n".join(bad[:_MAX_LISTED])
    more = f"\nand {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else ""
    return f"{len(bad)} recordings cannot be used; --validate-data-only lists everything that is wrong:\n{shown}{more}"
