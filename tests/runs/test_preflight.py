"""Memory and disk space are compared with the run's needs before its first step."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreamfusion.error import UserError
from dreamfusion.ops.memory import free_memory
from dreamfusion.runs import preflight as module
from dreamfusion.runs.dream import Outputs
from dreamfusion.runs.preflight import Need, compare, disk, memory, parameter_bytes, preflight

GB = 1e9


@pytest.fixture
def check(compose_config, monkeypatch, tmp_path):
    """Run the preflight of a command line on a machine with 24 GB of memory and of disk space."""

    def run(*arguments, memory=24 * GB, disk=24 * GB):
        monkeypatch.setattr(module, "free_memory", lambda device="cpu": memory)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))
        cfg = compose_config("prompt=a cat", *arguments)
        preflight(cfg, tmp_path / "not" / "yet", outputs(cfg))

    return run


def outputs(cfg):
    return Outputs(**{key: value for key, value in cfg.mode.items() if not key.startswith("_")})


@pytest.mark.parametrize(
    "arguments", [[], ["experiment=smoke"], ["guidance=sd", "field=hashgrid_fine", "camera=paper"]]
)
def test_ordinary_runs_fit_without_a_word(arguments, check, caplog):
    with caplog.at_level(logging.WARNING):
        check(*arguments)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["field=hashgrid_fine", "field.log2_table_size=28"],
            "at least .* GB of .*; lower field.log2_table_size",
        ),
        (
            ["camera.size=20000"],
            r"at least 80 GB of memory \(80 for the rays of a step\), and 24 GB are free; lower camera.size",
        ),
        (["camera.size=[[0,64],[1,20000]]"], "at least 80 GB of memory"),
        (["camera.size=64", "camera.views=1000000"], "at least 410 GB .* lower camera.size or camera.views"),
        (["renderer.resolution=4096"], "the occupancy grid.*; lower renderer.resolution"),
        (["mode.turntable_size=40000"], "a frame of the turntable.*; lower mode.turntable_size"),
        (["mode.preview_size=20000"], "a preview.*; lower mode.preview_size"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_certainly_does_not_fit_is_one_sentence_before_anything_is_allocated(arguments, message, check):
    with pytest.raises(UserError, match=message):
        check(*arguments)


def test_the_memory_of_a_gpu_is_that_of_the_one_that_the_run_takes(compose_config, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = []
    monkeypatch.setattr(module, "free_memory", lambda device="cpu": asked.append(device) or 24 * GB)
    for devices in (1, [1], [5]):
        cfg = compose_config("prompt=a cat", f"trainer.devices={devices}", "trainer.accelerator=gpu")
        preflight(cfg, tmp_path, outputs(cfg))
    assert asked == ["cpu", "cuda:0", "cpu", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "space", "setting"),
    [
        (["export.resolution=1024"], {"memory": 12 * GB}, "export.resolution"),
        (["export.texture=8192"], {"memory": 12 * GB}, "export.texture"),
        (["renderer.steps=4000", "mode.preview_every=0"], {"memory": 8 * GB}, "camera.size or camera.views"),
        (
            ["mode.preview_every=1", "mode.preview_size=512"],
            {"disk": 1 * GB},
            "mode.preview_size, or raise mode.preview_e",
        ),
        (["mode.turntable_frames=100000"], {"disk": 1 * GB}, "mode.turntable_size or mode.turntable_frames"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_may_not_fit_is_a_warning(arguments, space, setting, check, caplog):
    with caplog.at_level(logging.WARNING):
        check(*arguments, **space)
    (record,) = caplog.records
    assert f"; lower {setting}" in record.message
    assert "the run needs about " in record.message


def test_a_full_disk_is_named_with_its_folder(check, tmp_path):
    with pytest.raises(
        UserError, match=rf"at least 0.0213 GB of disk space in {tmp_path} .* the checkpoint.* 0.001 GB"
    ):
        check(disk=1e6)


def test_parts_that_follow_each_other_share_the_memory(caplog):
    resident, passing = [Need("a", 5, 5, "x")], [Need("b", 3, 3, "y"), Need("c", 4, 4, "z")]
    compare("memory", resident, passing, 9)
    with pytest.raises(UserError, match="lower x"):
        compare("memory", resident, passing, 8.9)


def test_the_parameters_are_counted_without_allocating_them(compose_config):
    assert parameter_bytes(compose_config("field=hashgrid_fine", "field.log2_table_size=28")) > 10 * GB
    assert parameter_bytes(compose_config("field.radius=-1")) == 0  # reported by the assembly


def test_the_free_memory_is_that_of_the_tightest_limit(monkeypatch, tmp_path):
    free = free_memory()
    assert 0 < free < 1e15
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("400\n")
    monkeypatch.setattr(
        "dreamfusion.ops.memory.LIMITS", [(tmp_path / "max", tmp_path / "current"), (Path("/no"), "/no")]
    )
    assert free_memory() == 600
    for statistics in ("inactive_file 250\n", "inactive_file 50\ntotal_inactive_file 250\n", "broken\n"):
        (tmp_path / "memory.stat").write_text(f"anon 100\n{statistics}")
        assert free_memory() == (600 if "broken" in statistics else 850), "cached files are given up on demand"
    (tmp_path / "max").write_text("max\n")
    assert free_memory() > 600


def test_the_free_memory_of_a_gpu_includes_what_torch_keeps_of_earlier_runs(monkeypatch):
    for name, value in {"mem_get_info": (100, 8000), "memory_reserved": 7000, "memory_allocated": 500}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory("cuda") == 6600


# Growth of the process's peak over the assembled run, 3 steps on one thread of an EPYC (Zen 4), and of the export of a
# ball of radius 0.9 at 400^3 and of a texture of 2048^2, 2026-11-28; the estimates may be off by a factor of 2.5.
SMALL = "camera.size=64"
MEASURED = [
    ([SMALL], "a step", 0.222),
    ([SMALL, "renderer=stratified", "system.lighting.albedo_until=0", "system.lighting.lit=1.0"], "a step", 0.530),
    ([SMALL, "field=hashgrid_fine", "field.log2_table_size=22"], "a step", 1.176),
    (["camera.size=192"], "a step", 1.001),
    (["export.resolution=400"], "the grid", 0.930),
    (["export.texture=2048"], "the texture", 1.679),
]


@pytest.mark.parametrize(("arguments", "part", "measured"), MEASURED, ids=lambda value: str(value)[:40])
def test_the_estimates_are_within_a_factor_of_2_5_of_measured_peaks(arguments, part, measured, compose_config):
    cfg = compose_config("prompt=a cat", *arguments)
    resident, passing, _ = memory(cfg, outputs(cfg))
    (need,) = [need for need in passing if part in need.part]
    scene = 0.75 * resident[0].expected if part == "a step" else 0  # its values were allocated before
    assert need.least + scene / 3 <= measured * GB * 1.1
    assert measured / 2.5 < (need.expected + scene) / GB < 2.5 * measured


def test_disk_needs_follow_the_settings(compose_config):
    sizes = [
        sum(need.expected for need in disk(cfg, outputs(cfg)))
        for cfg in (compose_config(), compose_config("mode.preview_every=10"))
    ]
    assert sizes[0] < sizes[1]
