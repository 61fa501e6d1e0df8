"""Scores of a checkpoint from before a run's end are not the run's."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from options import option
from results import CAT

from dreamfusion.evaluation.scene import Evaluated
from dreamfusion.runs import evaluate
from dreamfusion.runs.results import read_result, write_result
from dreamfusion.runs.summary import read_summary


@pytest.mark.parametrize(("step", "kept"), [(CAT.steps, 0.5), (CAT.steps - 10, 0.97)])
def test_the_result_takes_the_scores_of_the_last_step_alone(step, kept, compose_config, tmp_path, monkeypatch, caplog):
    found = Evaluated({"silhouette_iou": 0.5}, np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(evaluate, "evaluate_scene", lambda *_: found)
    cfg = compose_config("prompt=a thing", "guidance=sd", "export=glb")
    write_result(CAT, tmp_path)
    scene = SimpleNamespace(config=cfg, run=tmp_path, scene=None, camera=option("camera/orbit"), step=step)
    assert evaluate.evaluate_run(scene, evaluate.ExportSettings.of(cfg.export)) == {"silhouette_iou": 0.5}
    written = evaluate.evaluation_file(scene)
    assert written.name == ("evaluation.json" if kept == 0.5 else f"evaluation_{step}.json")
    assert (tmp_path / "truth_check.png").exists() == (kept == 0.5)
    content = json.loads(written.read_text())
    assert (content["step"], content["scores"]["silhouette_iou"]) == (step, 0.5)
    assert read_result(tmp_path).scores["silhouette_iou"] == kept
    assert read_summary(tmp_path).get("silhouette_iou") == (0.5 if kept == 0.5 else None)
    assert (f"this checkpoint is of step {step}" in caplog.text) == (kept != 0.5)
