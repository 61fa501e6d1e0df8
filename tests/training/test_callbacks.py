"""Previews and Ctrl-C, tested without a training."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from options import make_sds
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamfusion.camera.orbit import Orbit
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.training.callbacks import Previews, StopOnInterrupt, labelled
from dreamfusion.types import GuidanceOutput

ORBIT = Orbit([0, 0], [3, 3], False, [1.374, 1.374], 0.0, 0.0, 0.0, 0.0, [3, 3], 1, 1, 64)
SIZE = 24


@pytest.fixture
def system(ball, gaussian_prior):
    return SimpleNamespace(
        scene=NeRF(
            ball(200.0, size=0.6, color=(1.0, 0.0, 0.0)),
            ConstantBackground([1.0, 1.0, 1.0]),
            StratifiedRenderer(1.0, 100),
        ),
        distillation=make_sds(gaussian_prior()),
        last_guidance=None,
        device="cpu",
    )


def guidance(views, level):
    b = torch.zeros(views)
    images = torch.full((views, 3, 8, 8), level)
    return GuidanceOutput(torch.tensor(0.0), b, b.long(), b, images, images)


def sheet(folder, step):
    """The middle pixel of each tile of the sheet, by row and column."""
    with Image.open(folder / f"{step:06d}.png") as image:
        pixels = np.asarray(image)
    return pixels[SIZE // 2 :: SIZE, SIZE // 2 :: SIZE]


def test_a_sheet_shows_colour_light_normals_opacity_and_the_priors_view(system, tmp_path):
    previews = Previews(ORBIT, tmp_path, 10, SIZE)
    system.last_guidance = guidance(2, 0.5)
    previews.write(system, 30)
    colour, lit, normal, opacity, prior = sheet(tmp_path, 30)
    assert colour.tolist() == [[255, 0, 0]] * 4
    assert np.abs(lit.astype(int) - colour).max() < 12  # what faces the camera keeps its colour
    assert opacity.tolist() == [[255, 255, 255]] * 4
    # Front, right, back, left: +z, +x, -z, -x, a little upwards.
    assert normal[0][2] > 200
    assert normal[1][0] > 200
    assert normal[2][2] < 50
    assert normal[3][0] < 50
    assert prior.tolist() == [[191] * 3] * 2 + [[255] * 3] * 2  # two training views; 0.5 of [-1, 1] is 0.75


def test_the_rows_of_a_sheet_are_named_and_tiny_ones_are_not():
    sheet = np.full((128, 256, 3), 128, np.uint8)
    named = labelled(sheet, ["colour", "lit", "normal"], 64)
    assert [(named[row : row + 20] != sheet[row : row + 20]).any() for row in (0, 64)] == [True, True]
    assert (named[24:64] == sheet[24:64]).all()
    assert labelled(sheet, ["colour"], 24) is sheet


def test_a_picture_goes_to_tensorboard(system, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = SimpleNamespace(global_step=5, max_steps=5, is_global_zero=True, loggers=[logger])
    seen = []
    Previews(ORBIT, tmp_path / "previews", 5, SIZE, seen.append).on_train_batch_end(trainer, system, None, None, 0)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (picture,) = events.Images("preview")
    assert (picture.step, picture.width, picture.height) == (5, 4 * SIZE, 4 * SIZE)
    assert seen == [5]


def test_before_the_first_guidance_the_priors_row_is_missing(system, tmp_path):
    Previews(ORBIT, tmp_path, 10, SIZE).write(system, 0)
    assert sheet(tmp_path, 0).shape[:2] == (4, 4)


@pytest.mark.parametrize(
    ("every", "steps"), [(2, [2, 4, 5]), (5, [5]), (10, [5]), (0, [])], ids=["some", "last", "only the last", "never"]
)
def test_sheets_are_written_every_few_steps_and_at_the_end(system, tmp_path, every, steps):
    previews = Previews(ORBIT, tmp_path, every, SIZE)
    for step in range(1, 6):
        trainer = SimpleNamespace(global_step=step, max_steps=5, is_global_zero=True, loggers=[])
        previews.on_train_batch_end(trainer, system, None, None, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{step:06d}.png" for step in steps]


@pytest.fixture
def trainer():
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    return SimpleNamespace(strategy=strategy, should_stop=False, world_size=1, global_step=13)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_after_the_step_and_the_second_ends_the_process(trainer, number, monkeypatch, tmp_path):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with (tmp_path / "terminal").open("w") as terminal:  # SIGHUP must not reach the streams of the tests
        monkeypatch.setattr("dreamfusion.signals.STDOUT", terminal.fileno())
        monkeypatch.setattr("dreamfusion.signals.STDERR", terminal.fileno())
        stop, before = StopOnInterrupt(), signal.getsignal(number)
        with stop.request:
            signal.signal(number, signal.SIG_IGN)  # as Lightning replaces SIGTERM's handler
            stop.on_train_start(trainer, None)
            stop.on_train_batch_end(trainer, None, None, None, 0)
            assert not trainer.should_stop
            signal.raise_signal(number)
            stop.on_train_batch_end(trainer, None, None, None, 0)
            assert trainer.should_stop
            assert ended == []
            signal.raise_signal(number)
            assert ended == [128 + number] == [stop.request.status]
    assert signal.getsignal(number) is before
    assert "stopping after this step" in (tmp_path / "terminal").read_text()


def test_all_processes_stop_if_one_is_interrupted(trainer):
    stop, asked = StopOnInterrupt(), []
    trainer.world_size = 2
    trainer.strategy.reduce_boolean_decision = lambda decision, all: asked.append(1) or True  # another one was
    for trainer.global_step in range(1, stop.together):
        stop.on_train_batch_end(trainer, None, None, None, 0)
    assert not asked
    assert not trainer.should_stop
    trainer.global_step += 1
    stop.on_train_batch_end(trainer, None, None, None, 0)
    assert trainer.should_stop
    assert stop.interrupted
