"""The wheel: it has the configuration and the command, works from any folder, and nothing else travels in it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numba
import pytest
from launched import QUICK, ROOT
from numba.core.caching import _CacheLocator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, unpacked as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    share_kernels(folder / "site")
    return folder / "site"


def share_kernels(site):
    """Copy the kernels that this checkout has compiled, which are valid for the same source files."""
    for source in (ROOT / "dreamfusion").rglob("*.py"):
        copy = site / source.relative_to(ROOT)
        shutil.copystat(source, copy)
        own, place = kernels(source), kernels(copy)
        for cache in own.glob(f"{source.stem}.*.nb[ic]"):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(cache, place)


def kernels(source):
    """The folder in which numba keeps the kernels of a module."""
    if not numba.config.CACHE_DIR:
        return source.parent / "__pycache__"
    return Path(numba.config.CACHE_DIR, _CacheLocator.get_suitable_cache_subpath(str(source)))


def command(site, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site), "DREAMFUSION_OPS": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dreamfusion", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_from_any_folder_and_writes_there(wheel, tmp_path):
    said = command(wheel, tmp_path, "prompt=a cat", *QUICK, "trainer.max_steps=1")
    (run,) = (tmp_path / "outputs" / "train" / "a-cat").iterdir()
    assert (run / "mesh.glb").is_file()
    assert f"outputs/train/a-cat/{run.name}" in said
    assert "study: laptop" in command(wheel, tmp_path, "-cd", "sweeps", "-cn", "laptop", "--cfg", "job")


def test_the_wheel_has_what_the_command_needs_and_no_more(wheel):
    names = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    for folder in ("conf", "sweeps"):
        own = {f"dreamfusion/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.yaml")}
        assert own <= names
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dreamfusion").rglob("*.py")}
    assert own <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"dreamfusion", next(top for top in tops if top.endswith(".dist-info"))}
    made_by_running = {name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))}
    assert not {name for name in names - made_by_running if "test" in name or "docs/" in name}
    (entry,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "dreamfusion = dreamfusion.cli.main:main" in entry.read_text()


LOCKED = re.compile(r"^([\w.-]+==\S+)(?: ;[^\\\n]*)? \\\n    --hash=sha256:[0-9a-f]{64}\b", re.MULTILINE)
LOCKS = {path.name: path.read_text() for path in ROOT.glob("requirements*.lock")}


def test_every_locked_file_has_a_hash_and_every_dependency_is_locked():
    locked = set()
    for name, text in LOCKS.items():
        packages = LOCKED.findall(text)
        assert len(packages) == len(re.findall(r"^\w", text, re.MULTILINE)), name
        locked |= {canonicalize_name(package.split("==")[0]) for package in packages}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["dev"], *project["build-system"]["requires"]]
    for extra in Requirement(next(one for one in extras["dev"] if one.startswith("dreamfusion["))).extras:
        needed += extras[extra]
    assert {canonicalize_name(Requirement(one).name) for one in needed} - locked == {"dreamfusion"}


def test_triton_is_installed_for_the_tests_alone_in_the_version_of_torch():
    (triton,) = [one for one in LOCKED.findall(LOCKS["requirements-test.lock"]) if one.startswith("triton==")]
    others = LOCKED.findall(LOCKS["requirements.lock"] + LOCKS["requirements-cpu.lock"])
    assert not {one for one in others if one.startswith("triton==")}
    assert triton in LOCKED.findall(LOCKS["requirements-cuda.lock"])
    users = re.findall(r"^(.+):.*\n\t.*requirements-test\.lock", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert users == ["$(READY_FOR_TESTS)"]
    assert "\ndream: $(READY)\n" in (ROOT / "Makefile").read_text()
