"""Run decoding steps eagerly, or capture each shape of step once as a CUDA graph and replay it."""

from typing import TYPE_CHECKING, Any, Literal

from synth.higgs_local.decode_step import AudioStep
from synth.higgs_local.kv_cache import KVCache

if TYPE_CHECKING:
    import torch

DecodeMode = Literal["eager", "graph", "compile"]
"""eager runs the step as it is; graph captures CUDA graphs; compile has torch.compile fuse the step before it is captured."""

_BUCKET = 256  # positions: a graph serves rows up to the next multiple of this
_WARM_UP_RUNS = 3  # before a capture, for lazy initialisation and autotuning


class StepRunner:
    """Runs the decoding steps of one model.

    A graph reads the weights at the addresses of its capture; their values may change there.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration`` on its device.
        mode: how steps run.

    Attributes:
        in_flight: steps that may be launched before the result of the first is read.
    """

    def __init__(self, model: Any, mode: DecodeMode) -> None:
        self.in_flight = 0 if model.device.type == "cpu" else 4
        self._mode = mode
        self._step = AudioStep(model, fuse=mode == "compile")
        self._pool: Any = None

    def width(self, slots: int, most: int) -> int:
        """Return how many slots are computed for rows in the first ``slots``: graphs exist for powers of two and for ``most``."""
        return slots if self._mode == "eager" else min(1 << (slots - 1).bit_length(), most)

    def prepare(self, cache: KVCache, candidates: int) -> None:
        """Capture every step that rows in ``cache`` may need. Does nothing in eager mode."""
        if self._mode == "eager":
            return
        widths = sorted({self.width(slots, len(cache)) for slots in range(1, len(cache) + 1)})
        positions = cache.keys[0].shape[2]
        for width in widths:
            for longest in range(_BUCKET, positions + _BUCKET, _BUCKET):
                self._graph(cache, width, min(longest, positions), candidates)

    def run(self, cache: KVCache, width: int, longest: int, shortest: int, candidates: int) -> None:
        """Run one step of the first ``width`` slots.

        Args:
            cache: the batch's memory.
            width: slots to compute.
            longest, shortest: positions of the longest and the shortest row, this step's included.
            candidates: see `AudioStep`.
        """
        if self._mode == "eager":
            self._step(cache, width, longest, masked=shortest < longest, candidates=candidates)
            return
        length = min(-(-longest // _BUCKET) * _BUCKET, cache.keys[0].shape[2])
        self._graph(cache, width, length, candidates).replay()

    def _graph(self, cache: KVCache, width: int, length: int, candidates: int) -> Any:
        key = (width, length, candidates)
        if key not in cache.graphs:
            cache.graphs[key] = self._capture(cache, width, length, candidates)
        return cache.graphs[key]

    def _capture(self, cache: KVCache, width: int, length: int, candidates: int) -> "torch.cuda.CUDAGraph":
        """Capture a step, after warm-up runs on a side stream as torch requires."""
        import torch

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.warm_up(cache, width, length, candidates)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._step(cache, width, length, masked=True, candidates=candidates)
        return graph

    def warm_up(self, cache: KVCache, width: int, length: int, candidates: int) -> None:
        """Run a step as a graph would hold it, then restore the state.

        The keys and values that it wrote are overwritten by the next real step.
        """
        states = [*cache.states.tensors(), cache.out]
        before = [state.clone() for state in states]
        for _ in range(_WARM_UP_RUNS):
            self._step(cache, width, length, masked=True, candidates=candidates)
            for state, saved in zip(states, before, strict=True):
                state.copy_(saved)
