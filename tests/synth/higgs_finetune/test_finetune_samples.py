"""Speech generated from a trained model of a few thousand weights, and its measurements."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from higgs_finetune_examples import Recorder, fit, random_speech, small_model, speech, tokens_of_marks
from tiny_higgs import tiny_codec

from prosody_tagger.markup import plain
from synth.audio.encoding import encode
from synth.base import Audio
from synth.higgs_finetune.chatml import ManifestRow, Turn
from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.examples import TrainingExample
from synth.higgs_finetune.samples import SampleGenerator, generate_codes, generation_prompt, learnt_frames, silence_share
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, disable_input_cast
from synth.higgs_finetune.trainer import train
from synth.higgs_local.codec_stream import Codec
from synth.higgs_local.sampling import Sampling

ALL = ["attention", "audio-ffn", "heads"]
GREEDY = Sampling(temperature=0.0)


def test_one_clip_can_be_overfitted_with_its_end(tmp_path: Path) -> None:
    model = small_model(hidden_size=64)
    config = model.config
    generator = torch.Generator().manual_seed(1)
    codes, voice = (torch.randint(1024, (frames, 8), generator=generator) for frames in (19, 5))
    clip = speech([5, 6, 7, 8], codes, config, reference=voice)
    assert learnt_frames(clip, config) == 19
    assert len(generation_prompt(clip, config)) == len(clip.input_ids) - (19 + 2 + 7) - 1
    trained, _, _ = fit(
        model,
        [clip],
        tmp_path,
        targets=ALL,
        learning_rate=1e-2,
        num_epochs=100,
        batch_size=1,
        grad_accum=1,
        lora_r=32,
        lora_alpha=64,
    )
    (sample,) = generate_codes(trained.get_base_model(), [clip], GREEDY)
    assert not sample.cut
    assert len(sample.codes) == 19
    assert (sample.codes == codes).float().mean() >= 0.99


def test_a_half_precision_model_trains_and_generates(tmp_path: Path) -> None:
    model = small_model().to(torch.bfloat16)
    rows = random_speech(2, model.config)
    disable_input_cast(adapted := add_adapter(model, ["attention", "audio-ffn"]))
    recorder = Recorder()
    settings = FinetuneSettings(num_epochs=10, learning_rate=1e-2)
    train(settings, adapted, ExampleDataset(rows), tmp_path, observer=recorder)
    assert recorder.losses[-1] < recorder.losses[0] - 0.1
    samples = generate_codes(adapted.get_base_model(), rows, GREEDY)
    assert all(len(one.codes) for one in samples)


def marked_rows(count: int, marks: dict[str, int], config: Any, *, seed: int) -> list[tuple[TrainingExample, torch.Tensor]]:
    """Return random texts with an emphasis or a pause in them, and codes that depend only on which of the two it is."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        text = torch.randint(0, 200, (int(torch.randint(3, 8, (), generator=generator)),), generator=generator).tolist()
        is_pause = number % 2
        text.insert(int(torch.randint(len(text), (), generator=generator)), marks["pause_short" if is_pause else "emph"])
        codes = torch.arange(4).reshape(2, 2) * 2 + is_pause
        rows.append((speech(text, codes, config), codes))
    return rows


@pytest.mark.parametrize("is_trained", [True, False], ids=["rows trained", "rows left alone"])
def test_marks_determine_codes_only_if_their_rows_are_trained(is_trained: bool, tmp_path: Path) -> None:
    """All reserved tokens start with the same embedding, nearly as in a base model that was never trained on them."""
    model = small_model(num_codebooks=2)
    marks = tokens_of_marks(model.config)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[list(marks.values())] = embedding[marks["emph"]].clone()
    trained, _, _ = fit(
        model,
        [row for row, _ in marked_rows(64, marks, model.config, seed=0)],
        tmp_path,
        marks=[marks["emph"], marks["pause_short"]] if is_trained else (),
        targets=ALL,
        learning_rate=1e-2,
        num_epochs=15,
        batch_size=16,
        grad_accum=1,
    )
    held_out = marked_rows(40, marks, model.config, seed=1)
    samples = generate_codes(trained.get_base_model(), [row for row, _ in held_out], GREEDY)
    right = sum(torch.equal(one.codes, codes) for one, (_, codes) in zip(samples, held_out, strict=True)) / len(held_out)
    assert right >= 0.95 if is_trained else right <= 0.65


def test_silence_is_40_db_below_the_loud_parts() -> None:
    tone = np.sin(np.arange(24000) / 10).astype(np.float32) * 0.5
    tone[12000:] *= 0.001
    assert silence_share(Audio(tone, 24000)) == pytest.approx(0.5, abs=0.01)
    assert silence_share(Audio(np.zeros(2400, np.float32), 24000)) == 1.0
    assert silence_share(Audio(np.zeros(0, np.float32), 24000)) == 1.0


def test_samples_are_compared_with_their_reference_recording(tmp_path: Path) -> None:
    """It is the last reference recording of the row; without one, the recording of the answer."""
    for name, samples in (("voice.wav", 100), ("clip.wav", 200)):
        (tmp_path / name).write_bytes(encode(Audio(np.full(samples, 0.5, np.float32), 24000)))
    model = small_model()
    example = speech([1, 2], torch.arange(40).reshape(5, 8), model.config)
    turn = Turn(plain("transcript"), tmp_path / "voice.wav")
    rows = [ManifestRow("m:1", None, None, None, references, plain("text"), tmp_path / "clip.wav") for references in ((turn,), ())]
    lengths = []

    def similarity(sample: Audio, recorded: Audio) -> float:
        lengths.append(len(recorded.samples))
        return 0.5 if len(lengths) == 1 else math.nan

    generate = SampleGenerator([(row, example) for row in rows], Codec(tiny_codec()), tmp_path / "samples", similarity)
    first, second = generate(model, 7)
    assert lengths == [100, 200]
    assert first["similarity"] == 0.5
    assert "similarity" not in second
    assert first["recorded_seconds"] == pytest.approx(5 * 0.04)
    assert first["seconds"] <= 2 * 5 * 0.04 + 25 * 0.04 + 0.1
    assert sorted(path.name for path in (tmp_path / "samples" / "00000007").iterdir()) == ["0.wav", "1.wav"]
    assert generate(model, 7) is not None
