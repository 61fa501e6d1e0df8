"""Select the models of a render set that are learned, and the name each is learned under (`names.txt`)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dreamfusion.pocket.data.catalog import Subject


def read_names(path: Path) -> dict[str, str]:
    """Lines `name` or `name = library name, library name 3` -> {library name: learned name}, in file order."""
    learned_names = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, library_names = line.partition("=")
        if name.strip() and not line.startswith("#"):
            learned_names.update({library.strip(): name.strip() for library in (library_names or name).split(",")})
    return learned_names


def subject_names(items: Sequence[Subject]) -> list[str]:
    """A unique name per model: its title, or its library name, numbered from 1 where several models share it."""
    counts = Counter(item.name for item in items)
    seen: Counter[str] = Counter()
    names = []
    for item in items:
        seen[item.name] += 1
        numbered = item.name if counts[item.name] == 1 else f"{item.name} {seen[item.name]}"
        names.append(item.title or numbered)
    return names


def select_models(items: Sequence[Subject], names: dict[str, str] | None) -> dict[int, str]:
    """{model index: learned name} in the order of `names` {library or subject name: learned name}; None selects all.

    Raises:
        ValueError: `names` matches no model.
    """
    if names is None:
        return {i: item.name for i, item in enumerate(items)}
    order = {library_name: place for place, library_name in enumerate(names)}
    selected = []
    for i, (item, subject) in enumerate(zip(items, subject_names(items), strict=True)):
        library_name = subject if subject in names else item.name
        if library_name in names:
            selected.append((order[library_name], i, names[library_name]))
    if not selected:
        raise ValueError(f"none of the {len(names)} wanted names is among the {len(items)} rendered models")
    return {i: name for _, i, name in sorted(selected)}
