"""Metrics log, loss monitor, and the model card that is written from the log."""

from pathlib import Path

from synth.higgs_finetune.metrics_log import LossMonitor, MetricsLog, read_metrics
from synth.higgs_finetune.model_card import write_card
from synth.higgs_finetune.settings import FinetuneSettings


def test_the_loss_monitor_warns_once_when_a_loss_lags() -> None:
    monitor = LossMonitor()
    warnings = [monitor.add({"text": 5.0, "audio": 7.0 * 0.97**step}) for step in range(200)]
    (warning,) = [text for text in warnings if text]
    assert "--text-loss-weight" in warning
    again = LossMonitor(monitor.state())
    assert again.add({"text": 5.0, "audio": 0.01}) is None
    assert not any(LossMonitor().add({"text": 5.0 - step / 100, "audio": 7.0}) for step in range(3))


def test_the_metrics_log_skips_a_truncated_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float(step)})
    log.close()
    path.write_text(path.read_text() + '{"kind": "train", "st')
    MetricsLog(path, from_step=2).close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert list(read_metrics(tmp_path / "none")) == []


def test_a_model_card_without_evaluations(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "log.jsonl").close()
    write_card(tmp_path, FinetuneSettings(), base="owner/base", marks=[], rows=(3, 0), estimate="little")
    card = (tmp_path / "README.md").read_text()
    assert "base_model: owner/base" in card
    assert "trained on: none" in card
