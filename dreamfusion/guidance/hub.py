"""Locate published weights in diffusers' folder layout.

Weights are always loaded from a local folder. A hub id is first resolved to one (by download or from the cache), so a
missing model fails at once with one error, not after minutes of retries during loading. Pickled files are not read.
"""

import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath

from dreamfusion.error import GuidanceError

TIMEOUT = 5.0  # seconds, to test whether the hub is reachable
LONGEST = 400  # characters of a hub's reason
SMALL = (".json", ".txt", ".model")  # configurations and tokenizers


def find_model(
    candidates: Sequence[str],
    revision: str | None,
    parts: Sequence[str],
    half: bool,
    setting: str = "guidance.model",
    check: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Folder of the first available candidate.

    Args:
        candidates: folders or hub ids, in order of preference.
        revision: branch, tag or commit on the hub; None is its main branch.
        parts: required sub-folders; the first one must have weights. "." is the folder itself.
        half: prefer the hub's float16 files, which are half the size.
        setting: that names the model, for the message.
        check: raises GuidanceError if the configurations in a folder do not suit; called before weights are downloaded.

    Raises:
        GuidanceError: none is available; the message lists each candidate with the reason.
    """
    from httpx import HTTPError

    reasons = []
    for candidate in candidates:
        try:
            folder = _local_folder(candidate) or _hub_folder(candidate, revision, parts, half, check)
        except (OSError, ValueError, HTTPError) as error:  # a malformed id is a ValueError
            reasons.append(f"{candidate}: {_reason(error, candidate)}")
            continue
        missing = [part for part in parts if not (folder / part).is_dir()]
        if not missing and _has_weights(folder / parts[0]):
            check(folder)
            return folder
        reasons.append(f"{candidate}: {folder} has no {', '.join(missing) or _no_weights(folder / parts[0], parts[0])}")
    raise GuidanceError(
        f"no weights for {setting}; tried\n"
        + "".join(f"  {reason}\n" for reason in reasons)
        + f"Give {_layout(parts)} with {setting}=/path/to/folder, or another hub id with {setting}=owner/name; "
        "guidance=pocket needs no download."
    )


def find_file(name: str, setting: str) -> Path:
    """A local file, or `owner/name/file` on the hub or in its cache.

    Raises:
        GuidanceError: there is none; the message names the setting.
    """
    from httpx import HTTPError
    from huggingface_hub import hf_hub_download

    path = Path(name).expanduser()
    if path.is_file():
        return path
    owner, *rest = name.split("/", 2)
    repository = f"{owner}/{rest[0]}" if rest else ""
    try:
        if not owner or len(rest) != 2:
            raise FileNotFoundError("no such file")
        return Path(hf_hub_download(repository, rest[1], local_files_only=not hub_answers()))
    except (OSError, ValueError, HTTPError) as error:
        raise GuidanceError(
            f"{setting}={name}: {_reason(error, repository)}; type the path of a file, or owner/name/file on the hub"
        ) from error


@cache
def hub_answers() -> bool:
    """Whether the hub is reachable, tested once a process; huggingface_hub would retry for minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # an HTTP error is an answer
    except OSError:
        return False
    return True


def _local_folder(candidate: str) -> Path | None:
    """Path of a candidate that is a folder; None for a hub id."""
    folder = Path(candidate).expanduser()
    if folder.is_dir():
        return folder
    if candidate.startswith(("/", "~", ".")) or candidate.count("/") > 1:
        raise FileNotFoundError("no such folder")
    return None


def _hub_folder(
    model: str, revision: str | None, parts: Sequence[str], half: bool, check: Callable[[Path], None]
) -> Path:
    """Download the parts of a hub model, or use its cached copy if the hub does not answer."""
    from huggingface_hub import HfApi, snapshot_download

    fetch = partial(snapshot_download, model, revision=revision)
    if not hub_answers():
        try:
            return Path(fetch(allow_patterns=f"{parts[0]}/*.json", local_files_only=True))
        except FileNotFoundError as error:
            raise FileNotFoundError("not in the cache, and the hub does not answer (or HF_HUB_OFFLINE=1)") from error
    names = HfApi().list_repo_files(model, revision=revision)
    files = {part: [name for name in names if str(PurePosixPath(name).parent) == part] for part in parts}
    folder = Path(fetch(allow_patterns=[name for part in parts for name in files[part] if name.endswith(SMALL)]))
    if all(files.values()):
        check(folder)
        fetch(allow_patterns=[name for part in parts for name in weight_files(files[part], half)])
    return folder


def weight_files(names: Sequence[str], half: bool) -> list[str]:
    """The weights among the files of a part: in float16 if `half`, else in full precision, or whichever exist."""
    weights = [name for name in names if name.endswith(".safetensors") and "non_ema" not in name]
    fp16 = [name for name in weights if ".fp16" in name]
    full = [name for name in weights if ".fp16" not in name]
    return fp16 or full if half else full or fp16


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _no_weights(folder: Path, part: str) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        return f"weights in {part} but pickled ones, which may hold code and are not read; save it as safetensors"
    return f"weights in {part}"


def _reason(error: Exception, model: str) -> str:
    """A hub's reason in one line, with what to do about a missing permission."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    reason = " ".join(str(error).split())[:LONGEST] or type(error).__name__
    if isinstance(error, GatedRepoError):
        return f"accept the licence on {constants.ENDPOINT}/{model}, then type hf auth login ({reason})"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository, or it is private: type hf auth login ({reason})"
    return reason


def _layout(parts: Sequence[str]) -> str:
    folders = ", ".join(f"{part}/" for part in parts)
    return "a folder with the model's files" if tuple(parts) == (".",) else f"a folder in diffusers' layout ({folders})"
