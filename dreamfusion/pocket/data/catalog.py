"""Read 3D model libraries: name, creator, licence and path of each model.

First step of the pocket prior's data: catalog -> assets -> renders. A library is a Sweet Home 3D furniture library
(`.sh3f`, or the program's own `.jar`), a folder of these, or a folder of `.glb` and `.obj` files with an optional
`captions.csv`.
"""

import csv
import lzma
import math
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

Rotation = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

_HERE = Path(__file__).parent
_PROPERTIES = ("PluginFurnitureCatalog.properties", "com/eteks/sweethome3d/io/DefaultFurnitureCatalog.properties")
_CAPTIONS = "captions.csv"
LARGEST_FILE = 2**26  # bytes of a model, a texture or a catalogue, unpacked; the libraries of Debian need 2**24
# RuntimeError: encrypted, or packed by a method or version that zipfile does not know.
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError)
LONGEST_NAME = 200  # characters


@dataclass(frozen=True)
class Subject:
    """Name and origin of one model."""

    name: str  # lower-case English, as in a prompt: "siamese cat"
    tags: tuple[str, ...]
    category: str
    creator: str
    license: str
    source: str  # file name of the library
    title: str = field(default="", kw_only=True)  # unique, see `subject_names`; "" in older render sets
    length: float = field(default=0.0, kw_only=True)  # of the longest side, centimetres; 0: not known


@dataclass(frozen=True)
class Item(Subject):
    """One model of a library."""

    model: str  # path inside the archive, or on disk
    rotation: Rotation | None = None  # rows; rotates the model to y up, front towards +z
    archive: Path | None = None  # zip file that contains the model
    folder: Path | None = None  # of a library on disk; a model's other files must be in it as well


def read_libraries(paths: Sequence[Path]) -> list[Item]:
    """Items of all libraries, in the order of `paths`.

    Raises:
        FileNotFoundError: a library does not exist.
        ValueError: a library cannot be read, or none contains a model.
    """
    items = [item for path in paths for item in read_catalog(Path(path))]
    if not items:
        names = ", ".join(str(path) for path in paths) or "none given"
        raise ValueError(
            f"no 3D models in the libraries ({names}); expected .sh3f files, or folders with .glb or .obj files"
        )
    return items


def read_catalog(path: Path) -> list[Item]:
    """Items of one library; of Sweet Home 3D libraries without doors, windows and the entries of `excluded.txt`.

    A folder is read with its `.sh3f` files, not recursively, and its `.glb` and `.obj` files, recursively.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: it is not a library, or a broken one.
    """
    if path.is_dir():
        return [item for file in sorted(path.glob("*.sh3f")) for item in read_catalog(file)] + _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"model library {path} does not exist; give a .sh3f file or a folder of .glb or .obj files "
            "(mode.libraries=[...]); on Debian `make pretrain-data` downloads the default ones"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((name for name in _PROPERTIES if name in archive.namelist()), None)
            if entry is None:
                raise ValueError(
                    f"model library {path} contains no furniture catalogue ({_PROPERTIES[0]}); is it a .sh3f file?"
                )
            text = read_member(archive, entry).decode("latin-1")  # as Java's properties, with escapes
    except BROKEN as error:
        raise ValueError(f"model library {path} is not a readable zip file ({error}); download it again") from error
    return _furniture(text, path)


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Content of a file of a zip archive.

    Raises:
        KeyError: there is no such file.
        ValueError: the file is larger than LARGEST_FILE, whatever the archive says about its size.
    """
    with archive.open(name) as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{name} in {archive.filename} is larger than {LARGEST_FILE >> 20} MiB")
    return content


def clean_name(name: str) -> str:
    """Lower-case name without sizes, counts and model numbers: "Bed 140x190" -> "bed", "TV 16:9" -> "tv"."""
    name = re.sub(r"[\s_\-]+", " ", name[:LONGEST_NAME]).strip().lower()
    return re.sub(r"(\s+#?\d+([.:x/]\d+)*\s*(cm|mm|m|°|€)?)+$", "", name)


def is_excluded(name: str, model: str = "") -> bool:
    """Whether `excluded.txt` lists the name, or this model of that name."""
    return any(_fits(line, name, model) for line in _lines("excluded.txt"))


def _furniture(text: str, path: Path) -> list[Item]:
    library, numbered = _parse_properties(text)
    items = []
    for number in sorted(numbered):
        entry = numbered[number]
        if "name" not in entry or "model" not in entry or entry.get("doorOrWindow", "false") == "true":
            continue
        name = _rename(clean_name(entry["name"]), entry["model"])
        if is_excluded(name, entry["model"]):
            continue
        items.append(
            Item(
                name=name,
                tags=tuple(tag.strip().lower() for tag in entry.get("tags", "").split(",") if tag.strip()),
                category=entry.get("category", "").lower(),
                creator=entry.get("creator", library.get("provider", "")),
                license=re.sub(r"\s+", " ", entry.get("license", library.get("license", ""))),
                source=path.name,
                model=entry["model"].lstrip("/"),
                rotation=_parse_rotation(entry.get("modelRotation")),
                archive=path,
                length=_longest_side(entry),
            )
        )
    return items


def _parse_properties(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Values of a properties file: those of the library, and those with an item number (`name#12=...`)."""
    library: dict[str, str] = {}
    numbered: dict[int, dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        match = re.match(r"\s*(\w+)(?:#(\d+))?\s*[=:](.*)$", line)
        if match is None:
            continue
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), match[3].strip())
        if match[2] is None:
            library[match[1]] = value
        else:
            numbered[int(match[2])][match[1]] = value
    return library, numbered


def _longest_side(entry: dict[str, str]) -> float:
    """The longest of an entry's sides, which are in centimetres; 0 if one is missing or no length."""
    try:
        sides = [float(entry[side]) for side in ("width", "depth", "height")]
    except (KeyError, ValueError):
        return 0.0
    return max(sides) if all(0 < side < math.inf for side in sides) else 0.0


def _parse_rotation(text: str | None) -> Rotation | None:
    if text is None:
        return None
    v = [float(part) for part in text.split()]
    if len(v) != 9:
        raise ValueError(f"modelRotation has {len(v)} numbers ({text!r}), expected 9, row by row")
    return ((v[0], v[1], v[2]), (v[3], v[4], v[5]), (v[6], v[7], v[8]))


def _read_folder(folder: Path) -> list[Item]:
    """Items of all .glb and .obj files below the folder; optional captions.csv (file,name,tags,creator,license),
    also with the semicolons that Excel writes in many countries.
    """
    captions: dict[str, dict[str, str]] = {}
    table = folder / _CAPTIONS
    if table.is_file():
        if table.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{table} is larger than {LARGEST_FILE >> 20} MiB")
        try:
            with table.open(newline="", encoding="utf-8-sig") as lines:  # Excel writes a byte order mark
                header = lines.readline()
                lines.seek(0)
                reader = csv.DictReader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
                columns, rows = reader.fieldnames or (), list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{table} is no table in UTF-8: {error}") from error
        if not {"file", "name"} <= set(columns):
            raise ValueError(f"{table} has the columns {columns}; file and name are required")
        captions = {row["file"] or "": {key: (row.get(key) or "").strip() for key in _COLUMNS} for row in rows}
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".glb", ".obj"))
    known = {f.relative_to(folder).as_posix() for f in files}
    if missing := sorted(captions.keys() - known):
        raise ValueError(f"{table} lists {missing[0]!r} (one of {len(missing)}), which is not in {folder}")
    items = []
    for file in files:
        row = captions.get(file.relative_to(folder).as_posix(), dict.fromkeys(_COLUMNS, ""))
        items.append(
            Item(
                name=row["name"].lower() or clean_name(file.stem),
                tags=tuple(tag.strip().lower() for tag in row["tags"].split(",") if tag.strip()),
                category="",
                creator=row["creator"],
                license=row["license"],
                source=folder.name,
                model=file.as_posix(),
                folder=folder,
            )
        )
    return items


_COLUMNS = ("name", "tags", "creator", "license")


def _rename(name: str, model: str) -> str:
    """The name by the first matching line of `renames.txt`, or `name` itself."""
    return next((new for old, new in _renames() if _fits(old, name, model)), name)


def _fits(line: str, name: str, model: str) -> bool:
    """Whether a line `pattern @part` matches a model: shell-style pattern for its name, substring for its path."""
    pattern, _, part = (piece.strip() for piece in line.partition("@"))
    return part.lower() in model.lower() and fnmatchcase(name, pattern)


@cache
def _renames() -> tuple[tuple[str, str], ...]:
    pairs = []
    for line in _lines("renames.txt"):
        old, arrow, new = (part.strip() for part in line.partition("->"))
        if not (old and arrow and new):
            raise ValueError(f"renames.txt: {line!r} is not of the form 'old name -> new name'")
        pairs.append((old, new))
    return tuple(pairs)


@cache
def _lines(file: str) -> tuple[str, ...]:
    """Lines of a word list beside this module, without comments and blank lines."""
    lines = (line.partition("#")[0].strip() for line in (_HERE / file).read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)
