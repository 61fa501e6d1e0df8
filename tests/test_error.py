"""User errors become one line; internal errors keep their traceback."""

import os
import shlex

import pytest
from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException

from dreamfusion.error import (
    INTERRUPTED,
    GuidanceError,
    UserError,
    file_error,
    one_line_errors,
    typed,
    user_message,
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def raised(error):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    return end.value.code


def test_hydra_errors_become_one_line():
    assert raised(CompactHydraException("no option 'foo'")) == "error: no option 'foo'"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Could not find 'mode/nix'\n\nAvailable options in 'mode':\n\ta\n\tb\nConfig search path:\n\tx",
            "'mode': a b",
        ),
        ("Key 'nix' is not in struct\n    full_key: nix\n    object_type=dict", "Key 'nix' is not in struct"),
        (
            "UserError raised while resolving interpolation: a command has one mode\n    full_key: hydra",
            "error: a command",
        ),
    ],
)
def test_errors_of_several_lines_become_one(text, line):
    message = raised(CompactHydraException(text))
    assert line in message
    assert "\n" not in message
    assert "full_key" not in message


def test_an_unparsable_argument_is_shown_with_the_quoting_to_use():
    message = raised(OverrideParseException("seed=(", "mismatched input"))
    assert message.startswith("error: cannot read 'seed=('")
    assert "second pair of quotes" in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_written_is_named():
    message = raised(PermissionError(13, "Permission denied", "outputs/train"))
    assert message.startswith("error: cannot use outputs/train: Permission denied")
    assert file_error(OSError("something odd")) == "something odd"


def test_a_killed_worker_of_a_launcher_gives_a_message_that_says_how_to_resume():
    joblib = pytest.importorskip("joblib.externals.loky.process_executor")
    message = raised(joblib.TerminatedWorkerError("exit codes {SIGKILL(-9)}"))
    assert message.startswith("error: a worker of the launcher was killed")
    assert message.endswith("Run the same command again to skip the finished runs and resume the rest")


def test_ctrl_c_is_an_exit_status_without_a_message():
    assert raised(KeyboardInterrupt()) == INTERRUPTED == 130


def test_internal_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def test_the_environment_is_restored():
    raised(CompactHydraException(""))
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_hydra_full_error_keeps_tracebacks(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(CompactHydraException), one_line_errors():
        raise CompactHydraException
    with pytest.raises(UserError, match="why"), one_line_errors():
        raise SystemExit("error: why") from UserError("why")
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise SystemExit(INTERRUPTED)
    assert end.value.code == INTERRUPTED


def test_a_file_where_a_folder_has_to_be_is_named(tmp_path):
    (tmp_path / "run").touch()
    for error in (FileExistsError, NotADirectoryError):
        with pytest.raises(error) as caught:
            (tmp_path / "run" / ("x" if error is NotADirectoryError else "")).mkdir()
        assert file_error(caught.value).endswith("a file is where a folder has to be: type another name")


def test_a_proposed_setting_is_one_word_of_a_shell():
    assert typed("run", "outputs/a-cat") == "run=outputs/a-cat"
    assert shlex.split(typed("start", "my cat's/$(run)")) == ["start=my cat's/$(run)"]


def instantiation(cause):
    error = InstantiationException("Error in call to target 'dreamfusion.x':\n...")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a\nb"), "a b"),
        (GuidanceError("no weights"), "no weights"),
        (instantiation(GuidanceError("no weights")), "no weights"),
        (instantiation(ImportError("no module named x")), "no module named x"),
        (instantiation(ZeroDivisionError()), None),
        (instantiation(None), None),
        (PermissionError(13, "Permission denied", "a"), "cannot use a: Permission denied; check the permissions"),
        (RuntimeError("CUDA error: out of memory"), "there is not enough memory"),
        (instantiation(MemoryError()), "there is not enough memory"),
        (RuntimeError("scan_cuda does not have a deterministic implementation, but"), "no such scan_cuda; type"),
        (ValueError("a fault of the program"), None),
        (RuntimeError("shapes"), None),
    ],
)
def test_an_error_of_the_user_has_one_sentence_and_a_fault_of_the_program_none(error, message):
    said = user_message(error)
    assert said is None if message is None else message in said
