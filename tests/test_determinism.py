"""`deterministic=true`: which bits are the same, and what cannot be."""

import pytest
import torch
from hydra.utils import instantiate
from launched import launched
from training import make_trainer

from dreamfusion.camera.data import CameraData
from dreamfusion.error import UserError
from dreamfusion.ops import backend
from dreamfusion.training.assemble import assemble

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEPS = 3


@pytest.fixture
def deterministic(monkeypatch):
    """Turns the setting on; afterwards everything is as before."""
    before = torch.get_num_threads()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # both are restored
    monkeypatch.setenv("DREAMFUSION_OPS", "auto")

    def turn_on(threads=2):
        backend.make_deterministic(False)
        torch.set_num_threads(threads)
        backend.make_deterministic(True)

    yield turn_on
    backend.make_deterministic(False)
    backend._choose.cache_clear()
    torch.set_num_threads(before)


@pytest.mark.parametrize("distillation", ["sds", "denoise_fit"])
def test_the_same_seed_gives_the_same_bits_on_one_and_two_threads(
    distillation, deterministic, compose_config, monkeypatch, tmp_path
):
    monkeypatch.setattr(backend, "_FEW", 1)  # threads at any size
    cfg = compose_config("prompt=a cat", "experiment=smoke", f"distillation={distillation}", "system.lighting.lit=1")
    runs = []
    for threads in (1, 2):
        deterministic(threads)
        torch.manual_seed(0)
        system = assemble(cfg)
        make_trainer(tmp_path, steps=STEPS).fit(system, CameraData(instantiate(cfg.camera), STEPS, cfg.seed))
        runs.append(system.state_dict())
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_torch_has_one_thread_and_the_kernels_keep_theirs_until_it_is_turned_off(deterministic):
    deterministic(3)
    backend.make_deterministic(True)
    assert (torch.get_num_threads(), backend.threads()) == (1, 3)
    assert torch.are_deterministic_algorithms_enabled()
    backend.make_deterministic(False)
    assert (torch.get_num_threads(), backend.threads()) == (3, 3)
    assert not torch.are_deterministic_algorithms_enabled()


def test_no_kernel_that_sums_by_atomics_is_chosen(deterministic, monkeypatch):
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: None)
    deterministic()
    chosen = {(op, backend.choose(op, device)) for op in backend._KERNELS for device in (CPU, CUDA)}
    assert not chosen & backend.ATOMIC
    assert {("march", "nerfacc"), ("composite", "triton"), ("hash_encode", "torch")} <= chosen
    backend.prefer("tinycudann")
    with pytest.raises(UserError, match="ops=tinycudann, but the sums of tinycudann vary in the last bits"):
        backend.choose("hash_encode", CUDA)
    backend.make_deterministic(False)
    assert backend.choose("hash_encode", CUDA) == "tinycudann"


def test_an_operation_that_cannot_be_deterministic_is_one_sentence(deterministic, monkeypatch, tmp_path):
    """The message is torch's own."""
    reason = "upsample_backward does not have a deterministic implementation, but you set 'torch.use_deterministic_..."
    monkeypatch.setattr("dreamfusion.mode.train.Train.__call__", lambda *_: (_ for _ in ()).throw(RuntimeError(reason)))
    ended = launched(tmp_path, "prompt=a cat", "deterministic=true")
    assert ended.status == 1
    assert "error: deterministic=true, but torch has no such upsample_backward; type deterministic=false" in ended.text
