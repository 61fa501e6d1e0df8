"""Run `python launch.py ...` in this process, in a separate folder."""

import io
import logging
import os
import runpy
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout

import pytest
from hydra.core.hydra_config import HydraConfig
from launched import PROMPT, ROOT, SLUG, Ended, Finished

from dreamfusion.signals import ENDING


@pytest.fixture(scope="session")
def launch():
    """launch(folder, *arguments) -> `Ended`, run with `folder` as the working directory."""

    def run(folder, *arguments):
        root, argv = logging.getLogger(), sys.argv
        handlers, level, said = list(root.handlers), root.level, io.StringIO()
        signals = {number: signal.getsignal(number) for number in ENDING}
        sys.argv = [str(ROOT / "launch.py"), *arguments]
        try:
            with chdir(folder), redirect_stdout(said), redirect_stderr(said):
                try:
                    runpy.run_path(sys.argv[0], run_name="__main__")
                    status = 0
                except SystemExit as end:
                    status = end.code or 0
                    if isinstance(status, str):  # as Python does with a message
                        print(status, file=sys.stderr)
                        status = 1
        finally:
            sys.argv, HydraConfig.instance().cfg = argv, None
            root.handlers, root.level = handlers, level
            for number, handler in signals.items():
                signal.signal(number, handler)
        return Ended(status, said.getvalue())

    os.environ.pop("HYDRA_FULL_ERROR", None)
    return run


@pytest.fixture(scope="session")
def finished(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    ended = launch(folder, f"prompt={PROMPT}", "experiment=smoke")
    assert ended.status == 0, ended.text
    (run,) = (folder / "outputs" / "train" / SLUG).iterdir()
    return Finished(folder, run, ended.text)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No login to Weights & Biases, no network, a separate home."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
