"""What a person sees of work that takes long."""

from __future__ import annotations

import numpy as np
import pytest

from export.language_model import variants
from reverie import progress
from reverie.progress import followed
from training.language_model import evaluate
from training.language_model.evaluate import Row

pytestmark = pytest.mark.tensorflow


def test_work_over_two_seconds_is_told_and_then_every_five(capsys):
    """Each item takes a second of a clock made for the purpose."""
    ticks = iter(range(100))
    assert list(followed(range(12), "rows", 12, clock=lambda: next(ticks))) == list(range(12))
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "rows: 1 of 12" and 2 <= len(told) <= 4


def test_shorter_work_says_nothing(capsys):
    assert list(followed("abc", "rows", 3, clock=lambda: 0.0)) == list("abc")
    assert capsys.readouterr().err == ""


@pytest.fixture
def at_once(monkeypatch):
    """Everything counts as taking long."""
    monkeypatch.setattr(progress, "SILENT_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)


def test_the_evaluation_of_a_language_model_shows_progress(at_once, capsys):
    class Model:
        def token_losses(self, inputs, targets):
            return np.zeros(targets.shape, np.float32)

    evaluate.total_loss(Model(), [Row([1, 2])] * 3, batch_size=1)
    assert "measuring, batches of reviews: 2 of 3" in capsys.readouterr().err


def test_the_perplexity_of_a_precision_shows_progress(at_once, capsys, monkeypatch, tmp_path):
    class Session:
        def run(self, names, feeds):
            return [np.zeros((1, 2, 4))]

    monkeypatch.setattr(variants, "open_session", lambda path: Session())
    monkeypatch.setattr(variants, "sequence_feeds", lambda session, row: {})
    assert variants.perplexity(tmp_path / "decode_int8.onnx", np.ones((3, 3), int), 4, None) == pytest.approx(4)
    assert "measuring decode_int8, held-out rows: 2 of 3" in capsys.readouterr().err
