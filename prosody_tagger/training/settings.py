"""Settings of `train-tagger`, from command-line options and an optional file; options take precedence over the file."""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prosody_tagger.errors import BadInput, os_reason
from prosody_tagger.language import primary_language
from prosody_tagger.model import SHIPPED

Precision = Literal["auto", "float32", "bfloat16"]

EVAL_FRACTION = 0.15
"""Default share of the examples that is held out for evaluation."""


class TrainSettings(BaseModel):
    """How to train a tagger.

    Attributes:
        data: files to train on, in any form that `corpus.readers` accepts.
        base: folder or hub name of a GPT-2.
        output: folder for the result.
        epochs: maximum number of passes over the data.
        patience: number of epochs without a lower evaluation loss after which training stops; 0 trains all epochs and keeps the
            last.
        batch_size: maximum number of texts in a batch, over all processes.
        batch_tokens: maximum number of tokens in a batch, padding included, over all processes.
        lr: peak learning rate.
        lora_r, lora_alpha, lora_dropout: rank, scale and dropout of the adapter.
        eval_fraction: share of the data that is held out for evaluation; None: `EVAL_FRACTION`, unless there is ``eval_data``.
        eval_data: files to evaluate on instead.
        max_examples: train on a random sample of this many examples; the evaluation data are not reduced.
        seed: of the split, the sample, the batches, the initial weights and dropout.
        language: language tags, such as "en", of the training data; the tagger puts no emphasis on text in other languages. Empty:
            it accepts every language.
        swap_rare: replace some rare words by words that never occur, so that the model learns to treat unknown words as rare ones;
            meant for thousands of sentences.
        precision: number format of the forward pass; auto selects bfloat16 on a GPU that supports it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...] = Field(min_length=1)
    base: str = str(SHIPPED / "tagger-base")
    output: Path = Path("output/tagger")
    epochs: int = Field(default=8, ge=1, le=1000)
    patience: int = Field(default=3, ge=0)
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int = Field(default=16_384, ge=1)
    lr: float = Field(default=1e-3, gt=0, le=1, allow_inf_nan=False)
    lora_r: int = Field(default=16, ge=1, le=1024)
    lora_alpha: float = Field(default=32, gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    eval_fraction: float | None = Field(default=None, gt=0, lt=1)
    eval_data: tuple[Path, ...] = ()
    max_examples: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    language: tuple[str, ...] = ()
    swap_rare: bool = False
    precision: Precision = "auto"

    @field_validator("language")
    @classmethod
    def _primary_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(primary_language(tag) for tag in tags)

    @model_validator(mode="after")
    def _one_evaluation(self) -> "TrainSettings":
        if self.eval_fraction is not None and self.eval_data:
            raise ValueError("--eval-fraction and --eval-data exclude each other")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return the settings in the form that ``--config`` accepts."""
        return self.model_dump(mode="json") | {"eval_fraction": self.held_out_fraction}

    @property
    def held_out_fraction(self) -> float | None:
        """The share to hold out; None if there are files to evaluate on."""
        return None if self.eval_data else self.eval_fraction or EVAL_FRACTION


def load_train_settings(options: dict[str, Any], config: Path | None = None) -> TrainSettings:
    """Return the settings of a file, overridden by the options that were given, which are those that are not None or empty.

    Raises:
        BadInput: a setting is unknown or out of range, or the file cannot be read.
    """
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    if not given.keys().isdisjoint({"eval_fraction", "eval_data"}) and config is not None:
        # The evaluation that the command line selects replaces that of the file.
        given = {"eval_fraction": None, "eval_data": (), **given}
    try:
        return TrainSettings.model_validate((_read_config(config) if config else {}) | given)
    except ValidationError as error:
        messages = []
        for found in error.errors(include_url=False):
            name = ".".join(str(part) for part in found["loc"])
            if name == "data" and found["type"] in {"missing", "too_short"}:
                messages.append("no data to train on: give one or more files")
            else:
                messages.append(f"{name} cannot be used: {found['msg']}, got {found['input']!r}" if name else str(found["msg"]))
        raise BadInput("; ".join(messages)) from None


def _read_config(path: Path) -> dict[str, Any]:
    """Read TOML or JSON with the names of the settings, or the training.json of an earlier run.

    Raises:
        BadInput: the file cannot be read, or holds no settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"cannot read --config {path}: {os_reason(error)}") from None
    except ValueError as error:
        raise BadInput(f"--config {path} cannot be read: {error}; write TOML, or JSON in a file named *.json") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = content["settings"]
    if not isinstance(content, dict):
        raise BadInput(f"--config {path} holds no settings; write them as name = value")
    return {str(name).replace("-", "_"): value for name, value in content.items()}
