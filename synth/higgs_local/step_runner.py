"""How a step is run: as it is, or recorded once as a CUDA graph and replayed."""

from typing import TYPE_CHECKING, Any, Literal

from synth.higgs_local.decode_step import AudioStep
from synth.higgs_local.kv_cache import Places

if TYPE_CHECKING:
    import torch

Mode = Literal["eager", "graph", "compile"]
"""eager runs as it is; graph records CUDA graphs; compile has torch.compile fuse the step before it is recorded."""

_POSITIONS = 256  # a graph serves rows up to a multiple of this
_TRIALS = 3


class Runner:
    """Runs the steps of one model.

    A graph reads the weights where they were when it was recorded; they may change there.

    Attributes:
        in_flight: steps that may be on their way before anybody looks at the first.
    """

    def __init__(self, model: Any, mode: Mode) -> None:
        self.in_flight = 0 if model.device.type == "cpu" else 4
        self._mode = mode
        self._step = AudioStep(model, fuse=mode == "compile")
        self._pool: Any = None

    def width(self, rows: int, most: int) -> int:
        """How many places are computed for rows in the first ``rows`` ones: graphs are recorded for powers of two."""
        return rows if self._mode == "eager" else min(1 << (rows - 1).bit_length(), most)

    def prepare(self, places: Places, candidates: int) -> None:
        """Record every step that rows in ``places`` may need, if steps are recorded at all."""
        if self._mode == "eager":
            return
        widths = sorted({self.width(rows, len(places)) for rows in range(1, len(places) + 1)})
        positions = places.keys[0].shape[2]
        for width in widths:
            for longest in range(_POSITIONS, positions + _POSITIONS, _POSITIONS):
                self._recorded(places, width, min(longest, positions), candidates)

    def run(self, places: Places, width: int, longest: int, shortest: int, candidates: int) -> None:
        """One step of the rows in the first ``width`` places, which have ``shortest`` to ``longest`` positions with this one."""
        if self._mode == "eager":
            self._step(places, width, longest, masked=shortest < longest, candidates=candidates)
            return
        length = min(-(-longest // _POSITIONS) * _POSITIONS, places.keys[0].shape[2])
        self._recorded(places, width, length, candidates).replay()

    def _recorded(self, places: Places, width: int, length: int, candidates: int) -> Any:
        key = (width, length, candidates)
        if key not in places.recorded:
            places.recorded[key] = self._record(places, width, length, candidates)
        return places.recorded[key]

    def _record(self, places: Places, width: int, length: int, candidates: int) -> "torch.cuda.CUDAGraph":
        """Record a step, after trials in which all that is made once is made."""
        import torch

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.rehearse(places, width, length, candidates)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._step(places, width, length, masked=True, candidates=candidates)
        return graph

    def rehearse(self, places: Places, width: int, length: int, candidates: int) -> None:
        """Run a step as a graph would hold it, and put back what it changed; the keys and values that it wrote are written anew."""
        states = [*places.rows.all(), places.out]
        before = [state.clone() for state in states]
        for _ in range(_TRIALS):
            self._step(places, width, length, masked=True, candidates=candidates)
            for state, old in zip(states, before, strict=True):
                state.copy_(old)
