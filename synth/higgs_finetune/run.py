"""A whole run: from a manifest and a base model to an adapter that the local backend loads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prosody_tagger.errors import BadInput, DataError
from prosody_tagger.extras import install_command
from prosody_tagger.markup import KINDS
from synth.errors import BackendUnavailable
from synth.higgs_finetune.checkpoints import Checkpoints, save_adapter
from synth.higgs_finetune.codec_cache import CodeStore, identity
from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.evaluation import Evaluation
from synth.higgs_finetune.examples import Example, ExampleWriter
from synth.higgs_finetune.manifest import Row, read_manifest
from synth.higgs_finetune.metrics_log import tensorboard_writer
from synth.higgs_finetune.model_card import draw_curves, write_card
from synth.higgs_finetune.resource_estimate import estimate
from synth.higgs_finetune.samples import Compare, Samples, resemblyzer
from synth.higgs_finetune.settings import FinetuneSettings, checkpoints
from synth.higgs_finetune.targets import add_adapter, compute_in_half, find_targets, mark_tokens
from synth.higgs_finetune.trainer import Evaluate, Figures, Outcome, Watcher, make_accelerator, train
from synth.higgs_local.adapter import TrainedMark, write_prosody
from synth.higgs_local.base_model import BaseModel, of_model
from synth.higgs_local.checkpoint import CODEC_TYPE, MODEL_TYPE, find, find_codec, read_part
from synth.higgs_local.codec_model import codec_class
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.settings import HiggsLocalSettings

_HELD_OUT = 20  # without held-out rows of its own, a run holds out one row of so many
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Job:
    """Where a run finds what it needs, and where it puts what it makes.

    Attributes:
        train_data: manifest.
        val_data: manifest of held-out rows; None holds out every 20th row of ``train_data``, of those with sound.
        model_path: folder or hub name of the base, in the form of transformers.
        codec: folder or hub name of the codec; None is the one within or beside the base, or that its processor names.
        output_dir: for the adapter, its card, the journal, samples and checkpoints.
        codes_dir: where codes are kept; None is ``codes`` in ``output_dir``.
        device: auto is a GPU if there is one; or cpu, or cuda.
        resume: go on from the latest checkpoint.
        tensorboard: write TensorBoard's files as well.
    """

    train_data: Path
    val_data: Path | None
    model_path: str
    codec: str | None
    output_dir: Path
    codes_dir: Path | None = None
    device: str = "auto"
    resume: bool = False
    tensorboard: bool = False


class Screen(Watcher, Protocol):
    """Is told what a run does, besides what `Watcher` is told."""

    def said(self, text: str) -> None: ...

    def counted(self, what: str) -> Callable[[int, int], None]:
        """For something that is counted: called with how many are done, and of how many."""


def run(job: Job, settings: FinetuneSettings, screen: Screen) -> Outcome:
    """Train an adapter.

    Raises:
        BadInput: the manifest, a setting or a run to be resumed that cannot be used.
        BackendUnavailable: model, codec, GPU or an extra that is not there.
        ProsodyError: the run failed: a leak, or a gradient that is not finite.
    """
    import torch

    Checkpoints(checkpoints(job.output_dir), settings.keep_checkpoints).to_go_on_from(resume=job.resume)
    if job.tensorboard:
        tensorboard_writer()
    accelerator = make_accelerator(_device(job.device))
    if accelerator.is_main_process:
        job.output_dir.mkdir(parents=True, exist_ok=True)
    rows, held_out = _rows(job)
    screen.said(f"{len(rows)} rows to train on, {len(held_out)} held out")
    native, tokenizer, folder = load_base(job.model_path, settings, accelerator.device)
    base = of_model(native, job.model_path).base
    codec = Codec(read_part(codec_class(), _codec_folder(job, folder), torch.float32).to(accelerator.device))
    store = _codes(job, codec, [*rows, *held_out], accelerator, screen)
    kinds = {mark.kind for row in rows for mark in row.text.marks}
    marks = mark_tokens(tokenizer, native.config, [kind for kind in KINDS if kind in kinds])
    writer = ExampleWriter(tokenizer, native.config, {kind: mark.id for kind, mark in marks.items()})
    examples, speaking = (_examples(part, writer, store) for part in (rows, held_out))

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
        compute_in_half(model)
    model.peft_config["default"].base_model_name_or_path = job.model_path
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    found = ", ".join(f"{len(names)} of {target}" for target, names in targets.items())
    screen.said(f"trained: {trained / 1e6:.2f} million weights in {found}; marks: {', '.join(marks) or 'none'}")
    need = estimate(model, examples, settings, processes=accelerator.num_processes)
    screen.said(f"this needs {need.told()}")
    if need.is_too_much:
        screen.warned("that is more than there is; lower --batch-size and raise --grad-accum by as much: the result is the same")

    evaluate = _evaluate(job, settings, model, held_out, speaking, codec, accelerator, screen)
    torch.manual_seed(settings.seed + accelerator.process_index)
    outcome = train(
        settings,
        model,
        examples,
        job.output_dir,
        watcher=screen,
        evaluate=evaluate,
        save=lambda folder: _write(model, folder, base, marks),
        resume=job.resume,
        tensorboard=job.tensorboard,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        _write(model, job.output_dir, base, marks)
        counts = (len(rows), len(held_out))
        write_card(job.output_dir, settings, base=job.model_path, marks=marks, rows=counts, need=need.told())
        if not draw_curves(job.output_dir):
            screen.said(f"no picture of the losses: {install_command('plot')}")
    return outcome


def load_base(model_path: str, settings: FinetuneSettings, device: Any) -> tuple[Any, Any, Path]:
    """The base model on ``device`` with its weights frozen, its tokenizer and its folder. The text head is there if text is scored.

    Raises:
        BackendUnavailable: it is not there, or not whole.
        BadInput: text is to be scored, and the checkpoint has no text head.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, HiggsAudioV2ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = find(model_path, None, MODEL_TYPE, "model")
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
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise BackendUnavailable(f"{str(folder)!r} cannot be loaded: {reason}; download the checkpoint again") from None
    missing = set(report["missing_keys"])
    if missing == {"text_lm_head.weight"}:
        raise BadInput(
            f"{str(folder)!r} has no text head, so text cannot be scored; give --text-loss-weight 0, or a checkpoint with one"
        )
    if missing:
        raise BackendUnavailable(f"{str(folder)!r} lacks {len(missing)} weights, {min(missing)!r} first; download it again")
    return model.to(device).requires_grad_(False), tokenizer, folder


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} sees no GPU; give --device cpu, or install a torch built for your GPU")
    return wanted


def _rows(job: Job) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows that are held out."""
    rows = _read_rows(job.train_data)
    if job.val_data is not None:
        return rows, _read_rows(job.val_data)
    spoken = [row for row in rows if row.clip is not None] or rows
    if len(rows) < 2:
        return rows, []
    held_out = spoken[min(len(spoken), _HELD_OUT) - 1 :: _HELD_OUT]
    kept = {id(row) for row in held_out}
    return [row for row in rows if id(row) not in kept], held_out


def _read_rows(path: Path) -> list[Row]:
    manifest = read_manifest(path)
    if manifest.bad:
        told = "\n".join(f"{row.source}: {row.reason}" for row in manifest.bad[:_MOST_NAMED])
        raise DataError(f"{len(manifest.bad)} rows of {str(path)!r} cannot be used; --validate-data-only lists all:\n{told}")
    return list(manifest.rows)


def _codec_folder(job: Job, folder: Path) -> Path:
    if job.codec is not None:
        return find(job.codec, None, CODEC_TYPE, "codec")
    return find_codec(HiggsLocalSettings(), folder)


def _codes(job: Job, codec: Codec, rows: Sequence[Row], accelerator: Any, screen: Screen) -> CodeStore:
    """The codes of all recordings, encoded by the first process if they are not there yet."""
    folder = job.codes_dir or job.output_dir / "codes"
    if accelerator.is_main_process:
        clips = list(dict.fromkeys(clip for row in rows for clip in row.clips))
        CodeStore(folder, codec).prepare(clips, screen.counted("encoding"))
    accelerator.wait_for_everyone()
    return CodeStore(folder, identity(codec))


class _RowExamples(Sequence[Example]):
    """Examples made of rows whenever they are asked for."""

    def __init__(self, rows: Sequence[Row], writer: ExampleWriter, store: CodeStore) -> None:
        self._rows, self._writer, self._store = rows, writer, store

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._writer.write(self._rows[index], self._store.codes)


def _examples(rows: Sequence[Row], writer: ExampleWriter, store: CodeStore) -> Examples:
    return Examples(_RowExamples(rows, writer, store))


def _evaluate(
    job: Job,
    settings: FinetuneSettings,
    model: Any,
    rows: Sequence[Row],
    examples: Examples,
    codec: Codec,
    accelerator: Any,
    screen: Screen,
) -> Evaluate | None:
    if not rows:
        return None
    native = model.get_base_model()
    scored = Evaluation(examples, native.config, settings, accelerator)
    spoken = [index for index, row in enumerate(rows) if row.clip is not None][: settings.sample_rows]
    samples: Samples | None = None
    if spoken and accelerator.is_main_process:
        chosen = [(rows[index], examples[index]) for index in spoken]
        samples = Samples(chosen, codec, job.output_dir / "samples", _similarity(screen))

    def evaluate(module: Any, step: int) -> Figures:
        figures = scored(module, step)
        if samples is not None:
            figures["samples"] = samples(native, step)
        return figures

    return evaluate


def _similarity(screen: Screen) -> Compare | None:
    try:
        return resemblyzer()
    except BackendUnavailable as error:
        screen.said(f"samples are not compared with the voice: {error}")
        return None


def _write(model: Any, folder: Path, base: BaseModel, marks: Mapping[str, TrainedMark]) -> None:
    """The adapter, and what the local backend wants to know of it."""
    save_adapter(model, folder)
    write_prosody(folder, base, marks)
