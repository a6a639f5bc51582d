"""Dynamic time warping, one frame of the sound after the other.

H. Sakoe and S. Chiba, "Dynamic programming algorithm optimization for spoken word recognition", IEEE Trans. ASSP 26 (1978), in the
form of a hidden Markov model's best path: every frame of the sound is explained once, by a frame of the reference that is the same
as before, the next or the one after. So costs of paths compare at every time, a row needs nothing but the row before it, and a
window of the reference can follow the best path through a long sound.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float32]

BLOCK = 1000
WINDOW = 3600
_MEMORY = 16_000_000  # steps remembered
_BEFORE = 800  # of the window lie before the best place so far
_FAR = np.float32(1e30)


class Path(NamedTuple):
    """The way through.

    Attributes:
        places: int64 of shape [frames of the sound], never falling: where in the reference each frame is.
        costs: float32 of the same shape: how unlike the two are there, without what the steps cost.
    """

    places: NDArray[np.int64]
    costs: Costs


def warp(distance: Callable[[slice, slice], Costs], frames: int, hold: Costs, skip: Costs) -> Path:
    """The cheapest path from the start of both to the end of both, or as near as a window of `WINDOW` places sees it.

    The first and the last place may be left out. What is held in memory is bounded, however long the two are: the path's early
    part is settled when `_MEMORY` steps are in doubt.

    Args:
        distance: given some frames of the sound and some places of the reference, how unlike they are, of shape [frames, places].
        frames: how many frames the sound has, at least one.
        hold: of shape [places], what it costs to stay at a place for another frame.
        skip: of shape [places], what it costs to come to a place from the one before the last.

    The path needs about a frame for two places: of a sound that is shorter it covers the beginning of the reference only.
    """
    count = len(hold)
    window = min(count, WINDOW)
    kept = max(2, _MEMORY // (BLOCK * window))
    found: list[Path] = []
    doubtful: list[_Block] = []
    best = np.full(window + 2, _FAR, np.float32)
    best[1] = 0.0  # before the first place
    low = 0
    for first in range(0, frames, BLOCK):
        rows, columns = slice(first, min(first + BLOCK, frames)), slice(low, low + window)
        costs = distance(rows, columns)
        doubtful.append(_Block(low, costs, _advance(best, costs, hold[columns], skip[columns])))
        place = low + int(np.argmin(best[2:]))
        if len(doubtful) > kept:
            found.append(_trace(doubtful, place)[0])
            doubtful.pop(0)
        moved = min(max(low, place - _BEFORE), count - window) - low
        if moved and rows.stop < frames:
            best[2:] = np.concatenate([best[2 + moved :], np.full(moved, _FAR, np.float32)])
            best[:2] = _FAR
            low += moved
    ends = best[-2:] if low + window == count else best[:0]
    last = count - len(ends) + int(np.argmin(ends)) if len(ends) and ends.min() < _FAR else low + int(np.argmin(best[2:]))
    found += _trace(doubtful, last)
    places = np.concatenate([part.places for part in found])
    return Path(np.maximum.accumulate(places), np.concatenate([part.costs for part in found]))


class _Block(NamedTuple):
    """Rows of the search: the window's first place, the distances, and by how many places each best path came there."""

    low: int
    costs: Costs
    steps: NDArray[np.int8]


def _advance(best: Costs, costs: Costs, hold: Costs, skip: Costs) -> NDArray[np.int8]:
    """Take ``best``, the cost of the best path to each place after two that are none, over the rows of ``costs``."""
    rows, places = costs.shape
    steps = np.zeros((rows, places), np.int8)
    stay, leap = np.empty(places, np.float32), np.empty(places, np.float32)
    better = np.empty(places, np.bool_)
    for row, step in zip(costs, steps, strict=True):
        np.add(best[2:], hold, out=stay)
        np.add(best[:-2], skip, out=leap)
        np.less(best[1:-1], stay, out=better)
        np.minimum(best[1:-1], stay, out=stay)
        step[:] = better
        np.less(leap, stay, out=better)
        np.putmask(step, better, 2)
        np.minimum(leap, stay, out=stay)
        np.add(stay, row, out=best[2:])
        best[:2] = _FAR
    return steps


def _trace(blocks: list[_Block], place: int) -> list[Path]:
    """The path that ends at ``place``, a part for each block."""
    parts: list[Path] = []
    for low, costs, steps in reversed(blocks):
        places = np.empty(len(costs), np.int64)
        place = min(max(place - low, 0), costs.shape[1] - 1)
        for row in range(len(costs) - 1, -1, -1):
            places[row] = place
            place = max(0, place - int(steps[row, place]))
        parts.append(Path(places + low, costs[np.arange(len(costs)), places]))
        place += low
    return parts[::-1]
