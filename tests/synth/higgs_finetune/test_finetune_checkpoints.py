"""Checkpoints: their format on disk, and when a run resumes, refuses or overwrites."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_finetune_examples import fit, random_speech, small_model, trained_weights

from prosody_tagger.errors import BadInput
from synth.higgs_finetune.batch_sampler import LengthGroupedSampler
from synth.higgs_finetune.checkpoints import CheckpointStore, RunState, read_state
from synth.higgs_finetune.metrics_log import read_metrics
from synth.higgs_finetune.settings import FinetuneSettings

RUN: dict[str, Any] = {"batch_size": 2, "grad_accum": 1, "num_epochs": 2, "learning_rate": 1e-2, "save_every": 1}


def checkpoint_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_format_of_checkpoints_is_unchanged(tmp_path: Path) -> None:
    """Checkpoints that older versions wrote must stay readable, and theirs have these keys."""
    fit(small_model(), random_speech(4, small_model().config), tmp_path, max_steps=1, **RUN)
    folder = tmp_path / "checkpoints" / "00000001"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "random-0.pt",
        "state.json",
    }
    state = json.loads((folder / "state.json").read_text())
    assert list(state) == ["step", "place", "course", "found"]
    assert list(state["place"]) == ["epoch", "step", "seed", "examples", "examples of a step", "checksum of the lengths"]
    not_in_key = {"save_every", "keep_checkpoints", "eval_every", "sample_rows", "loader_workers", "max_steps"}
    assert state["course"].keys() == {*FinetuneSettings.model_fields, "processes"} - not_in_key
    assert list(state["found"]) == ["text_first", "text", "audio_first", "audio", "steps"]
    assert set(torch.load(folder / "random-0.pt", weights_only=True)) == {"torch", "cuda", "numpy", "python"}


def test_the_state_of_an_older_checkpoint_is_read(tmp_path: Path) -> None:
    place = {"epoch": 1, "step": 1, "seed": 0, "examples": 3, "examples of a step": 2, "checksum of the lengths": 2733531948}
    state = {"step": 3, "place": place, "course": {"lora_r": 16, "processes": 1}, "found": {"text": 5.5, "steps": 3}}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert read_state(tmp_path) == RunState(3, place, state["course"], state["found"])
    sampler = LengthGroupedSampler([3, 9, 4], 2)
    sampler.load_state(place)
    assert (sampler.epoch, sampler.step) == (1, 1)


@pytest.mark.parametrize("content", [None, "", "[]", '{"step": 1}', '{"step": "x", "place": {}, "course": {}, "found": {}}'])
def test_a_damaged_state_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(BadInput, match="is not a checkpoint of a run"):
        read_state(tmp_path)


def test_a_run_is_neither_resumed_nor_deleted_without_being_asked(tmp_path: Path) -> None:
    rows = random_speech(4, small_model().config)
    fit(small_model(), rows, tmp_path, **RUN)
    before = checkpoint_names(tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(BadInput, match="holds a run of 4 steps; give --resume to continue it, --overwrite to delete it"):
        fit(small_model(), rows, tmp_path, **RUN)
    with pytest.raises(BadInput, match="exclude each other"):
        fit(small_model(), rows, tmp_path, resume=True, overwrite=True, **RUN)
    assert checkpoint_names(tmp_path) == before == ["00000003", "00000004"]
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_overwriting_gives_the_same_run_as_an_empty_folder(tmp_path: Path) -> None:
    rows = random_speech(4, small_model().config)
    fit(small_model(), rows, tmp_path / "used", seed=1, **RUN)
    again, result, recorder = fit(small_model(), rows, tmp_path / "used", overwrite=True, max_steps=2, **RUN)
    fresh, _, expected = fit(small_model(), rows, tmp_path / "fresh", overwrite=True, max_steps=2, **RUN)
    assert result.step == 2
    assert recorder.losses == expected.losses
    assert all(torch.equal(weight, trained_weights(again)[name]) for name, weight in trained_weights(fresh).items())
    assert checkpoint_names(tmp_path / "used") == checkpoint_names(tmp_path / "fresh") == ["00000001", "00000002"]
    assert [line["step"] for line in read_metrics(tmp_path / "used" / "log.jsonl")] == [1, 2]


def test_the_store_finds_the_newest_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.find_start(resume=False) is store.find_start(resume=True) is store.find_start(resume=False, overwrite=True) is None
    for name in ("00000002", "00000010", ".00000012.unfinished", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert store.find_start(resume=True) == tmp_path / "checkpoints" / "00000010"
    assert store.find_start(resume=False, overwrite=True) is None
    store.clear()
    assert not (tmp_path / "checkpoints").exists()
