"""Recordings that a server keeps as voices, by what is in them."""

from collections import OrderedDict
from dataclasses import dataclass

MAX_KEPT = 256


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """A voice that the server made of a recording."""

    voice: str


class RegisteredVoices:
    """The last `MAX_KEPT` of them, by digest."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Registered] = OrderedDict()

    def find(self, digest: str) -> Registered | None:
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
        return known

    def keep(self, digest: str, voice: str) -> Registered:
        self._known[digest] = found = Registered(voice)
        self._known.move_to_end(digest)
        while len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        return found

    def forget(self, digest: str, registered: Registered) -> None:
        """Forget this one, unless it has been registered anew since."""
        if self._known.get(digest) is registered:
            del self._known[digest]
