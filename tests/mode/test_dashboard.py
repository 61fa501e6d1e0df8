"""A study's data in Weights & Biases, read from the offline runs' files, and W&B sweeps without a server."""

import json
import os
import struct
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from launched import QUICK, ROOT, files

from dreamfusion.training.loggers import earlier_id
from dreamfusion.training.metrics import memory_in_use, norms_by_timestep

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning:wandb",
    "ignore:.*class-based `config`",  # the sweeps package's own use of pydantic
    "ignore:Valid config keys have changed",
)
AGENTS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
BLOCK, HEAD = 32768, 7  # bytes of a block, and of the header of file and records, of the LevelDB log in a .wandb file


def records(path):
    """The protocol buffers in an offline run's file; wandb has no Python reader for it."""
    from wandb.proto import wandb_internal_pb2  # here, as its import takes seconds

    data, at, parts = path.read_bytes(), HEAD, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        if at + HEAD > len(data):
            return
        _, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        if at + HEAD + length > len(data):
            return  # still being written
        parts += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):  # a full record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def whole(path):
    """The records of a finished run, whose file is completed by another process a moment later."""
    deadline = time.monotonic() + 900
    while True:
        found = list(records(path))
        if any(r.WhichOneof("record_type") == "exit" for r in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def items(updates):
    return {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}


def read(path):
    """The run in the file: header, settings, history, summary and media files."""
    run = SimpleNamespace(head=None, config={}, history={}, summary={}, files=set())
    for record in whole(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.head = record.run
            run.config |= items(record.run.config.update)
        elif kind == "config":
            run.config |= items(record.config.update)
        elif kind == "history":
            run.history |= items(record.history.item)
        elif kind == "summary":
            run.summary |= items(record.summary.update)
        elif kind == "files":
            run.files |= {file.path for file in record.files.files}
    return run


def test_the_offline_files_of_a_study_are_complete(offline, launch, tmp_path):
    logged = ["logger=wandb", "logger.tags=[t]"]
    logged += ["trainer.log_every_n_steps=1", "mode.preview_every=2", "export.threshold=auto"]
    ended = launch(tmp_path, "-m", "prompt=a cat,a dog", "study=x", *QUICK, *logged)
    assert ended.status == 0, ended.text
    assert "WARNING" not in ended.text and "Run summary" not in ended.text  # W&B's
    study = tmp_path / "outputs" / "studies" / "x"
    found = sorted(study.glob("*/*/wandb/offline-run-*/run-*.wandb"))
    assert [path.parents[3].name for path in found] == ["a-cat", "a-dog"]
    runs = [read(path) for path in found]
    assert [run.head.display_name for run in runs] == ["a cat, seed 0", "a dog, seed 0"]
    assert len({run.head.run_id for run in runs}) == 2
    for path, run in zip(found, runs, strict=True):
        assert (run.head.run_group, run.head.job_type, list(run.head.tags)) == ("x", "train", ["t"])
        assert run.config["camera"]["views"] == 1
        assert run.history.keys() >= {
            "gradient_norm",
            "opacity",
            "speed/steps_per_second",
            "memory/peak_gib",
            "gradient_norm_at_t/0.8-1.0",
        }
        kinds = {name: run.history[f"{name}/_type"] for name in ("turntable", "mesh", "preview")}
        assert kinds == {"turntable": "video-file", "mesh": "object3D-file", "preview": "images/separated"}
        media = {name.removeprefix("files/") for name in files(path.parent) if "/media/" in name}
        assert {name.rsplit(".", 1)[1] for name in media} == {"mp4", "glb", "png"}
        assert media <= run.files
        assert 0 <= run.summary["silhouette_iou"] == run.history["silhouette_iou"] <= 1
        assert 0 <= run.history["threshold_iou"] <= 1
        assert run.summary["prior_score"] <= 1
        assert earlier_id(path.parents[2]) == run.head.run_id
    (table,) = (read(path) for path in study.glob("wandb/offline-run-*/run-*.wandb"))
    assert (table.head.run_group, table.head.job_type) == ("x", "report")
    assert (table.history["runs/_type"], table.history["runs/nrows"]) == ("table-file", 2)
    assert table.summary["finished"] == 2
    assert os.environ.get("WANDB_MODE") is None


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_the_agents_sweeps_are_valid_and_every_run_composes(path, compose_config):
    cfg = pytest.importorskip("sweeps.config.cfg", reason="pip install --no-deps sweeps")
    sweep = yaml.safe_load(path.read_text())
    assert cfg.schema_violations_from_proposed_config(sweep) == []
    for arguments in commands(sweep, count=2):
        assert compose_config(*arguments).study == sweep["command"][4].removeprefix("study=")


def commands(sweep, count):
    """The launch.py arguments of the first runs that W&B's sweep engine draws."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    from sweeps import RunState, next_run

    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert (ROOT / sweep["program"]).is_file()
    runs = []
    for _ in range(count):
        run = next_run(sweep, runs)
        chosen = {"args": {name: {"value": value["value"]} for name, value in run.config.items()}}
        assert sweep["command"][-1] == "${args_no_hyphens}"
        yield [*sweep["command"][3:-1], *create_sweep_command_args(chosen)["args_no_hyphens"]]
        run.state, run.summary_metrics = RunState.finished, {sweep["metric"]["name"]: 0.5}
        runs.append(run)


def test_two_runs_of_an_agent_without_a_server(offline, launch, tmp_path):
    pytest.importorskip("sweeps", reason="pip install --no-deps sweeps")
    sweep = yaml.safe_load((ROOT / "sweeps" / "wandb" / "gallery.yaml").read_text())
    for arguments in commands(sweep, count=2):
        ended = launch(tmp_path, *arguments, *QUICK)
        assert ended.status == 0, ended.text
    found = sorted(tmp_path.glob("outputs/studies/gallery/a-cat/*/wandb/offline-run-*/run-*.wandb"))
    runs = [read(path) for path in found]
    assert sorted(run.config["seed"] for run in runs) == [0, 1]
    assert all(sweep["metric"]["name"] in run.summary for run in runs)


def test_gradient_norms_are_averaged_by_noise_level_without_empty_levels():
    norms, counts = torch.tensor([0.0, 6.0, 0.0, 0.0, 5.0]), torch.tensor([0.0, 3.0, 0.0, 0.0, 1.0])
    assert norms_by_timestep(norms, counts) == {"gradient_norm_at_t/0.2-0.4": 2.0, "gradient_norm_at_t/0.8-1.0": 5.0}


def test_the_memory_of_a_process_with_torch_is_plausible():
    assert 0.1 < memory_in_use(torch.device("cpu")) < 100


def test_a_folder_without_logs_has_no_earlier_run(tmp_path):
    assert earlier_id(tmp_path) is None
    for name in ("offline-run-20260101_000000-old", "run-20260102_000000-new"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert earlier_id(tmp_path) == "new"
