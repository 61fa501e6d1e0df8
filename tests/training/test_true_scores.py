"""Scores against the truth during training, without a training."""

from types import SimpleNamespace

import numpy as np
import pytest

from dreamfusion.camera.orbit import Orbit
from dreamfusion.evaluation.scene import held_out_cameras, mesh_pictures
from dreamfusion.training import callbacks, true_scores
from dreamfusion.training.callbacks import Stopwatch
from dreamfusion.training.true_scores import TrueScores
from dreamfusion.truth.store import truth_of

ORBIT = Orbit([0, 0], [3, 3], False, [1.374, 1.374], 0.0, 0.0, 0.0, 0.0, [3, 3], 1, 1, 64)


@pytest.fixture
def clock(monkeypatch):
    """A clock on which one render of the scene, or of the truth, takes 100 s."""
    now, real = SimpleNamespace(seconds=0.0), mesh_pictures(truth_of("a cat").mesh, held_out_cameras(ORBIT))
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now.seconds))

    def render(scene, cameras):
        now.seconds += 100
        return real if scene == "the truth" else np.zeros_like(real)

    def draw(mesh, cameras):
        now.seconds += 100
        return real

    monkeypatch.setattr(true_scores, "scene_pictures", render)
    monkeypatch.setattr(true_scores, "mesh_pictures", draw)
    return now


def test_scores_come_with_the_seconds_of_training_alone_every_few_steps_and_at_the_end(clock):
    rows, stopwatch = [], Stopwatch()
    clock.seconds += 1000  # of loading
    stopwatch.on_train_start(None, None)
    logger = SimpleNamespace(log_metrics=lambda row, step: rows.append((step, row)))
    scores = TrueScores(truth_of("a cat").mesh, ORBIT, 10, stopwatch)
    for step in range(1, 26):
        clock.seconds += 2
        trainer = SimpleNamespace(global_step=step, max_steps=25, is_global_zero=True, loggers=[logger])
        scene = "the truth" if step > 20 else "nothing"
        scores.on_train_batch_end(trainer, SimpleNamespace(scene=scene), None, None, 0)
    assert [step for step, _ in rows] == [9, 19, 24]
    assert [row["truth/seconds"] for _, row in rows] == [20, 40, 50]
    stopwatch.on_train_end(None, None)
    clock.seconds += 1000  # of the mesh
    assert stopwatch.seconds == 50
    assert [row["truth/silhouette_iou"] for _, row in rows] == [0, 0, 1]
    assert rows[0][1]["truth/psnr"] < 20 and rows[2][1]["truth/psnr"] == 100


def test_a_checkpoint_during_a_pause_has_the_seconds_until_it(clock):
    stopwatch = Stopwatch()
    with stopwatch.stopped():
        clock.seconds += 5  # before the training
    assert stopwatch.seconds == 0
    stopwatch.on_train_start(None, None)
    clock.seconds += 7
    with stopwatch.stopped():
        clock.seconds += 1000
        assert stopwatch.state_dict() == {"seconds": 7}
    clock.seconds += 2
    assert stopwatch.seconds == 9
