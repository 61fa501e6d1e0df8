"""Runs of a study in the workers of Hydra launchers, and an Optuna search over their scores."""

import importlib.util

import pytest
import yaml
from launched import QUICK, ROOT

from dreamfusion.runs.results import counted

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore:The ``declarative_base:DeprecationWarning",  # Optuna's use of SQLAlchemy
)


def needs(package, extra, also=""):
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package} is not installed: pip install -e '.[{extra}]'{also}")


@pytest.fixture(autouse=True)
def this_tree(monkeypatch):
    """Make workers import this working tree."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run_by(launcher, launch, folder, *more, prompts=("a cat", "a dog")):
    command = ["-m", f"hydra/launcher={launcher}", "study=x", f"prompt={','.join(prompts)}"]
    ended = launch(folder, *command, *QUICK, *more)
    assert ended.status == 0, ended.text
    study = folder / "outputs" / "studies" / "x"
    finished = sorted(path.parents[1].name for path in study.glob("*/*/result.json"))
    assert finished == [prompt.replace(" ", "-") for prompt in prompts]
    assert f"{counted(len(prompts), 'finished run')}, 0 unfinished." in (study / "report.md").read_text()


@needs("hydra_plugins.hydra_joblib_launcher", "joblib")
def test_joblib_runs_a_study_in_workers_of_this_machine_whose_lines_name_their_runs(launch, tmp_path, capfd):
    run_by("joblib", launch, tmp_path, "hydra.launcher.n_jobs=2")
    lines = [line for line in capfd.readouterr().out.splitlines() if line]
    assert {line[:3] for line in lines if "2/2 " in line} == {"#0 ", "#1 "}
    assert all(line.startswith(("#0 a cat: ", "#1 a dog: ")) for line in lines)


EXPLODED = "optimizer.learning_rates.table=0.8,1e9"  # the second is stopped by the watchdog
CHECKED = ("watchdog.every=1", "watchdog.patience=1")


@needs("hydra_plugins.hydra_joblib_launcher", "joblib")
def test_a_study_with_a_failed_run_in_a_worker_ends_with_a_table_and_a_status_other_than_0(launch, tmp_path):
    command = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "study=x", "prompt=a cat", EXPLODED]
    ended = launch(tmp_path, *command, *QUICK, *CHECKED)
    assert ended.status == 1 and "error: step" in ended.text
    assert "1 finished run," in (tmp_path / "outputs" / "studies" / "x" / "report.md").read_text()


@needs("hydra_plugins.hydra_submitit_launcher", "slurm")
def test_submitit_runs_a_study_as_jobs(launch, tmp_path):
    run_by("submitit_local", launch, tmp_path, "hydra.launcher.cpus_per_task=1", prompts=["a cat"])


@needs("ray", "ray")
@needs("hydra_plugins.hydra_ray_launcher", "ray", " && pip install --no-deps hydra-ray-launcher")
@pytest.mark.filterwarnings("default")  # Ray's own warnings
def test_ray_runs_a_study_on_a_cluster(launch, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_worker_niceness", "0")  # the default of 15 starves workers beside other tests

    try:
        run_by("ray", launch, tmp_path, "+hydra.launcher.ray.init.num_cpus=1", prompts=["a cat"])
    finally:
        ray.shutdown()


@needs("hydra_plugins.hydra_optuna_sweeper", "optuna")
def test_optuna_searches_by_the_runs_scores_and_a_repeated_search_skips_them(launch, tmp_path):
    search = ["-cd", str(ROOT / "sweeps"), "-cn", "search", "hydra.sweeper.n_trials=2", "trainer.max_steps=4", *QUICK]
    ended = launch(tmp_path, *search, "pruning.startup=2")
    assert ended.status == 0, ended.text
    study = tmp_path / "outputs" / "studies" / "search"
    found = yaml.safe_load((study / "optimization_results.yaml").read_text())
    results = [path.read_text() for path in study.glob("a-cat/*/result.json")]
    scores = [yaml.safe_load(text)["scores"]["prior_score"] for text in results]
    assert len(scores) == 2
    assert found["best_value"] == max(scores)
    assert set(found["best_params"]) > {"distillation.guidance_scale", "optimizer.learning_rates.table"}
    assert len(list(study.glob("a-cat/*/rungs.json"))) == 2

    again = launch(tmp_path, *search, "pruning.startup=2")
    assert again.text.count("is already finished") == 2
    assert [path.read_text() for path in study.glob("a-cat/*/result.json")] == results
    assert yaml.safe_load((study / "optimization_results.yaml").read_text()) == found


@needs("hydra_plugins.hydra_optuna_sweeper", "optuna")
def test_a_failed_run_of_a_search_does_not_stop_the_others(launch, tmp_path):
    search = ["-cd", str(ROOT / "sweeps"), "-cn", "search", "pruning=none", *QUICK, *CHECKED]
    search += ["hydra.sweeper.n_trials=3", "distillation.guidance_scale=4", "distillation.rescale=0"]
    search += ["system.regularizer.opacity=1", "optimizer.learning_rates.table=choice(0.5, 1e9)"]
    ended = launch(tmp_path, *search)
    assert ended.status == 0, ended.text
    study = tmp_path / "outputs" / "studies" / "search"
    assert yaml.safe_load((study / "optimization_results.yaml").read_text())["best_params"] == {
        "optimizer.learning_rates.table": 0.5
    }
    assert "1 finished run," in (study / "report.md").read_text()


@needs("hydra_plugins.hydra_optuna_sweeper", "optuna")
def test_a_search_whose_runs_all_fail_says_so_in_one_line(launch, tmp_path):
    search = ["-cd", str(ROOT / "sweeps"), "-cn", "search", "hydra.sweeper.n_trials=2", "guidance.variant=777", *QUICK]
    ended = launch(tmp_path, *search)
    assert ended.status == 1 and "Traceback" not in ended.text
    assert ended.text.count("failed: ") == 2
    assert ended.text.strip().splitlines()[-1].startswith("error: all runs of the search failed")
