"""A scheduler's environment is used only by a run that asks for several processes."""

import lightning as L
import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only

from dreamfusion.ranks import cluster, is_distributed, own_gpu
from dreamfusion.training.loggers import MetricsFile

SCHEDULERS = {
    "a shell of torchrun": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
    "torchrun": {"RANK": "1", "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    "srun": {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7", "SLURM_NODEID": "0"},
}


@pytest.mark.parametrize("variables", SCHEDULERS.values(), ids=SCHEDULERS)
def test_an_ordinary_run_is_its_own_first_process_whatever_the_scheduler_says(variables, monkeypatch, tmp_path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # what Lightning reads when it is imported there
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    trainer = L.Trainer(**settings, **cluster(settings), default_root_dir=tmp_path)
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    assert (trainer.global_rank, trainer.world_size, trainer.is_global_zero, rank_zero_only.rank) == (0, 1, True, 0)
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    assert (tmp_path / "metrics.csv").is_file()


SEVERAL = ({"devices": 2}, {"devices": -1}, {"devices": "auto"}, {"devices": [0, 1]}, {"num_nodes": 2})


@pytest.mark.parametrize("changes", [*SEVERAL, {"strategy": "ddp"}], ids=str)
def test_a_distributed_run_takes_its_ranks_from_the_scheduler(changes, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    assert cluster({"devices": 1, "strategy": "auto"} | changes) == {}
    assert rank_zero_only.rank == 3


@pytest.mark.parametrize("devices", [1, "1", [0]], ids=str)
def test_one_device_is_one_process(devices):
    assert not is_distributed({"devices": devices})
    assert not is_distributed({"devices": devices, "num_nodes": 1, "strategy": "single_device"})


def test_the_default_trainer_is_one_process_and_ddp_is_several(compose_config):
    assert not is_distributed(compose_config().trainer)
    assert is_distributed(compose_config("trainer=ddp").trainer)


@pytest.mark.parametrize(
    ("devices", "rank", "gpu"),
    [(1, 1, 0), ([1], 1, 1), (2, 1, 1), ("auto", 1, 1), (-1, 1, 1), ([2, 3], 1, 3)],
    ids=str,
)
def test_the_gpu_of_a_process_is_known_before_its_training(devices, rank, gpu, monkeypatch):
    """A rank in the environment does not count in a run of one process."""
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert own_gpu({"devices": devices}) == gpu
