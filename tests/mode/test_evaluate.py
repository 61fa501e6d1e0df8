"""mode=evaluate of many runs; the scores themselves are tested in tests/evaluation."""

import errno
import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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
        found = scores[str(scene.run)]
        if found is None:
            raise UserError("no surface")
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(evaluate, "find_runs", lambda choice: [Path(name) for name in scores])
    monkeypatch.setattr(evaluate, "find_checkpoint", lambda run: Path(run) / "checkpoints" / "last.ckpt")
    monkeypatch.setattr(evaluate, "locked", lambda folder: nullcontext())
    run_config = compose_config("export.resolution=48")
    load = lambda checkpoint: SimpleNamespace(run=Path(checkpoint.parts[0]), config=run_config)  # noqa: E731
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


def test_the_prompt_is_a_caption_whatever_its_capitals(monkeypatch):
    seen = []
    clip = SimpleNamespace(to=lambda device: None, encode_text=lambda texts: SimpleNamespace(pooled=torch.eye(2)))
    monkeypatch.setattr(evaluate, "ClipPrior", lambda *_: clip)
    monkeypatch.setattr(evaluate, "clip_scores", lambda *given: seen.append(given[3:5]) or {})
    judge = evaluate._clip_judge("model", ["a cat", "a Dog"])
    judge(SimpleNamespace(scene=None, camera=None, config=SimpleNamespace(prompt="A dog")))
    assert seen == [("a dog", ["a cat", "a dog"])]


def test_the_mesh_that_is_judged_has_the_settings_of_its_run(compose_config, monkeypatch):
    used = []
    reward = torch.nn.Linear(1, 1)
    monkeypatch.setattr(evaluate.ImageReward, "load", lambda model: reward)
    monkeypatch.setattr(evaluate, "extract_surface", lambda scene, camera, export: used.append(export) or Surface())
    monkeypatch.setattr(evaluate, "quality", lambda mesh, judge: 50.0)
    judge = evaluate._t3bench_judge("model", partial(evaluate._mesh_settings, compose_config("mode=evaluate")))
    judge(SimpleNamespace(scene=None, camera=None, config=compose_config("prompt=a cat", "export.resolution=40")))
    assert used[0].resolution == 40


class Surface:
    mesh = None
