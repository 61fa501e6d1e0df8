"""mode=evaluate of many runs; the scores themselves are tested in tests/evaluation."""

import errno
import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamfusion.error import UserError
from dreamfusion.mode import evaluate


def test_a_study_ends_with_the_means_over_the_runs_that_have_a_score(compose_config, monkeypatch, caplog):
    scores = {
        "a": {"t3bench_quality": 20.0, "volume_iou": 0.5},
        "b": {"t3bench_quality": 30.0},
        "c": None,
        "d": OSError(errno.EACCES, "Permission denied", "d"),
    }

    def score(scene, settings, judges):
        assert settings.resolution == 48  # the run's own
        if scores[scene.run] is None:
            raise UserError("no surface")
        if isinstance(scores[scene.run], OSError):
            raise scores[scene.run]
        return scores[scene.run]

    monkeypatch.setattr(evaluate, "find_runs", lambda choice: [Path(name) for name in scores])
    monkeypatch.setattr(evaluate, "find_checkpoint", lambda run: Path(run) / "checkpoints" / "last.ckpt")
    monkeypatch.setattr(evaluate, "locked", lambda folder: nullcontext())
    run_config = compose_config("export.resolution=48")
    load = lambda checkpoint: SimpleNamespace(run=checkpoint.parts[0], config=run_config)  # noqa: E731
    monkeypatch.setattr(evaluate, "load_scene", load)
    monkeypatch.setattr(evaluate, "evaluate_run", score)
    with caplog.at_level(logging.INFO):
        written = evaluate.run(compose_config("mode=evaluate", "study=s"), None, None, None)
    assert [path.parts[0] for path in written] == ["a", "b"]
    assert caplog.messages[-1] == "mean of 2 runs: t3bench quality 25, volume iou 0.5"
    assert "c: not evaluated: no surface" in caplog.text
    assert "d: not evaluated: cannot use d: Permission denied" in caplog.text
    scores["d"] = OSError(errno.ENOSPC, "the disk is full", "d")
    with pytest.raises(OSError, match="the disk is full"):
        evaluate.run(compose_config("mode=evaluate", "study=s"), None, None, None)
