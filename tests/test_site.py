"""The documentation as a site."""

import importlib.util
import subprocess
import sys

import pytest
from launched import ROOT


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed: make docs")
def test_it_builds_without_a_warning_and_has_the_settings_and_the_python_interface(tmp_path):
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", ROOT / "docs", tmp_path]
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    settings = (tmp_path / "settings.html").read_text(encoding="utf-8")
    assert "distillation=sds" in settings and "optimizer=adam" in settings
    assert "dreamfusion.api.dream" in (tmp_path / "python.html").read_text(encoding="utf-8")
