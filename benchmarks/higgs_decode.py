"""Measure how fast Higgs decodes: transformers' generate() eager and with a static cache, and higgs-local, in one run.

On a GPU the model has the real shape (bfloat16, random weights), elsewhere a tiny one; nothing is downloaded. The codec is a tiny
one in both cases, so the first audio takes a little longer with the real one. Bandwidth is measured by copying; the tiny model is
limited by overhead, so its share of the bandwidth is not informative.

python benchmarks/higgs_decode.py [--frames 200] [--batches 1 4 16] [--decode auto|eager|graph|compile] [--tiny] [--json]
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before tests/, whose folder synth would hide the package
from tiny_higgs import rows_of_eos, tiny_codec, tiny_model, tiny_tokenizer

from synth.higgs_local.checkpoint import HiggsCheckpoint
from synth.higgs_local.engine import Context, HiggsEngine, Prompt, Sampling
from synth.higgs_local.settings import HiggsLocalSettings

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen."
REFERENCE_FRAMES = 250  # a reference recording of ten seconds
WARM_UP_FRAMES = 16  # subtracted from the measurement
DRAWN = Sampling(0.7, 0.95, 50, 7, 2, 0)
LIKELIEST = Sampling(0.0)


@dataclass(frozen=True)
class Figure:
    """The measurement of one method at one batch size.

    Attributes:
        ms_a_frame: milliseconds per step, which decodes a frame of every row.
        real_time: seconds of audio per second, summed over rows.
        bandwidth: bytes that a step must read per second, relative to the memory bandwidth.
        first_audio_ms: from the prompts to the first audio of the first row; None for generate(), which does not stream.
        peak_gb: peak memory of the GPU, else of the process.
        equal: share of codes equal to those of eager generate(); None for sampling.
    """

    way: str
    batch: int
    ms_a_frame: float
    real_time: float
    bandwidth: float
    first_audio_ms: float | None
    peak_gb: float
    equal: float | None


def main() -> None:
    options = _options()
    on_gpu = torch.cuda.is_available() and not options.tiny
    if not on_gpu:
        torch.set_num_threads(1)
    engine = make_engine("cuda" if on_gpu else "cpu", max(options.batches), options.decode)
    bandwidth = measured_bandwidth(engine.model.device)
    figures = [figure for batch in options.batches for figure in figures_of(engine, batch, options.frames, bandwidth)]
    if options.json:
        sys.stdout.write(
            json.dumps({**about(engine, bandwidth), "figures": [asdict(figure) for figure in figures]}, indent=1) + "\n"
        )
    else:
        show(about(engine, bandwidth), figures)


def make_engine(device: str, most: int, decode: str) -> HiggsEngine:
    """Return an engine with random weights that never generates EOS, of the real shape on a GPU."""
    model = real_model() if device == "cuda" else tiny_model()
    settings = HiggsLocalSettings(device=device, max_batch=most, decode=decode)
    return HiggsEngine(HiggsCheckpoint(model, tiny_tokenizer(), tiny_codec().to(device), Path()), settings)


def real_model() -> Any:
    from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = HiggsAudioV2ForConditionalGeneration(HiggsAudioV2Config(codebook_size=1026)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    rows_of_eos(model).zero_()
    return model


def figures_of(engine: HiggsEngine, batch: int, frames: int, bandwidth: float) -> list[Figure]:
    """Measure all methods for ``batch`` rows of the same prompt."""
    prompt = make_prompt(engine)
    static = {"cache_implementation": "static"} | ({"disable_compile": True} if engine.model.device.type == "cpu" else {})
    drawn = {"do_sample": True, "temperature": DRAWN.temperature, "top_k": DRAWN.top_k, "top_p": DRAWN.top_p}
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "generate(), eager": lambda most: generate(engine, prompt, batch, most),
        "generate(), static cache": lambda most: generate(engine, prompt, batch, most, **static),
        "ours": lambda most: ours(engine, prompt, batch, most, LIKELIEST),
        "generate(), eager, drawn": lambda most: generate(engine, prompt, batch, most, **drawn),
        "ours, drawn": lambda most: ours(engine, prompt, batch, most, DRAWN),
    }
    read = bytes_a_frame(engine.model, batch, len(prompt) + WARM_UP_FRAMES + frames // 2)
    found: list[Figure] = []
    expected = None
    for name, run in ways.items():
        if engine.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, codes = per_frame(run, frames, engine.model.device)
        expected = codes if expected is None else expected
        first = first_audio(engine, prompt, batch, DRAWN if "drawn" in name else LIKELIEST) if name.startswith("ours") else None
        equal = None if "drawn" in name else float((codes == expected).float().mean())
        speed = batch / engine.frames_per_second / seconds
        share = read / bandwidth / seconds
        found.append(Figure(name, batch, seconds * 1e3, speed, share, first, peak_gb(engine.model.device), equal))
    return found


def make_prompt(engine: HiggsEngine) -> Prompt:
    codes = torch.randint(0, 1024, (REFERENCE_FRAMES, 8), generator=torch.Generator().manual_seed(0))
    return engine.prompt(TEXT, context=Context(TEXT, codes))


def generate(engine: HiggsEngine, prompt: Prompt, batch: int, most: int, **options: Any) -> torch.Tensor:
    """Return the delayed frames of generate(), [batch, most, codebooks]."""
    model = engine.model
    model.generation_config.ras_win_len = DRAWN.ras_window if options.get("do_sample") else None
    model.generation_config.ras_win_max_num_repeat = DRAWN.ras_repeats if options.get("do_sample") else None
    ids, audio = (some[None].expand(batch, *some.shape).to(model.device) for some in (prompt.ids, prompt.audio))
    found: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        audio_input_ids=audio,
        audio_input_ids_mask=torch.ones(audio.shape[:2], dtype=torch.bool, device=model.device),
        max_new_tokens=most,
        **{"do_sample": False, **options},
    )
    return found[:, audio.shape[1] :].cpu()


def ours(engine: HiggsEngine, prompt: Prompt, batch: int, most: int, sampling: Sampling) -> torch.Tensor:
    """Return the delayed frames of higgs-local, [batch, most, codebooks]."""
    running = engine.start([prompt] * batch, [sampling] * batch, [most - 8] * batch)
    while running.running:
        running.step()
    return torch.stack([running.delayed(row) for row in range(batch)])


def per_frame(run: Callable[[int], torch.Tensor], frames: int, device: torch.device) -> tuple[float, torch.Tensor]:
    """Return the seconds per frame without the prompt's share, from two lengths, the best of three runs each."""
    run(WARM_UP_FRAMES + frames)
    best: dict[int, float] = {}
    codes = torch.empty(0)
    for most in (WARM_UP_FRAMES, WARM_UP_FRAMES + frames):
        for _ in range(3):
            before = now(device)
            codes = run(most)
            best[most] = min(best.get(most, float("inf")), now(device) - before)
    return (best[WARM_UP_FRAMES + frames] - best[WARM_UP_FRAMES]) / frames, codes


def first_audio(engine: HiggsEngine, prompt: Prompt, batch: int, sampling: Sampling) -> float:
    """Return the milliseconds to the first audio of ``batch`` rows that start together; the best of three runs."""
    times = []
    for _ in range(3):
        begin = now(engine.model.device)
        running = engine.start([prompt] * batch, [sampling] * batch, [100] * batch)
        stream, have = engine.stream(), 0
        while True:
            running.step()
            codes = running.codes(0, have)
            have += len(codes)
            if len(codes) and len(stream.push(codes).samples):
                break
        times.append((time.perf_counter() - begin) * 1e3)
        running.close()
    return min(times)


def bytes_a_frame(model: Any, batch: int, positions: int) -> int:
    """Return the bytes that a step must read: the weights of the audio path, and the keys and values of all rows."""
    config, each = model.config, model.dtype.itemsize
    unused = (".mlp.", "embed_", "text_lm_head", ".input_layernorm", ".post_attention_layernorm")
    weights = sum(weight.numel() for name, weight in model.named_parameters() if not any(part in name for part in unused))
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * positions * batch
    return (weights + cache) * each


def measured_bandwidth(device: torch.device) -> float:
    """Return the memory bandwidth in bytes per second, reads and writes of a large copy; the best of ten runs."""
    amount = 1 << (32 if device.type == "cuda" else 28)
    here, there = (torch.zeros(amount, dtype=torch.uint8, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        before = now(device)
        there.copy_(here)
        best = min(best, now(device) - before)
    return 2 * amount / best


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def about(engine: HiggsEngine, bandwidth: float) -> dict[str, Any]:
    device = engine.model.device
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "parameters": sum(weight.numel() for weight in engine.model.parameters()),
        "dtype": str(engine.model.dtype),
        "gigabytes_a_second": bandwidth / 1e9,
    }


def show(about: dict[str, Any], figures: list[Figure]) -> None:
    table = Table(
        *("way", "batch", "ms a frame", "x eager", "x real time", "of bandwidth", "first audio", "peak GB", "equal codes")
    )
    eager = {(figure.batch, "drawn" in figure.way): figure.ms_a_frame for figure in figures if "eager" in figure.way}
    for figure in figures:
        table.add_row(
            figure.way,
            str(figure.batch),
            f"{figure.ms_a_frame:.3f}",
            f"{eager[figure.batch, 'drawn' in figure.way] / figure.ms_a_frame:.2f}",
            f"{figure.real_time:.1f}",
            f"{figure.bandwidth:.1%}",
            "" if figure.first_audio_ms is None else f"{figure.first_audio_ms:.0f} ms",
            f"{figure.peak_gb:.2f}",
            "" if figure.equal is None else f"{figure.equal:.1%}",
        )
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        ", ".join(f"{key} {value:,.0f}" if isinstance(value, float) else f"{key} {value}" for key, value in about.items())
    )
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=200, help="frames that are timed")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--decode", choices=["auto", "eager", "graph", "compile"], default="auto", help="how our step runs")
    parser.add_argument("--tiny", action="store_true", help="the tiny shape on the processor, though there is a GPU")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
