"""Run `python launch.py ...` in this process, in a separate folder."""

import os

import pytest
from launched import PROMPT, SLUG, Finished, launched


@pytest.fixture(scope="session")
def launch():
    """launch(folder, *arguments) -> `Ended`, run with `folder` as the working directory."""
    os.environ.pop("HYDRA_FULL_ERROR", None)
    return launched


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
