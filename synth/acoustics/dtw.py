"""Dynamic time warping of a recording onto a reference, one frame of the recording at a time.

H. Sakoe and S. Chiba, "Dynamic programming algorithm optimization for spoken word recognition", IEEE Trans. ASSP 26 (1978), in the
form of a Viterbi search: each frame of the recording is assigned one state of the reference, which is the same as for the frame
before, the next one, or the one after that. Path costs are therefore comparable at every frame, a row depends on the row before it
alone, and a window over the reference can follow the best path through a long recording.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float32]

BLOCK = 1000
WINDOW = 3600
_MEMORY = 16_000_000  # steps kept for tracing back, one byte each
_BEFORE = 800  # states of the window that lie before the best one so far
_FAR = np.float32(1e30)


class WarpingPath(NamedTuple):
    """The best path.

    Attributes:
        states: int64 of shape [frames], non-decreasing: the state of the reference that each frame of the recording is assigned.
        costs: float32 of shape [frames]: the distance of the two there, without the costs of the steps.
    """

    states: NDArray[np.int64]
    costs: Costs


def warp(distance: Callable[[slice, slice], Costs], frames: int, hold: Costs, skip: Costs) -> WarpingPath:
    """Return the cheapest path from the start of both to the end of both, as far as a window of `WINDOW` states can see it.

    The first and the last state may be left out. Memory is bounded for inputs of any length: the oldest part of the path is
    decided as soon as `_MEMORY` steps are undecided.

    Args:
        distance: returns the distances between a slice of the recording's frames and a slice of the reference's states, float32
            of shape [frames, states].
        frames: the number of frames of the recording, at least 1.
        hold: float32 of shape [states], the cost of staying in a state for another frame.
        skip: float32 of shape [states], the cost of entering a state from the one before the previous one.

    The path needs at least about one frame for two states: for a shorter recording it covers the beginning of the reference only.
    """
    count = len(hold)
    window = min(count, WINDOW)
    kept = max(2, _MEMORY // (BLOCK * window))
    decided: list[WarpingPath] = []
    undecided: list[_SearchBlock] = []
    best = np.full(window + 2, _FAR, np.float32)
    best[1] = 0.0  # before the first state
    low = 0
    for first in range(0, frames, BLOCK):
        rows, columns = slice(first, min(first + BLOCK, frames)), slice(low, low + window)
        costs = distance(rows, columns)
        undecided.append(_SearchBlock(low, costs, _advance(best, costs, hold[columns], skip[columns])))
        state = low + int(np.argmin(best[2:]))
        if len(undecided) > kept:
            decided.append(_trace(undecided, state)[0])
            undecided.pop(0)
        moved = min(max(low, state - _BEFORE), count - window) - low
        if moved and rows.stop < frames:
            best[2:] = np.concatenate([best[2 + moved :], np.full(moved, _FAR, np.float32)])
            best[:2] = _FAR
            low += moved
    ends = best[-2:] if low + window == count else best[:0]
    last = count - len(ends) + int(np.argmin(ends)) if len(ends) and ends.min() < _FAR else low + int(np.argmin(best[2:]))
    decided += _trace(undecided, last)
    states = np.concatenate([part.states for part in decided])
    return WarpingPath(np.maximum.accumulate(states), np.concatenate([part.costs for part in decided]))


class _SearchBlock(NamedTuple):
    """Some rows of the search: the first state of the window, the distances, and the step that leads to each state (0, 1 or 2)."""

    low: int
    costs: Costs
    steps: NDArray[np.int8]


def _advance(best: Costs, costs: Costs, hold: Costs, skip: Costs) -> NDArray[np.int8]:
    """Update ``best`` in place over the rows of ``costs`` and return the steps, shape [rows, states].

    ``best`` holds the cost of the best path to each state, after two entries of padding.
    """
    rows, states = costs.shape
    steps = np.zeros((rows, states), np.int8)
    stay, leap = np.empty(states, np.float32), np.empty(states, np.float32)
    better = np.empty(states, np.bool_)
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


def _trace(blocks: list[_SearchBlock], state: int) -> list[WarpingPath]:
    """Return the path that ends in ``state``, one part for each block."""
    parts: list[WarpingPath] = []
    for low, costs, steps in reversed(blocks):
        states = np.empty(len(costs), np.int64)
        state = min(max(state - low, 0), costs.shape[1] - 1)
        for row in range(len(costs) - 1, -1, -1):
            states[row] = state
            state = max(0, state - int(steps[row, state]))
        parts.append(WarpingPath(states + low, costs[np.arange(len(costs)), states]))
        state += low
    return parts[::-1]
