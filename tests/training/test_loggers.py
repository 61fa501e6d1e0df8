"""metrics.csv survives resumption, and W&B never prompts."""

import csv
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.errors import AuthenticationError

from dreamfusion.training.loggers import LONGEST_NAME, MetricsFile, close, logged_in, tensorboard, wandb, wandb_mode
from dreamfusion.training.loggers import csv as csv_only


def rows(path):
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def log(path, steps, **more):
    logger = MetricsFile(path)
    for step in steps:
        logger.log_metrics({"opacity": step / 10, "epoch": 0, **more}, step)
    logger.finalize("success")


def test_a_row_for_each_logged_step(path):
    log(path, [9, 19])
    assert rows(path) == [{"step": "9", "opacity": "0.9"}, {"step": "19", "opacity": "1.9"}]


def test_a_resumed_run_keeps_the_rows_before_it_and_replaces_those_after(path):
    """A killed run has rows after its last checkpoint; the resumed run repeats those steps."""
    log(path, [9, 19, 29])
    log(path, [19, 29, 39])
    assert [row["step"] for row in rows(path)] == ["9", "19", "29", "39"]
    log(path, [49])
    assert [row["step"] for row in rows(path)] == ["9", "19", "29", "39", "49"]


def test_tensorboard_shows_the_steps_of_a_resumed_run_once(tmp_path):
    for steps in ([9, 19, 29], [19, 29, 39]):
        for logger in tensorboard(tmp_path, "a cat"):
            logger.save()  # as Lightning does before the first step
            for step in steps:
                logger.log_metrics({"opacity": step / 10}, step)
            logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("opacity")] == [9, 19, 29, 39]


def test_a_later_metric_gets_a_column(path):
    log(path, [9])
    log(path, [19], **{"loss/opacity": 0.5})
    assert rows(path) == [{"step": "9", "opacity": "0.9"}, {"step": "19", "opacity": "1.9", "loss/opacity": "0.5"}]


def test_rows_are_on_disk_after_each_batch_and_each_save(path):
    logger = MetricsFile(path, rows_at_once=2)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 2.0}, 1)
    assert not path.exists()
    logger.log_metrics({"a": 3.0}, 2)
    assert len(rows(path)) == 2
    logger.save()
    assert [row["a"] for row in rows(path)] == ["1.0", "2.0", "3.0"]


def test_rows_are_appended(path):
    logger = MetricsFile(path, rows_at_once=1)
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    handle = path.stat().st_ino
    for step in range(1, 5):
        logger.log_metrics({"a": 1.0}, step)
    logger.finalize("success")
    assert path.stat().st_ino == handle  # a rewritten file would have another inode
    assert len(rows(path)) == 5


def test_metrics_of_one_step_are_one_row(path):
    logger = MetricsFile(path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"b": 2.0}, 0)
    logger.finalize("success")
    assert rows(path) == [{"step": "0", "a": "1.0", "b": "2.0"}]


def test_a_run_without_a_row_writes_no_file(path):
    MetricsFile(path).finalize("success")
    assert not path.exists()


def test_a_truncated_file_does_not_stop_a_resumed_run(path):
    path.write_text("step,opacity\n9,0.9\n,\nx")
    log(path, [19])
    assert [row["step"] for row in rows(path)] == ["9", "19"]


HOST, KEY = "https://wandb.example.org", "k" * 40
OFFLINE = "logging to Weights & Biases offline, `wandb sync RUN/wandb/offline-run-*` uploads it later: "


@pytest.fixture
def weights_and_biases(monkeypatch, tmp_path):
    """W&B as a new process finds it, without a login and without asking its service; returns its settings."""
    import wandb as library
    from wandb.sdk.lib.wbauth import unauthenticate_session

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings = library.setup().settings
    for name, value in {"base_url": HOST, "mode": "online", "api_key": None}.items():
        monkeypatch.setattr(settings, name, value)
    login = library.login
    monkeypatch.setattr(library, "login", lambda prompt, verify: login(prompt=prompt, verify=False))
    unauthenticate_session()
    logged_in.cache_clear()
    yield settings
    unauthenticate_session()
    logged_in.cache_clear()


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "dreamfusion.training.loggers"]


def test_without_a_key_a_run_is_offline_and_one_line_says_so_once(weights_and_biases, caplog):
    assert [wandb_mode(), wandb_mode()] == ["offline", "offline"]
    assert said(caplog) == [f"{OFFLINE}there is no login; `wandb login` makes one"]


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (f"machine wandb.example.org login user password {KEY}", "online"),
        (f"machine api.wandb.ai login user password {KEY}", "offline"),
        ("not a netrc at all {", "offline"),
    ],
)
def test_a_login_counts_at_the_host_that_wandb_uses(weights_and_biases, content, mode, tmp_path):
    (tmp_path / "netrc").write_text(content)
    assert wandb_mode() == mode


def test_a_key_in_the_environment_is_a_login_and_a_malformed_one_is_one_line(weights_and_biases, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert wandb_mode() == "offline"
    (line,) = said(caplog)
    assert line.startswith(OFFLINE)
    assert "must have 40+ characters, has 5" in line
    logged_in.cache_clear()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode() == "online"


@pytest.mark.parametrize("failure", [AuthenticationError, PermissionError, RuntimeError, ValueError])
def test_a_service_that_does_not_answer_is_one_line_and_the_run_is_offline(
    weights_and_biases, failure, monkeypatch, caplog
):
    def fail(**kwargs):
        raise failure("cannot reach\n  the service")

    monkeypatch.setattr("wandb.login", fail)
    assert wandb_mode() == "offline"
    assert said(caplog) == [f"{OFFLINE}cannot reach the service"]


@pytest.mark.parametrize(
    ("mode", "expected"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_a_mode_that_the_user_sets_needs_no_login(weights_and_biases, mode, expected, caplog):
    weights_and_biases.mode = mode
    assert wandb_mode() == expected
    assert not said(caplog)


def made(tmp_path, name="a cat"):
    return wandb(tmp_path, name, project="p", group=None, tags=[])


def test_weights_and_biases_is_offline_without_a_login_and_its_name_is_not_too_long(weights_and_biases, tmp_path):
    _, logger = made(tmp_path, "x" * 2000)
    assert logger._wandb_init["mode"] == "offline"
    assert len(logger._wandb_init["name"]) == LONGEST_NAME


def test_weights_and_biases_can_be_switched_off(weights_and_biases, monkeypatch, tmp_path):
    weights_and_biases.mode = "disabled"
    (only,) = made(tmp_path)
    assert isinstance(only, MetricsFile)


def test_closing_a_run_that_never_started_starts_none(weights_and_biases, tmp_path):
    close(made(tmp_path))
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1)])
def test_a_failed_run_is_failed_in_weights_and_biases(status, code, weights_and_biases, tmp_path, monkeypatch):
    loggers, ended = made(tmp_path), []
    run = SimpleNamespace(finish=lambda exit_code: ended.append(exit_code))
    monkeypatch.setattr(type(loggers[1]), "experiment", run)
    monkeypatch.setattr(type(loggers[1]), "version", "abc")
    monkeypatch.setattr(type(loggers[1]), "finalize", lambda self, status: None)
    close(loggers, status)
    assert ended == [code]


def test_the_default_logger_is_a_file_in_the_runs_folder(tmp_path):
    (only,) = csv_only(tmp_path, "a cat")
    assert only.path == tmp_path / "metrics.csv"
