"""Short training runs, and bit-exact comparison of their results."""

import lightning as L
import torch

from dreamfusion.camera.data import CameraData
from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import read_checkpoint
from dreamfusion.cli.console import filter_messages

ORBIT = Orbit(
    [-15, 75], [2.7, 3.3], False, [1.3, 1.4], 0.5, 0.1, 0.1, 0.1, [1, 2], views=2, group=1, size=[[0, 6], [1, 10]]
)
STEPS = 6


def make_trainer(folder, *callbacks, steps=STEPS):
    filter_messages()
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


def train(system, folder, *callbacks, resume=None, steps=STEPS):
    trainer = make_trainer(folder, *callbacks, steps=steps)
    data = CameraData(ORBIT, steps, system.seed)
    trainer.fit(system, data, ckpt_path=resume, weights_only=True)
    return trainer


def assert_same(a, b, where=""):
    """Assert that nested dicts, lists and tensors are bit-equal."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def state(path):
    content = read_checkpoint(path)
    return {
        name: content[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "config")
    }
