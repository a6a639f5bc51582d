"""Sample codes from logits on the device, for many rows at once, each with its own settings and seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_RAS_WINDOW = 64
"""Largest window, in frames, of repetition-aware sampling."""

_MIN_TEMPERATURE = 1e-5  # avoids a division by zero; rows of temperature 0 are greedy
_TOP_CODES = 64  # enough for usual values of top_k, and much cheaper to sort than all codes


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a row. The same seed gives the same codes, alone or in any batch.

    Attributes:
        temperature: divides the logits; 0 takes the most likely code.
        top_p: nucleus sampling: draw from the most likely codes whose probabilities sum to this value.
        top_k: draw from at most this many codes.
        ras_window: window of repetition-aware sampling (VALL-E 2, arXiv:2406.05370), in frames; 0 turns it off.
        ras_repeats: a code that occurs this often in its codebook's window is drawn again, from all codes at temperature 1.
        seed: of the random numbers; None draws one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 1 << 30
    ras_window: int = 0
    ras_repeats: int = 2
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1 or self.top_k < 1:
            raise ValueError(f"temperature {self.temperature}, top_p {self.top_p} or top_k {self.top_k} is out of range")
        if not 0 <= self.ras_window <= MAX_RAS_WINDOW or self.ras_repeats < 1:
            raise ValueError(f"ras_window {self.ras_window} or ras_repeats {self.ras_repeats} is out of range")

    @property
    def greedy(self) -> bool:
        """Whether no random numbers are used."""
        return self.temperature == 0 and self.ras_window == 0

    def candidates(self, codes: int) -> int:
        """Return how many of the most likely ``codes`` to consider: 1, `_TOP_CODES` or all. Each needs CUDA graphs of its own."""
        if self.greedy:
            return 1
        return _TOP_CODES if self.top_k <= _TOP_CODES < codes or self.temperature == 0 else codes

    def draws(self, frames: int, codebooks: int) -> "torch.Tensor":
        """Return the random numbers of a row: uniform in [0, 1), [frames, 2, codebooks]; index 0 for `draw`, 1 for `redraw`."""
        import torch

        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return torch.rand(frames, 2, codebooks, generator=generator)


def draw(
    logits: "torch.Tensor",
    temperature: "torch.Tensor",
    top_p: "torch.Tensor",
    top_k: "torch.Tensor",
    uniform: "torch.Tensor",
    candidates: int,
) -> "torch.Tensor":
    """Draw a code for each row and codebook: temperature, then top-k, then nucleus sampling.

    Args:
        logits: float32 [rows, codebooks, codes].
        temperature, top_p, top_k: [rows]. Rows of temperature 0 get the most likely code.
        uniform: random numbers in [0, 1), [rows, codebooks].
        candidates: how many of the most likely codes are considered: at least every row's ``top_k``, or all codes.

    Returns:
        int64 [rows, codebooks].
    """
    scores, order = logits.topk(min(candidates, logits.shape[-1]), dim=-1)
    ranks = _ranks(scores)
    scores = scores / temperature[:, None, None].clamp(min=_MIN_TEMPERATURE)
    scores = scores.masked_fill(ranks >= top_k[:, None, None], float("-inf"))
    probabilities = scores.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill((before >= top_p[:, None, None]) & (ranks > 0), 0.0)
    rank = _invert(probabilities, uniform).masked_fill(temperature[:, None] == 0, 0)
    return order.gather(-1, rank[..., None])[..., 0]


def redraw(
    codes: "torch.Tensor",
    logits: "torch.Tensor",
    recent: "torch.Tensor",
    window: "torch.Tensor",
    repeats: "torch.Tensor",
    uniform: "torch.Tensor",
) -> "torch.Tensor":
    """Apply repetition-aware sampling: draw codes that repeat too often again, from all codes at temperature 1.

    Args:
        codes: int64 [rows, codebooks].
        logits: float32 [rows, codebooks, codes].
        recent: the last frames, int64 [rows, frames, codebooks], the latest last; -1 matches no code.
        window, repeats: `Sampling.ras_window` and `Sampling.ras_repeats`, [rows].
        uniform: random numbers in [0, 1), [rows, codebooks].

    Returns:
        int64 [rows, codebooks].
    """
    frames = recent.shape[1]
    age = frames - _ranks(recent[..., 0])
    same = (recent == codes[:, None]) & (age <= window[:, None])[..., None]
    too_often = (same.sum(1) >= repeats[:, None]) & (window > 0)[:, None]
    return _invert(logits.softmax(-1), uniform).where(too_often, codes)


def _invert(probabilities: "torch.Tensor", uniform: "torch.Tensor") -> "torch.Tensor":
    """Sample by inverting the cumulative distribution: the first index at which it exceeds ``uniform``.

    The last dimension of ``probabilities`` need not sum to 1.
    """
    cumulated = probabilities.cumsum(-1)
    passed = cumulated > uniform[..., None] * cumulated[..., -1:]
    return passed.to(probabilities.dtype).argmax(-1)  # the first


def _ranks(like: "torch.Tensor") -> "torch.Tensor":
    """Return 0, 1, 2 ... for the last dimension of ``like``."""
    import torch

    return torch.arange(like.shape[-1], device=like.device)
