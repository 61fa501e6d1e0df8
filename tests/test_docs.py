"""README.md and docs/: every command composes, every link leads somewhere, the rooms are those of the architecture."""

import ast
import re
import shlex
import shutil
import subprocess

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from launched import ROOT
from omegaconf import OmegaConf

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONF = ROOT / "conf"
DEFAULTS = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))["defaults"]
PROGRAMS = (["python", "launch.py"], ["python", "-m", "dreamfusion"], ["dreamfusion"])


def commands(page):
    """The arguments of each of our commands in the bash blocks of a page."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            for program in PROGRAMS:
                if words[: len(program)] == program:
                    yield words[len(program) :]
                    break


COMMANDS = [
    pytest.param(arguments, id=f"{page.stem}: {shlex.join(arguments)}")
    for page in PAGES
    for arguments in commands(page)
    if "--config-dir" not in arguments  # docs/extending.md: tests/mode/test_extending.py runs its commands
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_of_the_documentation_composes(arguments, compose_config):
    settings, place = list(arguments), {}
    if settings[:1] == ["-cd"]:
        assert settings[:3:2] == ["-cd", "-cn"]
        place = {"folder": ROOT / settings[1], "name": settings[3]}
        settings = [f"hydra.searchpath=[file://{CONF}]", *settings[4:]]
    runs = [settings]
    if settings[:1] == ["-m"]:
        overrides = OverridesParser.create().parse_overrides(settings[1:])
        (runs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        assert len(runs) > 1 or any(setting.startswith("prompts.file=") for setting in settings)
    for run in (runs[0], runs[-1]):
        # Launchers are plugins that need not be installed.
        cfg = compose_config(*[setting for setting in run if not re.match(r"\+?hydra[./]launcher", setting)], **place)
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def test_the_readme_has_commands_of_every_kind_and_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") < 200
    found = list(commands(ROOT / "README.md"))
    assert len(found) > 15
    for start in (["prompt=a cat"], ["mode=export"], ["-m"], ["-cd"]):
        assert any(arguments[: len(start)] == start or start[0] in arguments for arguments in found), start


@pytest.mark.parametrize(
    "group", sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
)
def test_the_readme_lists_the_options_of_every_group_and_marks_the_default(group):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{group}` \| ([^|]*) \|", text, re.MULTILINE)
    assert row, f"README.md has no row for the group {group}"
    options = {path.relative_to(CONF / group).with_suffix("").as_posix() for path in (CONF / group).rglob("*.yaml")}
    assert set(row[1].replace("*", "").split(", ")) == options
    defaults = {key: option for entry in DEFAULTS if isinstance(entry, dict) for key, option in entry.items()}
    defaults = {key: re.sub(r"\$\{suits:\w+,(\w+),.*", r"\1", option or "") for key, option in defaults.items()}
    if group == "recipe":  # chosen by the prior
        return
    if defaults[group]:
        assert re.findall(r"\*\*(\w+)\*\*", row[1]) == [defaults[group]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_page_for_developers_lists_the_rooms_of_the_architecture_test():
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    rooms = next(n.value.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "ROOMS")
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    table = page.split("| rooms | contents |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [set(re.findall(r"`([^`]+)`", row.split("|")[1])) for row in table.splitlines()]
    assert rows[::-1] == [set(row.split()) for row in rooms.strip().splitlines()]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("prompt", ["a $20 bill", "a cat's $(hat)", 'a "dog" \\ `ls` #1', "$${x}"])
def test_make_passes_a_prompt_unchanged(prompt):
    command = ["make", "--no-print-directory", "-n", "dream", f"PROMPT={prompt}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shlex.split(shown.stdout.splitlines()[-1])[-1] == f"prompt={prompt}"
