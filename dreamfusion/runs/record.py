"""run.json: which code and machine made a run, one entry for each session: its beginning and each resumption.

Nothing in it is private beyond the command itself: no user, no host, no environment variable; paths are relative to the
working directory, or begin with ~ for the home folder.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dreamfusion import __version__
from dreamfusion.files import check_finite, write_json
from dreamfusion.ops.hardware import driver, gpu, processor, system
from dreamfusion.paths import CHECKOUT
from dreamfusion.untrusted import TRUSTED

RECORD = "run.json"
EXPERIMENT = "experiment"  # the group, and the setting of a result that holds its choice
PACKAGES = ("torch", "lightning", "numpy", "numba", "triton", "diffusers", "transformers")
CODE = ("dreamfusion", "conf", "sweeps")  # where a file that git does not know yet changes what a run does
HASHED = (".py", ".yaml", ".yml")  # files of a --config-dir that are part of its hash
PASSED_OVER = ("outputs", "multirun", "node_modules", "__pycache__")  # folders in one, as are those that begin with a .
MOST_FILES = 1000  # of a --config-dir; one with more has no hash
PATIENCE = 2.0  # seconds for git, which takes some 10 ms
HASH = 12  # hexadecimal digits


def add_session(folder: Path, new: bool) -> dict[str, Any]:
    """Write run.json of the run in `folder`, `new` or with the sessions that it has; returns the session of now."""
    now = session()
    write_json(folder / RECORD, {"sessions": [*([] if new else earlier(folder)), now]})
    return now


def earlier(folder: Path) -> list[Any]:
    """The sessions in run.json of the run in `folder`; none where the file is missing or broken, or holds NaN."""
    try:
        sessions = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sessions"]
        check_finite(sessions)
        return sessions if isinstance(sessions, list) else []
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def session() -> dict[str, Any]:
    """What this process runs, and on what."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [public(argument) for argument in sys.argv],
        "experiment": chosen_experiment(),
        "versions": versions(PACKAGES),
        "git": checkout(),
        "python": platform.python_version(),
        "system": system(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu(),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "config_dirs": {public(str(place)): digest_of(place) for place in config_dirs()},
    }


def chosen_experiment() -> str | None:
    """The experiment that this command names."""
    return HydraConfig.get().runtime.choices.get(EXPERIMENT) if HydraConfig.initialized() else None


def experiment(cfg: DictConfig, folder: Path) -> dict[str, str]:
    """The experiment as a setting of the result: this command's, or that of the run which it resumes or repeats."""
    before = earlier(folder) + (earlier(Path(str(cfg.config)).expanduser().parent) if cfg.config else [])
    named = [one.get(EXPERIMENT) for one in before if isinstance(one, dict)]
    chosen = next((name for name in (chosen_experiment(), *named) if name is not None), None)
    return {} if chosen is None else {EXPERIMENT: str(chosen)}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The version of dreamfusion and of each of the `packages`, by name."""
    own = {"dreamfusion": __version__, "torch": torch.__version__}  # of torch, with the kind of its build
    return {"dreamfusion": __version__, **{name: own.get(name) or _version(name) for name in packages}}


def checkout(root: Path = CHECKOUT) -> dict[str, str | None] | None:
    """Commit of the git checkout `root`, and a hash of what differs from it: None if nothing does.

    None where `root` is no checkout, or git is missing or refuses.
    """
    if not (root / ".git").exists():  # an installed package may lie in a checkout of something else
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        changes = _git(root, "diff", "--no-ext-diff", "--no-textconv", "--full-index", "HEAD")
        unknown = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE).split(b"\0")
        for name in filter(None, unknown):
            changes += name + b"\0" + (root / os.fsdecode(name)).read_bytes()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changes": hashlib.sha256(changes).hexdigest()[:HASH] if changes else None}


def config_dirs() -> list[Path]:
    """The `--config-dir` of this command, or `config_dir` of the Python API."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    named = [Path(source.path) for source in sources if source.provider == "command-line"]
    return list(dict.fromkeys([*TRUSTED, *named]))


def digest_of(folder: Path) -> str | None:
    """A hash of the names and contents of the HASHED files in a folder; None for too many, or one that is not read."""
    found: list[Path] = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in PASSED_OVER]
        found += [Path(top, name) for name in names if name.endswith(HASHED)]
        if len(found) > MOST_FILES:
            return None
    content = hashlib.sha256()
    try:
        for path in sorted(found):
            content.update(path.relative_to(folder).as_posix().encode(errors="surrogateescape") + b"\0")
            content.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return None
    return content.hexdigest()[:HASH]


def public(text: str) -> str:
    """A text with paths relative to the working directory, ~ for the home folder, and no invalid Unicode."""
    text = _without(text, str(Path.cwd()), "", ".")
    text = _without(text, _home(), "~/", "~")
    return text.encode(errors="backslashreplace").decode()


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:  # a user without one, as in some containers
        return ""


def _without(text: str, folder: str, inside: str, itself: str) -> str:
    """`text` with `inside` for the beginning of paths in `folder`, and `itself` for the folder."""
    if len(Path(folder).parts) < 2:  # the root of the file system, which is the home folder in some containers
        return text
    found = rf"(?<![\w.~-]){re.escape(folder)}(?:([/\\](?=[\w.~-]))|(?![\w.~-]))"
    return re.sub(found, lambda match: inside if match[1] else itself, text)


def _git(root: Path, *arguments: str) -> bytes:
    """What a git command writes; it changes nothing, and no variable of a hook leads it to another repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(root), *arguments],
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    ).stdout


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # modules may lie on the path without what pip writes beside them
        return "not installed" if importlib.util.find_spec(package) is None else "installed, of unknown version"
