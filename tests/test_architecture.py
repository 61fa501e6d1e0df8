"""The whole tree: where device-dependent code lives, how large a module is, how a choice is explained."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "dreamfusion").rglob("*.py"), ROOT / "launch.py"])
CONFIGS = sorted(path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml"))
KERNELS = {"numba", "nerfacc", "tinycudann"}
# The one exception: the state of nerfacc's occupancy grid is plain PyTorch and the same on every device.
OCCUPANCY = "dreamfusion/scene/nerf/occupancy.py"


def name(path):
    return path.relative_to(ROOT).as_posix()


def imported(tree):
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_kernels_are_imported_under_ops_only_and_nobody_asks_for_cuda_elsewhere(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if name(path).startswith("dreamfusion/ops/"):
        return
    kernels = KERNELS & set(imported(tree))
    assert kernels <= ({"nerfacc"} if name(path) == OCCUPANCY else set())
    assert not any(isinstance(node, ast.Attribute) and node.attr == "is_cuda" for node in ast.walk(tree))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 320
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_configuration_begins_with_when_to_choose_it(path):
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    if first.startswith("# @package"):
        first = rest[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_no_file_knows_the_machine_it_was_written_on():
    homes = ["/" + folder for folder in ("work/", "root/", "home/")]
    suffixes = (".py", ".yaml", ".toml", ".md", ".txt", ".html", ".lock", "")
    found = []
    for top in ("conf", "dreamfusion", "sweeps", "tests", "docs", "."):
        files = (ROOT / top).glob("*") if top == "." else (ROOT / top).rglob("*")
        for path in files:
            if path.name == ".git":  # of a worktree: a file that says where the repository is
                continue
            if path.is_file() and path.suffix in suffixes and path.stat().st_size < 1_000_000:
                text = path.read_text(encoding="utf-8", errors="ignore")
                found += [f"{name(path)}: {home}" for home in homes if home in text]
    assert not found


def test_prompting_camera_and_field_do_not_know_what_comes_after_them():
    """The reading order is the data flow: nothing imports from further down."""
    order = ["camera", "field", "background", "renderer", "distillation", "mode"]
    for place, folder in enumerate(order):
        for path in (ROOT / "dreamfusion" / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used = {
                node.module.split(".")[1]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamfusion.")
            }
            assert not used & set(order[place + 1 :]), name(path)
