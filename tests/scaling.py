"""How the time of a call grows with its text."""

import time
from collections.abc import Callable


def is_linear(work: Callable[[str], object], short: str, long: str) -> bool:
    """Return whether a text four times as long takes far less than 16 times as long (quadratic time); the best of three runs."""

    def seconds(text: str) -> float:
        start = time.process_time()
        work(text)
        return time.process_time() - start

    return any(seconds(long) < 10 * seconds(short) + 0.02 for _ in range(3))
