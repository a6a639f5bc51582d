"""Whether text and audio are learnt alike."""

from collections.abc import Mapping
from typing import Any

FAR_BEHIND = 2.0
"""Warn when one loss is so many times as large, compared with where it began, as the other."""

_MEMORY = 0.95  # of the running means: some 20 steps
_SETTLED = 40  # steps before which nothing is said


class Balance:
    """Running means of both losses, each against its own beginning.

    Args:
        state: what `state` gave, to go on from.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        self._state = dict(state or {})

    def state(self) -> dict[str, float]:
        return dict(self._state)

    def add(self, figures: Mapping[str, Any]) -> str | None:
        """Take in the losses of a step. Returns a warning in words, once each time that one falls far behind."""
        state = self._state
        for path in ("text", "audio"):
            if path in figures:
                state.setdefault(f"{path}_first", figures[path])
                before = state.get(path, figures[path])
                state[path] = _MEMORY * before + (1 - _MEMORY) * figures[path]
        state["steps"] = state.get("steps", 0) + 1
        if state["steps"] < _SETTLED or not {"text", "audio"} <= state.keys():
            return None
        left = {path: max(state[path], 1e-3) / max(state[f"{path}_first"], 1e-3) for path in ("text", "audio")}
        slow, fast = sorted(left, key=left.__getitem__, reverse=True)
        is_behind = left[slow] > FAR_BEHIND * left[fast]
        was_behind, state["behind"] = state.get("behind", 0.0), float(is_behind)
        if not is_behind or was_behind:
            return None
        return (
            f"the {slow} loss is at {left[slow]:.0%} of where it began and the {fast} loss at {left[fast]:.0%}; "
            f"if that goes on, raise --{slow}-loss-weight"
        )
