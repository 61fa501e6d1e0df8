"""Examples made by hypothesis for all that this project reads from a person or a file.

Each example ends with a result, or with an error that a command prints as one line: never with a traceback, and never
after minutes. The modules that read files are called in this process; command lines run until the first file of a run
would be written, and a few of them to their end, in forks.
"""

import json
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import trimesh
from forked import Command
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from launched import launched
from libraries import MTL, OBJ, entry, write_library
from omegaconf import OmegaConf

from dreamfusion.checkpoint import load_scene, read_checkpoint
from dreamfusion.cli.arguments import understood
from dreamfusion.cli.quoting import quote_texts
from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION
from dreamfusion.pocket.data.assets import AssetError, load_asset
from dreamfusion.pocket.data.catalog import read_catalog
from dreamfusion.runs import dream
from dreamfusion.runs.check import check_prompt
from dreamfusion.runs.names import run_folder, slug
from dreamfusion.runs.results import read_result
from dreamfusion.untrusted import read_configuration

PATIENCE = 120  # seconds of processor time for one example
MEMORY = 16 * 2**30  # bytes of address space: an example that asks for more must end with one line, too
SHARES = {  # of the examples
    "prompts": 0.25, "checkpoints": 0.15, "configurations": 0.15, "results": 0.1, "libraries": 0.2, "glbs": 0.1,
    "command_lines": 0.04, "runs": 0.01,
}  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT,
    st.sampled_from([0, -1, 1e308, 1e-30, math.nan, math.inf, 999_999_999, "${oc.env:HOME}", "${field.radius}", ""]),
)  # fmt: skip
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("_target_"), inner, max_size=3),
    max_leaves=5,
)
VALUES = "null 0 -1 1e308 1e-30 nan inf -inf [] {} [1,2] [null] {a:1} true '' ümlaut 999999999 ??? ${x} 1,2"
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)  # an argument has no zero byte
TYPED = st.one_of(st.sampled_from(VALUES.split()), st.integers().map(str), st.floats().map(str), WORD)


def fuzz(folder: Path, size: int, start: int, small: list[str]) -> str:
    """Run each campaign of SHARES with its share of `size` examples."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    status, said = Command(folder, "prompt=a cat", "study=reference", *small).end()
    assert status == 0, said
    reference = next(folder.glob("outputs/studies/reference/*/*"))
    told = []
    for name, share in SHARES.items():
        place, count, began = folder / name, max(round(share * size), 1), time.monotonic()
        place.mkdir()
        results = Counter()
        for test in CAMPAIGNS[name](place, reference, small, results):
            run(test, count, start)
        told.append(f"{name} {count} ({results.count} results, {time.monotonic() - began:.0f} s)")
        print(told[-1], flush=True)
    return f"{', '.join(told)}: the others ended with one line"


def run(test: Callable[..., None], count: int, start: int) -> None:
    options = settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    seed(start)(options(test))()


class Counter:
    """Counts the examples that ended with a result, and limits the time of each."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def example(self, *errors: type[Exception]) -> Iterator[None]:
        """One of `errors` may end an example, if its message is one line."""
        signal.signal(signal.SIGVTALRM, _too_long)
        signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
        try:
            yield
            self.count += 1
        except errors as error:
            assert str(error), repr(error)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _too_long(number: int, frame: object) -> None:
    raise AssertionError(f"took more than {PATIENCE} s")


def prompts(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """Any text is one prompt, unchanged, and its folder is one name; two texts with a comma between need -m."""

    @given(st.text(max_size=300))
    def test(prompt: str) -> None:
        with results.example(UserError):
            check_prompt(prompt)
            (argument,) = quote_texts(understood([f"prompt={prompt}"]))
            value = OverridesParser.create().parse_override(argument).value()
            text = OmegaConf.create({"prompt": getattr(value, "text", value)})
            quoted = len(prompt) > 1 and prompt[0] == prompt[-1] and prompt[0] in "'\""
            assert quoted or prompt.strip() == "null" or text.prompt == prompt, (argument, text)
            parts = Path(run_folder("train", prompt, None, "name", prompt)).parts
            assert parts == ("studies", slug(prompt), slug(prompt), "name"), parts

    yield test


def checkpoints(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A changed byte is an error; a changed setting, in a file that is whole, a scene or an error."""
    whole = reference / "checkpoints" / "last.ckpt"
    content, checkpoint, path = read_checkpoint(whole), whole.read_bytes(), folder / "changed.ckpt"
    names = list(_leaves(content["config"]))

    @given(st.integers(0, len(checkpoint) - 1), st.integers(1, 255), st.integers(0, len(checkpoint)))
    def damaged(place: int, change: int, end: int) -> None:
        data = bytearray(checkpoint)
        data[place] ^= change
        path.write_bytes(data if place % 2 else data[:end])
        try:
            load_scene(path)
        except UserError:
            return
        raise AssertionError("a damaged checkpoint was loaded")

    @given(st.sampled_from(names), PLAIN | st.tuples(PLAIN))
    def changed(name: tuple[str, ...], value: object) -> None:
        settings = json.loads(json.dumps(content["config"]))
        _put(settings, name, value)
        torch.save(content | {"config": settings}, path)
        with results.example(UserError):
            load_scene(path)

    yield damaged
    yield changed


def configurations(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A config.yaml with other characters or another value."""
    text, path = (reference / "config.yaml").read_text(), folder / "config.yaml"
    names = list(_leaves(OmegaConf.to_container(OmegaConf.load(reference / "config.yaml"))))

    @given(st.integers(0, len(text)), st.integers(0, 40), TEXT)
    def spliced(place: int, length: int, insert: str) -> None:
        path.write_text(text[:place] + insert + text[place + length :], encoding="utf-8")
        with results.example(UserError):
            read_configuration(path)

    @given(st.sampled_from(names), PLAIN)
    def changed(name: tuple[str, ...], value: object) -> None:
        settings: Any = OmegaConf.to_container(OmegaConf.load(reference / "config.yaml"))
        _put(settings, name, value)
        path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        with results.example(UserError):
            read_configuration(path)

    yield spliced
    yield changed


def results(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A result.json with another value, or any JSON in its place."""
    whole, path = json.loads((reference / "result.json").read_text()), folder / "result.json"

    @given(st.sampled_from(list(_leaves(whole))), PLAIN, st.booleans())
    def test(name: tuple[str, ...], value: object, inside: bool) -> None:
        content = json.loads(json.dumps(whole))
        _put(content, name, value)
        path.write_text(json.dumps(content if inside else value))
        with results.example(UserError):
            read_result(folder)

    yield test


def libraries(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """An .sh3f file with changed bytes, a changed model or a changed catalogue: its models, or an error."""
    path = folder / "library.sh3f"
    files = {"m/box.obj": OBJ.encode(), "m/box.mtl": MTL.encode()}
    whole = write_library(path, entry(1, "Box", "/m/box.obj"), files).read_bytes()
    lines = st.sampled_from([*OBJ.splitlines(), "f 1 2 99", "f 1/1/1 2//3 3", "v nan 0 0", "usemtl", "mtllib", "f"])

    def read() -> None:
        with results.example(ValueError):  # AssetError is one of them; the caller prints one line
            for item in read_catalog(path):
                load_asset(item)

    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=5))
    def damaged(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        path.write_bytes(data)
        read()

    @given(st.lists(lines | TEXT, max_size=30), st.text(max_size=100))
    def written(obj: list[str], mtl: str) -> None:
        models = {"m/box.obj": "\n".join(obj).encode(), "m/box.mtl": (MTL + mtl).encode()}
        write_library(path, entry(1, "Box", "/m/box.obj"), models)
        read()

    @given(TEXT, TEXT, st.sampled_from(["modelRotation", "license", "doorOrWindow", "icon"]), TEXT)
    def catalogued(name: str, model: str, key: str, value: str) -> None:
        write_library(path, entry(1, name, model, **{key: value}) + entry(2, "Box", "m/box.obj"), files)
        read()

    yield damaged
    yield written
    yield catalogued


def glbs(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A .glb file with changed bytes, or another value in its header."""
    path = folder / "box.glb"
    mesh = trimesh.creation.box()
    mesh.visual = trimesh.visual.TextureVisuals(uv=mesh.vertices[:, :2])
    whole = trimesh.Scene(mesh).export(file_type="glb")
    length = int.from_bytes(whole[12:16], "little")
    header, binary = json.loads(whole[20 : 20 + length]), whole[20 + length :]

    def read() -> None:
        with results.example(AssetError):
            (item,) = read_catalog(folder)
            load_asset(item)

    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=5))
    def damaged(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        path.write_bytes(data)
        read()

    @given(st.sampled_from(list(_leaves(header))), PLAIN)
    def changed(name: tuple[str, ...], value: object) -> None:
        settings = json.loads(json.dumps(header))
        _put(settings, name, value)
        text = json.dumps(settings).encode()
        text += b" " * (-len(text) % 4)
        start = whole[:8] + (20 + len(text) + len(binary)).to_bytes(4, "little")
        path.write_bytes(start + len(text).to_bytes(4, "little") + b"JSON" + text + binary)
        read()

    yield damaged
    yield changed


def _arguments(reference: Path) -> st.SearchStrategy[list[str]]:
    """Values of settings, options of groups and any text, beside the settings of a small run."""
    leaves = _leaves(OmegaConf.to_container(OmegaConf.load(reference / "config.yaml")))
    names = [".".join(map(str, leaf)) for leaf in leaves if "_target_" not in leaf]
    groups = [path for path in CONFIGURATION.iterdir() if path.is_dir() and path.name not in ("mode", "hydra")]
    options = [f"{group.name}={file.stem}" for group in groups for file in group.glob("*.yaml")]
    prefix = st.sampled_from(["", "", "", "+", "++", "~"])
    setting = st.builds("{}{}={}".format, prefix, st.sampled_from(names), TYPED)
    return st.lists(setting | setting | setting | st.sampled_from(options) | WORD, min_size=1, max_size=3)


def command_lines(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A command line until the first file of its run would be written."""
    begin = dream.begin

    def stop(*arguments: object) -> None:
        raise SystemExit(0)

    @given(_arguments(reference))
    def test(arguments: list[str]) -> None:
        dream.begin = stop  # type: ignore[assignment]
        try:
            with results.example():
                ended = launched(folder, "prompt=a cat", *small, *arguments)
                _check(ended.status, ended.text, arguments)
                results.count -= ended.status != 0
        finally:
            dream.begin = begin

    yield test


def runs(folder: Path, reference: Path, small: list[str], results: Counter) -> Iterator[Callable[..., None]]:
    """A command line to its end, or the export of a checkpoint with changed bytes."""

    @given(_arguments(reference))
    def test(arguments: list[str]) -> None:
        with results.example():
            status, said = Command(folder, "prompt=a cat", *small, *arguments).end()
            _check(status, said, arguments)
            results.count -= status != 0

    yield test


def _check(status: object, said: str, arguments: list[str]) -> None:
    assert "Traceback" not in said, (arguments, said)
    assert status == 0 or said.count("error: ") == 1, (arguments, status, said)


def _leaves(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the values in nested dicts and lists, the inner nodes as well."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    if isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, index))  # type: ignore[arg-type]


def _put(tree: Any, path: tuple[str, ...], value: object) -> None:
    *parents, last = path
    for key in parents:
        tree = tree[key]
    tree[last] = value


CAMPAIGNS = {
    one.__name__: one for one in (prompts, checkpoints, configurations, results, libraries, glbs, command_lines, runs)
}
