"""Recordings as the codec's codes, kept on disk, so that training never runs the codec.

    FOLDER/CODEC/NAME.safetensors   codes of many recordings, int16 [frames, codebooks] each, by the SHA-256 of the sound file
    FOLDER/files.json               for each path its size, its time of change and that SHA-256, so that it is read once

CODEC is the `identity` of what made them: codes of another codec are never taken for these. Every file is written beside its place
and then moved there: a run that is killed leaves whole files alone, and two runs may fill one folder.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prosody_tagger.errors import BadInput, DataError
from synth.audio.decoding import decode
from synth.audio.signal import resample
from synth.base import Audio
from synth.higgs_finetune.clips import MAX_SECONDS, Progress, ahead, read_file
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.weights_file import read_header

if TYPE_CHECKING:
    import torch

_INDEX = "files.json"
_A_SHARD = 256  # recordings; the most that a killed run has to do again
_OPEN_SHARDS = 64
_MOST_NAMED = 20


class _File(NamedTuple):
    """A sound file as it was when it was read."""

    size: int
    modified: int
    digest: str


class _Place(NamedTuple):
    """Where codes are."""

    shard: Path
    frames: int


class CodeStore:
    """Codes of recordings in a folder. It may be sent to other processes, where it only reads.

    Args:
        folder: where they are kept; made if need be.
        codec: what makes them; or its `identity`, where they are only read.
    """

    def __init__(self, folder: Path, codec: Codec | str) -> None:
        self.identity = codec if isinstance(codec, str) else identity(codec)
        self._codec = None if isinstance(codec, str) else codec
        self._folder = folder
        self._shards = folder / self.identity
        self._files = _read_index(folder / _INDEX)
        self._places = dict(_stored(self._shards))
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codec": None, "_open": OrderedDict()}

    def prepare(self, paths: Iterable[Path], progress: Progress | None = None) -> None:
        """Encode what is not there yet. What was done stays done, whenever it is stopped.

        Files are read and decoded in threads while the codec is at work. One that has changed since is encoded anew.

        Raises:
            DataError: recordings that cannot be read or decoded; all the others are done.
            BadInput: the folder cannot be written.
        """
        wanted = list(dict.fromkeys(path.absolute() for path in paths))
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            bad = self._fill(wanted, progress or (lambda done, of: None))
        except OSError as error:
            raise BadInput(f"cannot write codes to {str(self._folder)!r}: {error.strerror or error}; give another folder") from None
        if bad:
            raise DataError(_listed(bad))

    def codes(self, path: Path) -> "torch.Tensor":
        """The codes of a recording that was prepared: int64 [frames, codebooks], undelayed.

        Raises:
            BadInput: it was not.
        """
        import torch

        digest, place = self._find(path)
        stored: torch.Tensor = self._shard(place.shard).get_tensor(digest)
        return stored.to(torch.int64)

    def frames(self, path: Path) -> int:
        """How many frames a prepared recording has. Its codes are not read.

        Raises:
            BadInput: it was not prepared.
        """
        return self._find(path)[1].frames

    def _find(self, path: Path) -> tuple[str, _Place]:
        file = self._files.get(str(path.absolute()))
        if file is None or file.digest not in self._places:
            raise BadInput(f"{str(path)!r} has not been encoded with this codec; prepare it first")
        return file.digest, self._places[file.digest]

    def _shard(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise BadInput(f"the codes in {str(path)!r} cannot be read: {error}; delete the file and begin anew") from None
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]

    def _fill(self, wanted: Sequence[Path], progress: Progress) -> list[str]:
        """Do the work of `prepare`; return what was wrong with which files."""
        bad: list[str] = []
        fresh: dict[str, torch.Tensor] = {}
        try:
            for done, (path, found) in enumerate(ahead(self._look, wanted), 1):
                try:
                    self._files[str(path)], sound = found.result()
                    digest = self._files[str(path)].digest
                    if sound is not None and digest not in fresh and digest not in self._places:
                        fresh[digest] = self._encode(sound)
                except BadInput as error:
                    bad.append(f"{path}: {error}")
                if len(fresh) == _A_SHARD:
                    self._save(fresh)
                progress(done, len(wanted))
        finally:
            self._save(fresh)
        return bad

    def _look(self, path: Path) -> tuple[_File, Audio | None]:
        """A file, and its sound at the codec's rate if that is still to be encoded. Runs in a thread."""
        known = self._files.get(str(path))
        size, modified = _stamp(path)
        if known and (known.size, known.modified) == (size, modified) and known.digest in self._places:
            return known, None
        data = read_file(path)
        file = _File(size, modified, sha256(data).hexdigest())
        if file.digest in self._places:
            return file, None
        if self._codec is None:
            raise BadInput("it has not been encoded, and there is no codec here to do so")
        return file, resample(decode(data, max_seconds=MAX_SECONDS), self._codec.rate)

    def _encode(self, sound: Audio) -> "torch.Tensor":
        """As the local backend encodes a recording of a voice: silence fills up its last frame."""
        import torch

        assert self._codec is not None
        filled = np.pad(sound.samples, (0, -len(sound.samples) % self._codec.hop))
        return self._codec.encode(Audio(filled, sound.rate)).to(torch.int16).contiguous()

    def _save(self, fresh: dict[str, "torch.Tensor"]) -> None:
        """Write ``fresh`` as a shard and empty it, and write down which files are known."""
        from safetensors.torch import save

        if fresh:
            shard = self._shards / f"{sha256(''.join(sorted(fresh)).encode()).hexdigest()[:32]}.safetensors"
            _write(shard, save(fresh))
            self._places |= {digest: _Place(shard, len(codes)) for digest, codes in fresh.items()}
            fresh.clear()
        _write(self._folder / _INDEX, json.dumps(_read_index(self._folder / _INDEX) | self._files).encode())


def identity(codec: Codec) -> str:
    """What tells one codec's codes from another's: a hash over its weights, 32 hexadecimal digits."""
    import torch

    digest = sha256(f"{codec.rate} {codec.hop} {codec.codebooks} {codec.size}".encode())
    for name, weight in sorted(codec.weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _stored(folder: Path) -> Iterator[tuple[str, _Place]]:
    """The digest and place of all codes in a folder. A file that is not whole is passed over: its recordings are encoded again."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = read_header(path)
        except BadInput:
            continue
        yield from ((digest, _Place(path, shard.shape(digest)[0])) for digest in shard.tensors)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; -1 where there is no such file."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return about.st_size, about.st_mtime_ns


def _read_index(path: Path) -> dict[str, _File]:
    """The files that are known; none if that cannot be read, since then they are only read once more."""
    try:
        known = json.loads(path.read_bytes())
        return {name: _File(int(size), int(modified), str(digest)) for name, (size, modified, digest) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _listed(bad: Sequence[str]) -> str:
    shown = "\n".join(bad[:_MOST_NAMED])
    more = f"\nand {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return f"{len(bad)} recordings cannot be used; see all that is wrong with --validate-data-only:\n{shown}{more}"
