"""Rows of metrics.csv: means over the steps between them, also across a resumption; learning rates by name."""

import csv

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from training import ORBIT, make_trainer

from dreamfusion.camera.data import CameraData
from dreamfusion.training.loggers import MetricsFile
from dreamfusion.training.metrics import Means, Metrics


class Recorder(L.Callback):
    """Each step's figures."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, system, *_):
        self.steps.append({name: float(value) for name, value in system.last_figures.items()})


class Interrupted(L.Callback):
    """A checkpoint after a step, which is the last."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def rows(system, folder, *callbacks, steps=6, every=3, resume=None):
    """The rows of a training that writes one every few steps."""
    logger = MetricsFile(folder / "metrics.csv")
    trainer = make_trainer(folder, Metrics(), *callbacks, steps=steps)
    trainer.logger, trainer.log_every_n_steps = logger, every
    trainer.fit(system, CameraData(ORBIT, 6, system.seed), ckpt_path=resume, weights_only=True)
    logger.save()
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_the_means_of_the_steps_since_the_last_one(make_system, tmp_path):
    recorder = Recorder()
    found = rows(make_system(), tmp_path, recorder)
    assert [row["step"] for row in found] == ["2", "5"]
    for row, steps in zip(found, (recorder.steps[:3], recorder.steps[3:]), strict=True):
        for name in ("gradient_norm", "noise_level", "opacity"):
            values = [step[name] for step in steps]
            assert len(set(values)) == 3
            assert float(row[name]) == pytest.approx(sum(values) / 3, rel=1e-5)


def test_a_row_has_the_figures_of_the_method(make_system, tmp_path):
    system = make_system()
    system.distillation.figures = lambda step: {"t": step.timestep.float().mean(), "share": step.progress}
    found = rows(system, tmp_path, steps=4, every=2)
    assert [float(row["share"]) for row in found] == pytest.approx([(0 + 1 / 4) / 2, (2 / 4 + 3 / 4) / 2])
    assert all(float(row["t"]) > 0 for row in found)


def test_a_figure_that_ends_is_not_repeated(make_system, tmp_path):
    """Lightning keeps the last value of a metric that is no longer logged."""
    system = make_system()
    system.distillation.figures = lambda step: {"early": 7.0} if step.progress < 0.5 else {}
    found = rows(system, tmp_path, steps=6, every=1)
    assert [row["early"] for row in found] == ["7.0"] * 3 + [""] * 3


def test_a_resumed_run_has_the_same_means(make_system, tmp_path):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = rows(make_system(), tmp_path / "whole")
    rows(make_system(), tmp_path / "parts", Interrupted(4, tmp_path / "4.ckpt"))
    resumed = rows(make_system(), tmp_path / "parts", resume=tmp_path / "4.ckpt")
    assert [row["step"] for row in resumed] == ["2", "5"]
    for name in ("gradient_norm", "noise_level", "opacity"):
        assert [row[name] for row in resumed] == [row[name] for row in whole]


def test_a_figure_that_some_steps_lack_is_the_mean_of_the_others():
    means = Means()
    for step in ({"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 6.0}):
        means.add({name: torch.tensor(value) for name, value in step.items()})
    again = Means(**means.state())
    assert means.take() == again.take() == {"a": 3.0, "b": 5.0}
    assert means.take() == {}


def test_the_learning_rates_have_the_names_of_the_settings(make_system, tmp_path):
    (row,) = rows(make_system(), tmp_path, LearningRateMonitor("step"), steps=1, every=1)
    assert {name for name in row if name.startswith("lr")} == {"lr-Adam/table", "lr-Adam/network"}
