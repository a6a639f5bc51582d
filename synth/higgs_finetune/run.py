"""A training run: from a manifest and a base model to an adapter that the local backend loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prosody_tagger.errors import BadInput, DataError, first_line
from prosody_tagger.extras import install_command
from prosody_tagger.markup import KINDS
from synth.errors import BackendUnavailable
from synth.higgs_finetune.chatml import ManifestRow
from synth.higgs_finetune.checkpoints import CheckpointStore, save_adapter
from synth.higgs_finetune.codec_cache import CodecCache, ProgressCallback, codec_fingerprint
from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.evaluation import HeldOutEvaluation
from synth.higgs_finetune.examples import ExampleBuilder, TrainingExample
from synth.higgs_finetune.manifest import read_manifest
from synth.higgs_finetune.metrics_log import tensorboard_writer
from synth.higgs_finetune.model_card import draw_curves, write_card
from synth.higgs_finetune.resource_estimate import estimate_resources
from synth.higgs_finetune.samples import SampleGenerator, SpeakerSimilarity, load_resemblyzer
from synth.higgs_finetune.settings import FinetuneSettings, checkpoints_folder
from synth.higgs_finetune.targets import add_adapter, disable_input_cast, find_targets, mark_tokens
from synth.higgs_finetune.trainer import Evaluate, StepMetrics, TrainingObserver, TrainingResult, make_accelerator, train
from synth.higgs_local.base_model import BaseIdentity, describe_model
from synth.higgs_local.checkpoint import CODEC_TYPE, MODEL_TYPE, find_checkpoint, find_codec, load_pretrained
from synth.higgs_local.codec_model import codec_class
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.prosody_file import TrainedMark, write_prosody
from synth.higgs_local.settings import HiggsLocalSettings

_HELD_OUT_EVERY = 20  # without a manifest of held-out rows, every 20th row is held out
_MAX_LISTED = 20  # bad rows that an error message names


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """Inputs and outputs of a run.

    Attributes:
        train_data: manifest of training rows.
        val_data: manifest of held-out rows; None holds out every 20th row of ``train_data`` whose answer is audio.
        model_path: base model in the format of transformers, a folder or a name on the hub.
        codec: codec, a folder or a name on the hub; None is the one in or beside the base model, or that its processor names.
        output_dir: folder of the adapter, its model card, the metrics log, samples and checkpoints.
        codes_dir: folder of the codec cache; None is ``codes`` in ``output_dir``.
        device: cpu or cuda; auto is cuda if there is a GPU.
        resume: continue from the latest checkpoint.
        overwrite: delete the checkpoints that are there and start again.
        tensorboard: write TensorBoard's files too.
    """

    train_data: Path
    val_data: Path | None
    model_path: str
    codec: str | None
    output_dir: Path
    codes_dir: Path | None = None
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False


class Display(TrainingObserver, Protocol):
    """What shows a run to the user, from loading to the end."""

    def show_message(self, text: str) -> None:
        """Show a line."""

    def add_bar(self, description: str) -> ProgressCallback:
        """Show a progress bar; return the callback that moves it."""


def run(job: FinetuneJob, settings: FinetuneSettings, display: Display) -> TrainingResult:
    """Train an adapter and write it to ``job.output_dir``.

    Raises:
        BadInput: the manifest or a setting cannot be used, or a run is in the way or cannot be resumed.
        BackendUnavailable: model, codec, GPU or an extra is missing.
        ProsodyError: training failed: the labels leak, or a gradient is not finite.
    """
    import torch

    # Checked first, since the recordings may take hours to encode; `train` checks again.
    checkpoints = CheckpointStore(checkpoints_folder(job.output_dir), settings.keep_checkpoints)
    checkpoints.find_start(resume=job.resume, overwrite=job.overwrite)
    if job.tensorboard:
        tensorboard_writer()
    accelerator = make_accelerator(_device(job.device))
    if accelerator.is_main_process:
        job.output_dir.mkdir(parents=True, exist_ok=True)
    train_rows, held_out_rows = _read_data(job)
    display.show_message(f"{len(train_rows)} rows to train on, {len(held_out_rows)} held out")
    native, tokenizer, folder = load_base(job.model_path, settings, accelerator.device)
    base = describe_model(native, job.model_path).base
    codec = Codec(load_pretrained(codec_class(), _codec_folder(job, folder), torch.float32).to(accelerator.device))
    cache = _fill_cache(job, codec, [*train_rows, *held_out_rows], accelerator, display)
    kinds = {mark.kind for row in train_rows for mark in row.text.marks}
    marks = mark_tokens(tokenizer, native.config, [kind for kind in KINDS if kind in kinds])
    builder = ExampleBuilder(tokenizer, native.config, {kind: mark.id for kind, mark in marks.items()})
    train_examples, held_out_examples = (
        ExampleDataset(_BuiltExamples(rows, builder, cache)) for rows in (train_rows, held_out_rows)
    )

    model = _adapt(native, job, settings, marks, display)
    estimate = estimate_resources(model, train_examples, settings, processes=accelerator.num_processes)
    display.show_message(f"this run needs {estimate.summary()}")
    if estimate.exceeds_memory:
        display.on_warning(
            "that is more memory than is free; divide --batch-size and multiply --grad-accum by the same number, "
            "which gives the same result"
        )

    evaluate = _make_evaluate(job, settings, model, held_out_rows, held_out_examples, codec, accelerator, display)
    torch.manual_seed(settings.seed + accelerator.process_index)
    result = train(
        settings,
        model,
        train_examples,
        job.output_dir,
        observer=display,
        evaluate=evaluate,
        save=lambda folder: _write_adapter(model, folder, base, marks),
        resume=job.resume,
        overwrite=job.overwrite,
        tensorboard=job.tensorboard,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        _write_adapter(model, job.output_dir, base, marks)
        counts = (len(train_rows), len(held_out_rows))
        write_card(job.output_dir, settings, base=job.model_path, marks=marks, rows=counts, estimate=estimate.summary())
        if not draw_curves(job.output_dir):
            display.show_message(f"no picture of the losses: matplotlib is not installed; {install_command('plot')}")
    return result


def load_base(model_path: str, settings: FinetuneSettings, device: Any) -> tuple[Any, Any, Path]:
    """Return the base model on ``device`` with frozen weights, its tokenizer and its folder.

    The text head is loaded only if text is scored.

    Raises:
        BackendUnavailable: the model is missing or incomplete.
        BadInput: text is to be scored, and the checkpoint has no text head.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, HiggsAudioV2ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = find_checkpoint(model_path, None, MODEL_TYPE, "model")
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if torch.device(device).type == "cuda" else "fp32"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = HiggsAudioV2ForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            use_text_head=settings.text_loss_weight > 0,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise BackendUnavailable(f"{str(folder)!r} cannot be loaded: {first_line(error)}; download the checkpoint again") from None
    missing = set(report["missing_keys"])
    if missing == {"text_lm_head.weight"}:
        raise BadInput(
            f"{str(folder)!r} has no text head, so text cannot be scored; give --text-loss-weight 0, or a checkpoint with one"
        )
    if missing:
        raise BackendUnavailable(
            f"{str(folder)!r} lacks {len(missing)} weights, for example {min(missing)!r}; download the checkpoint again"
        )
    return model.to(device).requires_grad_(False), tokenizer, folder


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} sees no GPU; give --device cpu, or install a torch built for your GPU")
    return wanted


def _read_data(job: FinetuneJob) -> tuple[list[ManifestRow], list[ManifestRow]]:
    """Return the training rows and the held-out rows."""
    rows = _read_rows(job.train_data)
    if job.val_data is not None:
        return rows, _read_rows(job.val_data)
    spoken = [row for row in rows if row.clip is not None] or rows
    if len(rows) < 2:
        return rows, []
    held_out = spoken[min(len(spoken), _HELD_OUT_EVERY) - 1 :: _HELD_OUT_EVERY]
    held_out_ids = {id(row) for row in held_out}
    return [row for row in rows if id(row) not in held_out_ids], held_out


def _read_rows(path: Path) -> list[ManifestRow]:
    manifest = read_manifest(path)
    if manifest.bad:
        listed = "\n".join(f"{row.source}: {row.reason}" for row in manifest.bad[:_MAX_LISTED])
        raise DataError(f"{len(manifest.bad)} rows of {str(path)!r} cannot be used; --validate-data-only lists all:\n{listed}")
    return list(manifest.rows)


def _codec_folder(job: FinetuneJob, folder: Path) -> Path:
    if job.codec is not None:
        return find_checkpoint(job.codec, None, CODEC_TYPE, "codec")
    return find_codec(HiggsLocalSettings(), folder)


def _fill_cache(job: FinetuneJob, codec: Codec, rows: Sequence[ManifestRow], accelerator: Any, display: Display) -> CodecCache:
    """Return the cache with the codes of all recordings. The first process encodes those that are missing."""
    folder = job.codes_dir or job.output_dir / "codes"
    if accelerator.is_main_process:
        clips = list(dict.fromkeys(clip for row in rows for clip in row.clips))
        CodecCache(folder, codec).prepare(clips, display.add_bar("encoding"))
    accelerator.wait_for_everyone()
    return CodecCache(folder, codec_fingerprint(codec))


class _BuiltExamples(Sequence[TrainingExample]):
    """Examples of rows, built each time that they are indexed."""

    def __init__(self, rows: Sequence[ManifestRow], builder: ExampleBuilder, cache: CodecCache) -> None:
        self._rows, self._builder, self._cache = rows, builder, cache

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._builder.build(self._rows[index], self._cache.codes)


def _adapt(native: Any, job: FinetuneJob, settings: FinetuneSettings, marks: Mapping[str, TrainedMark], display: Display) -> Any:
    """Return the base model with a new adapter, a ``PeftModel``, and show its size."""
    import torch

    torch.manual_seed(settings.seed)
    targets = find_targets(native, settings.targets)
    model = add_adapter(
        native,
        settings.targets,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        mark_ids=[mark.id for mark in marks.values()],
    )
    if native.dtype == torch.bfloat16:
        disable_input_cast(model)
    model.peft_config["default"].base_model_name_or_path = job.model_path
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    layers = ", ".join(f"{len(names)} of {target}" for target, names in targets.items())
    display.show_message(f"training {trained / 1e6:.2f} million weights in layers: {layers}; marks: {', '.join(marks) or 'none'}")
    return model


def _make_evaluate(
    job: FinetuneJob,
    settings: FinetuneSettings,
    model: Any,
    rows: Sequence[ManifestRow],
    examples: ExampleDataset,
    codec: Codec,
    accelerator: Any,
    display: Display,
) -> Evaluate | None:
    if not rows:
        return None
    native = model.get_base_model()
    compute_losses = HeldOutEvaluation(examples, native.config, settings, accelerator)
    spoken = [index for index, row in enumerate(rows) if row.clip is not None][: settings.sample_rows]
    generate: SampleGenerator | None = None
    if spoken and accelerator.is_main_process:
        chosen = [(rows[index], examples[index]) for index in spoken]
        generate = SampleGenerator(chosen, codec, job.output_dir / "samples", _similarity(display))

    def evaluate(module: Any, step: int) -> StepMetrics:
        metrics = compute_losses(module, step)
        if generate is not None:
            metrics["samples"] = generate(native, step)
        return metrics

    return evaluate


def _similarity(display: Display) -> SpeakerSimilarity | None:
    try:
        return load_resemblyzer()
    except BackendUnavailable as error:
        display.show_message(f"samples are not compared with the speaker's voice: {error}")
        return None


def _write_adapter(model: Any, folder: Path, base: BaseIdentity, marks: Mapping[str, TrainedMark]) -> None:
    """Write the adapter, and the ``prosody.json`` that the local backend reads."""
    save_adapter(model, folder)
    write_prosody(folder, base, marks)
