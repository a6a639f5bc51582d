"""Sound files of a corpus: read with care, and some ahead of their turn."""

import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from prosody_tagger.errors import BadInput

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""

MAX_SECONDS = 600.0
"""The most that is decoded of a recording; what is trained on is far shorter."""

_MAX_BYTES = 500_000_000
_READERS = 4
_AHEAD = 8

Found = TypeVar("Found")


def read_file(path: Path) -> bytes:
    """All of a sound file.

    Raises:
        BadInput: it is not there, no regular file, over 500 MB, or cannot be read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise BadInput(f"it is {'a folder' if stat.S_ISDIR(about.st_mode) else 'no regular file'}; give a sound file")
        if about.st_size > _MAX_BYTES:
            raise BadInput(f"it has {about.st_size} bytes; cut it into recordings of some seconds")
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput("there is no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None


def ahead(look: Callable[[Path], Found], paths: Iterable[Path]) -> Iterator[tuple[Path, "Future[Found]"]]:
    """Each path with what ``look`` finds, in order. A few are looked at in threads while the caller works on the one before."""
    waiting: deque[tuple[Path, Future[Found]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="clips") as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(look, path)))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()
