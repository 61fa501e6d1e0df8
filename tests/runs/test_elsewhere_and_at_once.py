"""Multiruns whose runs are somewhere else than in outputs/, and commands that share a study."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from results import CAT

from dreamfusion.cli.study_callback import StudyCallback, table_after_failure
from dreamfusion.error import UserError
from dreamfusion.runs.lock import Locked, locked
from dreamfusion.runs.results import write_result


@pytest.fixture
def multirun(compose_config, tmp_path, monkeypatch):
    """The settings of a run of a multirun as Hydra composes them."""

    def make(*arguments):
        composed = compose_config("prompt=a cat", "hydra.mode=MULTIRUN", *arguments, with_hydra=True)
        with open_dict(composed):
            composed.hydra.job.num, composed.hydra.runtime.output_dir = 0, str(tmp_path / "run")
        HydraConfig.instance().set_config(composed)
        return composed

    monkeypatch.chdir(tmp_path)
    yield make
    HydraConfig.instance().cfg = None


def test_a_multirun_in_a_folder_of_the_users_has_its_runs_and_its_table_there(multirun, tmp_path):
    folder = tmp_path / "elsewhere"
    composed = multirun(f"hydra.sweep.dir={folder}")
    run = folder / composed.hydra.sweep.subdir
    assert run.parent == folder / "a-cat"
    write_result(CAT, run)
    StudyCallback().on_multirun_end(composed)
    assert "1 finished run," in (folder / "report.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_an_error_that_ends_a_multirun_leaves_a_table_of_its_runs(multirun, tmp_path):
    composed = multirun("study=x")
    run = Path(composed.hydra.sweep.dir) / "a-cat" / "1"
    for begun in (False, True):  # without any run, such as a setting that does not exist, no folder is made
        with pytest.raises(UserError, match="exploded"), table_after_failure():
            StudyCallback().on_multirun_start(composed)
            if begun:
                write_result(CAT, run)
                (run / "config.yaml").write_text("prompt: a cat\n")
            raise UserError("exploded")
        assert (tmp_path / "outputs").exists() == begun
    assert "1 finished run," in (run.parents[1] / "report.md").read_text(encoding="utf-8")
    (run.parents[1] / "report.md").unlink()
    with pytest.raises(UserError), table_after_failure():  # of a command that is no multirun
        raise UserError("exploded")
    assert not (run.parents[1] / "report.md").exists()


def test_a_run_that_another_command_of_its_study_makes_fails_a_search_only(multirun, tmp_path):
    """So several `-m` commands on one study end with 0 where all is done; a search needs the run's score."""
    composed = multirun("study=shared")
    settings = OmegaConf.masked_copy(composed, [name for name in composed if name != "hydra"])
    with locked(tmp_path / "run"):
        assert instantiate(settings.mode)(settings) == Path("run")
        settings.objective = "prior_score"
        with pytest.raises(Locked, match="another process is running in run; repeat the command later to resume"):
            instantiate(settings.mode)(settings)
    assert not (tmp_path / "run" / "config.yaml").exists()
