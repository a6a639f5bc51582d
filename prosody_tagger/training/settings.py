"""What can be set about `train-tagger`, by options, by a file, or by both; an option counts before the file."""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prosody_tagger.errors import BadInput
from prosody_tagger.language import primary_language
from prosody_tagger.model import SHIPPED

Precision = Literal["auto", "float32", "bfloat16"]

EVAL_FRACTION = 0.15
"""Share that is held out where nobody says."""


class TrainSettings(BaseModel):
    """How to train a tagger.

    Attributes:
        data: files to train on, of every form that `reading` knows.
        base: folder or hub name of a GPT-2.
        output: folder for the result.
        epochs: times through the data, at most.
        patience: epochs without a lower evaluation loss before training ends; 0 trains all epochs and keeps the last.
        batch_size: texts in a batch, over all processes.
        batch_tokens: padded tokens in a batch at most, over all processes.
        lr: learning rate at its highest.
        lora_r, lora_alpha, lora_dropout: rank, scale and dropout of the adapter.
        eval_fraction: share of the data that is held out to evaluate on.
        eval_data: files to evaluate on, in place of a share.
        max_examples: train on so many of the examples, drawn by the seed; the evaluation keeps all of its own.
        seed: of everything that is drawn.
        language: tags, such as "en", of the languages that the tagger will know; in others it sets no emphasis. None: it takes all.
        swap_rare: swap rare words for tokens never seen, so that unseen words are known to be rare; for thousands of sentences.
        precision: auto computes in bfloat16 on a GPU that can.
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
    def _tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(primary_language(tag) for tag in tags)

    @model_validator(mode="after")
    def _one_evaluation(self) -> "TrainSettings":
        if self.eval_fraction is not None and self.eval_data:
            raise ValueError("--eval-fraction and --eval-data exclude each other")
        return self

    def as_json(self) -> dict[str, Any]:
        """As `--config` takes it."""
        return self.model_dump(mode="json") | {"eval_fraction": self.held_out_fraction}

    @property
    def held_out_fraction(self) -> float | None:
        """The share that is held out; None where there are files to evaluate on."""
        return None if self.eval_data else self.eval_fraction or EVAL_FRACTION


def load_train_settings(options: dict[str, Any], config: Path | None = None) -> TrainSettings:
    """The settings of a file, with those options before them that were given (that are not None or empty).

    Raises:
        BadInput: a setting that is unknown or cannot be used, or a file that cannot be read.
    """
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    if not given.keys().isdisjoint({"eval_fraction", "eval_data"}) and config is not None:
        # Whichever way of evaluating the command line gives replaces the file's.
        given = {"eval_fraction": None, "eval_data": (), **given}
    try:
        return TrainSettings.model_validate((_read(config) if config else {}) | given)
    except ValidationError as error:
        lines = []
        for found in error.errors(include_url=False):
            name = ".".join(str(part) for part in found["loc"])
            if name == "data" and found["type"] in {"missing", "too_short"}:
                lines.append("no data to train on: give one or more files")
            else:
                lines.append(f"{name} cannot be used: {found['msg']}, got {found['input']!r}" if name else str(found["msg"]))
        raise BadInput("; ".join(lines)) from None


def _read(path: Path) -> dict[str, Any]:
    """TOML or JSON with the names of the settings, or the training.json of an earlier run."""
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"cannot read --config {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise BadInput(f"--config {path} cannot be read: {error}; write TOML, or JSON in a file that ends in .json") from None
    if isinstance(found, dict) and isinstance(found.get("settings"), dict):
        found = found["settings"]
    if not isinstance(found, dict):
        raise BadInput(f"--config {path} holds no settings; write them as name = value")
    return {str(name).replace("-", "_"): value for name, value in found.items()}
