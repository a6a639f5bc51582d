"""Settings of `train-tagger`."""

import json
import math
from pathlib import Path

import pytest

from prosody_tagger.errors import BadInput
from prosody_tagger.training.settings import load_train_settings


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_options_override_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "config.toml", 'data = ["a"]\nlora-r = 4\nepochs = 2\neval_fraction = 0.3\n')
    options = {"epochs": 5, "lr": None, "data": [], "eval_data": [Path("b")]}
    found = load_train_settings(options, config)
    assert (found.lora_r, found.epochs, found.data, found.eval_fraction) == (4, 5, (Path("a"),), None)
    again = write(tmp_path, "training.json", json.dumps({"settings": found.as_json(), "figures": {}}))
    assert load_train_settings({}, again) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no data"),
        ({"data": ["a"], "lr": math.nan}, "lr"),
        ({"data": ["a"], "epochs": 0}, "epochs"),
        ({"data": ["a"], "eval_fraction": 0.1, "eval_data": ["b"]}, "exclude"),
        ({"data": ["a"], "speed": 3}, "speed"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_train_settings(options)


def test_an_invalid_config_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load_train_settings({}, write(tmp_path, "x.toml", "a = = b"))
