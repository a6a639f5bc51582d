"""What a run will need, said before it starts: memory, measured on a small batch and scaled up; time, from the speed of the device.

Memory grows by what the layers keep for the gradient, which is in proportion to tokens. What they keep is counted while a small
batch goes through the model itself, so that precision, rank, targets and dropout count as they are.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.data_loader import Examples, Steps
from synth.higgs_finetune.examples import collate
from synth.higgs_finetune.loss import LOGITS_AT_ONCE, HiggsLoss
from synth.higgs_finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    import torch

UTILISATION = 0.4
"""How much of the speed of its matrix products a device is taken to reach in training."""

_TOKENS = 2048  # of the product that the device's speed is measured by
_TRIALS = 4
_LOGITS = 4 * 4  # bytes of each logit: itself, its probability and their gradients, in float32
_SPARE_BYTES = 500_000_000  # of a GPU: its context, and what its allocator cannot use


@dataclass(frozen=True, slots=True)
class Need:
    """An estimate.

    Attributes:
        weights: bytes of the model's weights.
        trained: bytes of the adapter, its gradients and AdamW's moments.
        kept: bytes that the layers keep of the largest batch, and one layer's that are computed again.
        tokens: of an epoch, on all processes.
        steps: of the run.
        seconds: of the run, without evaluations.
        free: bytes that the device has free for what is not there yet; None on a processor.
    """

    weights: int
    trained: int
    kept: int
    tokens: int
    steps: int
    seconds: float
    free: int | None

    @property
    def memory(self) -> int:
        return self.weights + self.trained + self.kept

    def told(self) -> str:
        """In one line."""
        spare = "" if self.free is None else f", {self.free / 1e9:.1f} GB are free beside the weights"
        return (
            f"about {self.memory / 1e9:.2f} GB of memory a process (model {self.weights / 1e9:.2f}, adapter and optimiser "
            f"{self.trained / 1e9:.2f}, batch {self.kept / 1e9:.2f}{spare}) and {_duration(self.seconds)} for {self.steps} steps "
            f"of {self.tokens} tokens an epoch"
        )

    @property
    def is_too_much(self) -> bool:
        return self.free is not None and self.trained + self.kept > self.free


def estimate(model: Any, examples: Examples, settings: FinetuneSettings, *, processes: int = 1) -> Need:
    """What training ``model``, a ``PeftModel`` on its device that checkpoints nothing yet, on ``examples`` needs."""
    import torch

    native = model.get_base_model()
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    weights = sum(weight.nbytes for weight in model.parameters()) - trained
    steps = Steps(examples, native.config, batch_size=settings.batch_size, parts=settings.grad_accum, ranks=processes)
    total = len(steps) * settings.num_epochs
    count = min(total, settings.max_steps or total)
    tokens = sum(examples.lengths)
    longest = sorted(examples.lengths)[-settings.batch_size :]
    largest = longest[-1] * len(longest)
    kept = _kept_bytes(model, examples, settings) * largest
    kept += _LOGITS * min(LOGITS_AT_ONCE, largest * native.audio_lm_head.out_features)
    passes = 3 if settings.gradient_checkpointing else 2  # the base's weights get no gradient
    products = passes * 2 * weights_a_token(native) * tokens * settings.num_epochs * count / total
    free = None
    if native.device.type == "cuda":
        free = torch.cuda.mem_get_info(native.device)[0] - _SPARE_BYTES
    seconds = products / (UTILISATION * products_a_second(native) * processes)
    return Need(weights, 4 * trained, int(kept), tokens, count, seconds, free)


def products_a_second(native: Any) -> float:
    """Floating-point operations a second of matrix products of the model's own shape and type."""
    import torch

    config = native.config
    a = torch.ones(_TOKENS, config.hidden_size, device=native.device, dtype=native.dtype)
    b = torch.ones(config.hidden_size, config.intermediate_size, device=native.device, dtype=native.dtype)

    def seconds() -> float:
        start = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        return time.perf_counter() - start

    return 2 * _TOKENS * b.numel() / min(seconds() for _ in range(_TRIALS))


def weights_a_token(native: Any) -> int:
    """Weights that one token is multiplied with: attention and one of the two networks of each layer, and the audio head."""
    layer = native.model.layers[0]
    attention = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj]
    network = [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    each = sum(part.in_features * part.out_features for part in (*attention, *network))
    head = native.audio_lm_head
    return int(native.config.num_hidden_layers * each + head.in_features * head.out_features)


def _kept_bytes(model: Any, examples: Examples, settings: FinetuneSettings) -> float:
    """Bytes a token that layers keep for the gradient at the moment when there are most."""
    import torch

    shortest = min(range(len(examples)), key=examples.lengths.__getitem__)
    native = model.get_base_model()
    batch = {name: tensor.to(native.device) for name, tensor in collate([examples[shortest]], native.config).items()}
    half = native.dtype == torch.bfloat16
    loss = HiggsLoss(model, text_weight=settings.text_loss_weight, audio_weight=settings.audio_loss_weight, half=half)
    tokens = batch["input_ids"].numel()
    native.train()
    with torch.random.fork_rng([native.device] if native.device.type == "cuda" else []):
        whole = _saved_by(loss, batch) / tokens
    if not settings.gradient_checkpointing:
        return whole
    layers: int = native.config.num_hidden_layers
    inputs: int = native.config.hidden_size * native.dtype.itemsize * layers
    return whole / layers + inputs


def _saved_by(loss: HiggsLoss, batch: "Mapping[str, torch.Tensor]") -> int:
    import torch

    weights = {weight.data_ptr() for weight in loss.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), loss.autocast():
        loss.hidden(batch)
    return sum(seen.values())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
