"""Folders of options on the command line: Hydra takes one `--config-dir`, here several, and sweeps/ for `-cn`.

Imports neither torch nor numpy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from dreamfusion.cli.spelling import OWN as OWN_OPTIONS
from dreamfusion.cli.spelling import studies
from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION, SWEEPS

FOLDER, NAME = ("-cd", "--config-dir"), ("-cn", "--config-name")
OWN = "command-line"  # Hydra's name for what `--config-dir` names


class Folders(SearchPathPlugin):
    """Adds `further` folders to Hydra's search path, each with its provider."""

    further: ClassVar[list[tuple[str, Path]]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for provider, folder in self.further:
            search_path.append(provider, f"file://{folder.absolute()}")


def with_folders(arguments: Sequence[str]) -> list[str]:
    """The arguments with the package's sweeps/ for `-cd sweeps` where the working directory has no such folder.

    Hydra finds the last `--config-dir`; the ones before it are added to its search path, and with `-cn` of a study in
    sweeps/ that folder, too, unless one of them has a file of that name.

    Raises:
        UserError: there is no such folder.
    """
    found, name = list(arguments), ""
    folders: list[Path] = []
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not equals and option in (*FOLDER, *NAME) and place + 1 < len(arguments):
            value = arguments[place + 1]
        if not value:
            continue
        if option in NAME:
            name = value.removesuffix(".yaml")
        elif option in FOLDER:
            folder = _folder(option, value)
            folders.append(folder)
            found[place if equals else place + 1] = f"{option}={folder}" if equals else str(folder)
    check_names(folders[-1:])
    OWN_OPTIONS[:] = [folder for folder in folders if folder.resolve() != SWEEPS.resolve()]
    with_search_path([folder for folder in folders[:-1] if folder != folders[-1]])
    if name in studies() and not any((folder / f"{name}.yaml").is_file() for folder in folders):
        Folders.further.append(("sweeps", SWEEPS))
    return found


def with_search_path(folders: Sequence[Path]) -> None:
    """Let Hydra find options in these folders, too."""
    check_names(folders)
    Folders.further = [(OWN, folder) for folder in dict.fromkeys(folders)]
    Plugins.instance().register(Folders)


def check_names(folders: Sequence[Path]) -> None:
    """Raises: UserError: an option in a folder has the name of one of the package, which Hydra would find instead."""
    ours = [path.relative_to(CONFIGURATION) for path in CONFIGURATION.rglob("*.yaml")] if folders else []
    for folder in folders:
        for name in ours:
            if (folder / name).is_file() and (folder / name).read_bytes() != (CONFIGURATION / name).read_bytes():
                raise UserError(
                    f"{folder / name} would not be used: the package has an option of this name; give the file another"
                )


def _folder(option: str, value: str) -> Path:
    """Raises: UserError: there is no such folder."""
    if value.rstrip("/") == "sweeps" and not Path("sweeps").is_dir():
        return SWEEPS
    if not Path(value).is_dir():
        raise UserError(f"there is no folder {value}; type {option} sweeps, or the path of a folder")
    return Path(value)
