"""The whole tree: where device-dependent code lives, how large a module is, how a choice is explained."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "dreamfusion").rglob("*.py"), ROOT / "launch.py"])
CONFIGS = sorted(path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml"))
KERNELS = {"numba", "nerfacc", "tinycudann", "triton"}
# The one exception: the state of nerfacc's occupancy grid is plain PyTorch and the same on every device.
NOT_WRITTEN = ("dreamfusion/runs/names.py", "dreamfusion/runs/study.py")  # their JSON is only hashed or compared
OCCUPANCY = "dreamfusion/scene/nerf/occupancy.py"
# The standard library's modules that Windows lacks; filelock and psutil know all systems.
UNIX_ONLY = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


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
def test_kernel_libraries_and_is_cuda_appear_under_ops_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if name(path).startswith("dreamfusion/ops/"):
        return
    kernels = KERNELS & set(imported(tree))
    assert kernels <= ({"nerfacc"} if name(path) == OCCUPANCY else set())
    assert not any(isinstance(node, ast.Attribute) and node.attr == "is_cuda" for node in ast.walk(tree))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_imports_what_only_unix_has(path):
    assert not UNIX_ONLY & set(imported(ast.parse(path.read_text(encoding="utf-8"))))


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


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_json_that_is_written_holds_no_nan(path):
    """NaN and Infinity are no JSON: `jq`, browsers and other languages refuse the whole file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps"):
            assert any(word.arg == "allow_nan" for word in node.keywords) or name(path) in NOT_WRITTEN


# From the ground floor up: a room imports from its own and the lower ones only. See docs/extending.md.
ROOMS = """
error
types schedule randomness files paths signals ranks phases
image truth
ops
camera
scene
diffusion
pocket/model
guidance
prompting
distillation
loss optimization reference untrusted option_files checkpoint_file
system checkpoint
export
mesh
report
pocket/data
pocket/training
evaluation
training
runs
view
benchmark
cli
mode
api __main__
"""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS.split("\n")) for room in rooms.split()}


def room(parts):
    """The room of a module's path within the package, and its floor."""
    names = ["/".join(parts[:2]), parts[0]] if parts[0] == "pocket" else [parts[0]]
    return next((name for name in names if name in FLOOR), None)


def internal(tree):
    """The modules of this package that a module imports, as parts of their path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamfusion."):
            yield node.module.split(".")[1:]
        elif isinstance(node, ast.ImportFrom) and node.module == "dreamfusion":
            yield from ([alias.name] for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down_only(path):
    """So no two rooms import each other, no mode imports another, and everything has a place on the list."""
    if path.parent == ROOT or (path.name == "__init__.py" and path.parent.parent == ROOT):
        return
    own = list(path.relative_to(ROOT / "dreamfusion").with_suffix("").parts)
    if room(own) is None:
        assert own == ["pocket", "__init__"], f"{name(path)} has no place in ROOMS"
        return
    for parts in internal(ast.parse(path.read_text(encoding="utf-8"))):
        used = room(parts)
        if used is None:
            assert parts in (["pocket"], ["__version__"]), ".".join(parts)
        elif used == room(own):
            assert used != "mode" or parts == own, f"{name(path)} imports the mode {'.'.join(parts)}"
        else:
            assert FLOOR[used] < FLOOR[room(own)], f"{name(path)} imports {'.'.join(parts)}"
