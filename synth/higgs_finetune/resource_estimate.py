"""Estimate of a run before it starts: memory, measured on a small batch and scaled up; time, from the speed of the device.

Memory for activations is proportional to tokens. It is measured while a small batch runs through the model, so the effects of
precision, rank, targets and dropout are included.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.data_loader import ExampleDataset, StepLoader
from synth.higgs_finetune.examples import collate
from synth.higgs_finetune.loss import MAX_LOGITS, HiggsLoss
from synth.higgs_finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    import torch

UTILISATION = 0.4
"""Share of the device's matrix product speed that training is assumed to reach. `benchmarks/higgs_train.py` measures it."""

_TOKENS = 2048  # rows of the matrix product that measures the device's speed
_TRIALS = 4
_BYTES_PER_LOGIT = 4 * 4  # float32 each: logit, probability and their gradients
_SPARE_BYTES = 500_000_000  # of a GPU's memory, for its context and the fragmentation of its allocator


@dataclass(frozen=True, slots=True)
class ResourceEstimate:
    """Memory and time of a run.

    Attributes:
        weights: bytes of the model's weights.
        trained: bytes of the adapter, its gradients and the state of AdamW.
        activations: bytes of activations of the largest batch, with one recomputed layer.
        tokens: tokens of an epoch, on all processes.
        steps: steps of the run.
        seconds: duration of the run without evaluations.
        free: bytes that are free on the device beside the loaded weights; None without a GPU.
    """

    weights: int
    trained: int
    activations: int
    tokens: int
    steps: int
    seconds: float
    free: int | None

    @property
    def memory(self) -> int:
        """All bytes together."""
        return self.weights + self.trained + self.activations

    def summary(self) -> str:
        """Return the estimate in a line."""
        free = "" if self.free is None else f", {self.free / 1e9:.1f} GB are free beside the weights"
        return (
            f"about {self.memory / 1e9:.2f} GB of memory per process (model {self.weights / 1e9:.2f}, adapter and optimizer "
            f"{self.trained / 1e9:.2f}, batch {self.activations / 1e9:.2f}{free}) and {_duration(self.seconds)} for {self.steps} "
            f"steps; an epoch has {self.tokens} tokens"
        )

    @property
    def exceeds_memory(self) -> bool:
        """Whether the run needs more memory than is free."""
        return self.free is not None and self.trained + self.activations > self.free


def estimate_resources(model: Any, examples: ExampleDataset, settings: FinetuneSettings, *, processes: int = 1) -> ResourceEstimate:
    """Return the estimate of training ``model``, a ``PeftModel`` on its device without gradient checkpointing, on ``examples``."""
    import torch

    native = model.get_base_model()
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    weights = sum(weight.nbytes for weight in model.parameters()) - trained
    loader = StepLoader(examples, native.config, batch_size=settings.batch_size, micro_batches=settings.grad_accum, ranks=processes)
    total = len(loader) * settings.num_epochs
    steps = min(total, settings.max_steps or total)
    tokens = sum(examples.lengths)
    longest = sorted(examples.lengths)[-settings.batch_size :]
    largest = longest[-1] * len(longest)
    activations = _activation_bytes_per_token(model, examples, settings) * largest
    activations += _BYTES_PER_LOGIT * min(MAX_LOGITS, largest * native.audio_lm_head.out_features)
    passes = 3 if settings.gradient_checkpointing else 2  # forward, backward, recomputed; frozen weights get no gradient
    operations = passes * 2 * weights_per_token(native) * tokens * settings.num_epochs * steps / total
    free = None
    if native.device.type == "cuda":
        free = torch.cuda.mem_get_info(native.device)[0] - _SPARE_BYTES
    seconds = operations / (UTILISATION * matmul_speed(native) * processes)
    return ResourceEstimate(weights, 4 * trained, int(activations), tokens, steps, seconds, free)


def matmul_speed(native: Any) -> float:
    """Return the measured floating-point operations per second of matrix products of the model's own shape and type."""
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


def weights_per_token(native: Any) -> int:
    """Return the number of weights that a token is multiplied with: attention and one FFN of each layer, and the audio head."""
    layer = native.model.layers[0]
    attention = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj]
    ffn = [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    per_layer = sum(part.in_features * part.out_features for part in (*attention, *ffn))
    head = native.audio_lm_head
    return int(native.config.num_hidden_layers * per_layer + head.in_features * head.out_features)


def _activation_bytes_per_token(model: Any, examples: ExampleDataset, settings: FinetuneSettings) -> float:
    """Return the peak bytes of activations per token, measured on the shortest example."""
    import torch

    shortest = min(range(len(examples)), key=examples.lengths.__getitem__)
    native = model.get_base_model()
    batch = {name: tensor.to(native.device) for name, tensor in collate([examples[shortest]], native.config).items()}
    half = native.dtype == torch.bfloat16
    loss = HiggsLoss(model, text_weight=settings.text_loss_weight, audio_weight=settings.audio_loss_weight, half=half)
    tokens = batch["input_ids"].numel()
    native.train()
    with torch.random.fork_rng([native.device] if native.device.type == "cuda" else []):
        all_layers = _saved_bytes(loss, batch) / tokens
    if not settings.gradient_checkpointing:
        return all_layers
    layers: int = native.config.num_hidden_layers
    inputs: int = native.config.hidden_size * native.dtype.itemsize * layers
    return all_layers / layers + inputs


def _saved_bytes(loss: HiggsLoss, batch: "Mapping[str, torch.Tensor]") -> int:
    """Return the bytes of all tensors that the layers save for the backward pass, weights excluded."""
    import torch

    weights = {weight.data_ptr() for weight in loss.parameters()}
    saved: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor), loss.autocast():
        loss.hidden_states(batch)
    return sum(saved.values())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
