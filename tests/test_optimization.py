"""Learning rates over a run."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from options import option
from torch import nn

from dreamfusion.optimization import Optimization


def rates(steps, others=(), **changes):
    """The learning rates of each group before each step of a run."""
    parameters = {name: [nn.Parameter(torch.zeros(1))] for name in ("table", "network")} | {"absent": []}
    built = option("optimizer/adam", **changes)(parameters, list(others), steps)
    seen = []
    for _ in range(steps + 1):
        seen.append([group["lr"] for group in built["optimizer"].param_groups])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    return torch.tensor(seen, dtype=torch.float64)


def test_a_number_warms_up_and_falls_to_the_end():
    found = rates(10, learning_rates={"table": 0.2, "network": 0.01, "absent": 1.0}, end=0.1, warmup_steps=2)
    expected = torch.tensor([0.5, 0.91, 0.82, 0.73, 0.64, 0.55, 0.46, 0.37, 0.28, 0.19, 0.1], dtype=torch.float64)
    torch.testing.assert_close(found, expected[:, None] * torch.tensor([0.2, 0.01]).double())


def test_a_schedule_is_followed_by_its_group_alone():
    falling = [[0.0, 0.01], [0.5, 0.002]]
    other = {"params": [nn.Parameter(torch.zeros(1))], "lr": 3.0}
    given = {"table": falling, "network": 0.5, "absent": 1.0}
    found = rates(4, [other], learning_rates=given, end=1.0, warmup_steps=0)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.01, 0.006, 0.002, 0.002, 0.002]).double())
    assert (found[:, 1] == 0.5).all() and (found[:, 2] == 3.0).all()


@pytest.mark.parametrize("rate", [0.0, -0.1, [[0.0, 0.1], [1.0, 0.0]]])
def test_a_rate_that_is_not_above_0_is_refused(rate):
    with pytest.raises(ValueError, match=r"optimizer\.learning_rates\.table is -?0\.[01]; a learning rate must be"):
        option("optimizer/adam", learning_rates={"table": rate})


def test_the_state_of_any_optimizer_is_plain_data():
    """RAdam keeps its betas as they come, from Hydra's list."""
    settings = OmegaConf.create({"_target_": "torch.optim.RAdam", "_partial_": True, "betas": [0.9, 0.99]})
    optimization = Optimization(instantiate(settings), {"table": 0.1}, end=1.0, warmup_steps=0)
    made = optimization({"table": [torch.nn.Parameter(torch.zeros(2))]}, [], 10)["optimizer"]
    assert isinstance(made, torch.optim.RAdam)
    assert type(made.param_groups[0]["betas"]) is list
    assert made.param_groups[0]["betas"] == [0.9, 0.99]
