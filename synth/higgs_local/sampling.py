"""How a code is chosen from the model's scores: on the device, for many rows at once, each with its own settings and seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_RAS_WINDOW = 64
"""The most frames in which repeats are looked for."""

_COLDEST = 1e-5  # what a temperature of 0 counts as where it is divided by
_SOME = 64  # codes: more than is usual for top_k, and much cheaper to sort than all


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row's codes are drawn. The same seed gives the same codes, alone or in any batch.

    Attributes:
        temperature: 0 takes the likeliest code.
        top_p: codes are drawn from the likeliest that together have this probability.
        top_k: and from so many at most.
        ras_window: frames in which repeats are looked for (repetition-aware sampling, VALL-E 2, arXiv:2406.05370); 0 turns it off.
        ras_repeats: a code that its codebook had so often in them is drawn anew, from all codes and at temperature 1.
        seed: None draws one.
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
        """Whether nothing is left to chance."""
        return self.temperature == 0 and self.ras_window == 0

    def candidates(self, codes: int) -> int:
        """How many of the likeliest ``codes`` must be looked at: 1, some or all, as every other number is one more graph."""
        if self.greedy:
            return 1
        return _SOME if self.top_k <= _SOME < codes or self.temperature == 0 else codes

    def draws(self, frames: int, codebooks: int) -> "torch.Tensor":
        """All that is random of a row: uniform in [0, 1), shape [frames, 2, codebooks]; the second is for `redraw`."""
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
    """Draw a code for each row and codebook: temperature, then the ``top_k`` likeliest, then nucleus sampling of what is left.

    Args:
        logits: float32 [rows, codebooks, codes].
        temperature, top_p, top_k: [rows]. Rows of temperature 0 get the likeliest.
        uniform: [rows, codebooks] in [0, 1); one number is all the chance that a draw needs.
        candidates: how many of the likeliest are looked at: no row's ``top_k`` is larger, or all.

    Returns:
        int64 [rows, codebooks].
    """
    scores, order = logits.topk(min(candidates, logits.shape[-1]), dim=-1)
    ranks = _ranks(scores)
    scores = scores / temperature[:, None, None].clamp(min=_COLDEST)
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
    """Repetition-aware sampling: codes that have come too often of late are drawn anew, from all codes and at temperature 1.

    Args:
        codes: int64 [rows, codebooks].
        logits: float32 [rows, codebooks, codes].
        recent: int64 [rows, frames, codebooks], the latest last; what does not count is -1.
        window, repeats: [rows].
        uniform: [rows, codebooks] in [0, 1).
    """
    frames = recent.shape[1]
    age = frames - _ranks(recent[..., 0])
    same = (recent == codes[:, None]) & (age <= window[:, None])[..., None]
    too_often = (same.sum(1) >= repeats[:, None]) & (window > 0)[:, None]
    return _invert(logits.softmax(-1), uniform).where(too_often, codes)


def _invert(probabilities: "torch.Tensor", uniform: "torch.Tensor") -> "torch.Tensor":
    """The code at which the cumulated ``probabilities``, which need not sum to 1, pass ``uniform`` of their sum."""
    cumulated = probabilities.cumsum(-1)
    passed = cumulated > uniform[..., None] * cumulated[..., -1:]
    return passed.to(probabilities.dtype).argmax(-1)  # the first


def _ranks(like: "torch.Tensor") -> "torch.Tensor":
    """0, 1, 2 ... along the last dimension."""
    import torch

    return torch.arange(like.shape[-1], device=like.device)
