"""Render model libraries from all sides into arrays on disk, the training data of the pocket prior.

Last step of the pocket prior's data: catalog -> assets -> renders. Letters: M models, V views, r pixels on a side.
"""

import json
import logging
import posixpath
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dreamfusion.camera.orbit import FOV, look_from, spherical
from dreamfusion.ops.hardware import cores
from dreamfusion.ops.rasterize import rasterize
from dreamfusion.pocket.data.assets import load_asset
from dreamfusion.pocket.data.catalog import Item, Subject, read_libraries
from dreamfusion.pocket.data.names import select_models, subject_names
from dreamfusion.pocket.data.pool import Failure, map_processes
from dreamfusion.types import Cameras

log = logging.getLogger(__name__)

ELEVATION = (-15.0, 75.0)  # degrees
DISTANCE = (2.7, 3.3)  # radii of the model
TIMEOUT = 60.0  # seconds for one model

_IMAGES = {"albedo": (3,), "normal": (3,), "alpha": ()}
_ANGLES = ("azimuth", "elevation", "distance")
_ITEMS = "items.json"


@dataclass(frozen=True, eq=False)
class RenderSet:
    """V unlit views of M models without background; the arrays are memory-mapped."""

    albedo: np.ndarray  # (M, V, r, r, 3) uint8
    normal: np.ndarray  # (M, V, r, r, 3) uint8, world space, unit normal * 0.5 + 0.5
    alpha: np.ndarray  # (M, V, r, r) uint8
    azimuth: np.ndarray  # (M, V) degrees, 0 = front
    elevation: np.ndarray  # (M, V) degrees above the horizon
    distance: np.ndarray  # (M, V) from the centre of the model, in its radii
    items: tuple[Subject, ...]  # M

    @property
    def views(self) -> int:
        """V, the number of views per model."""
        return int(self.azimuth.shape[1])

    @property
    def resolution(self) -> int:
        """r, pixels a side."""
        return int(self.alpha.shape[2])

    def halved(self) -> Self:
        """The same views with half as many pixels a side, in memory."""
        parts = []
        for model in range(len(self.items)):
            stored = (self.albedo[model], self.alpha[model][..., None], self.normal[model])
            albedo, alpha, normal = (torch.from_numpy(np.asarray(images)).float() / 255 for images in stored)
            albedo, alpha, normal = halved(albedo, alpha, normal * 2 - 1)
            normal = torch.where(alpha > 0, normal * 0.5 + 0.5, 0.0)
            parts.append([_bytes(images.numpy()) for images in (albedo, alpha[..., 0], normal)])
        albedos, alphas, normals = (np.stack(images) for images in zip(*parts, strict=True))
        return replace(self, albedo=albedos, alpha=alphas, normal=normals)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a folder written by `render_libraries`.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is broken or holds other than data, or the arrays differ in the number of models.
        """
        missing = [f for f in (_ITEMS, *(f"{n}.npy" for n in (*_IMAGES, *_ANGLES))) if not (path / f).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{path} is not a render set: {missing[0]} is missing; render the libraries first (mode=pretrain)"
            )
        try:
            entries = json.loads((path / _ITEMS).read_text(encoding="utf-8"))
            items = tuple(Subject(**{**entry, "tags": tuple(entry["tags"])}) for entry in entries)
            arrays = {n: np.load(path / f"{n}.npy", mmap_mode="c", allow_pickle=False) for n in (*_IMAGES, *_ANGLES)}
        except (ValueError, LookupError, TypeError, RecursionError, EOFError) as error:
            raise ValueError(f"{path} is no render set: {error}; remove it to render again") from error
        for name, array in arrays.items():
            if array.shape[0] != len(items):
                raise ValueError(
                    f"{path}/{name}.npy contains {array.shape[0]} models, {_ITEMS} {len(items)}; render again"
                )
        return cls(**arrays, items=items)


def halved(albedo: Tensor, alpha: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, r, r, C) averaged over 2 x 2 pixels, colours and normals weighted by the opacity."""

    def pooled(image: Tensor) -> Tensor:
        return F.avg_pool2d(image.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)

    half = pooled(alpha)
    return pooled(albedo * alpha) / half.clamp(min=1e-3), half, F.normalize(pooled(normal * alpha), dim=3)


def render_libraries(
    paths: Sequence[Path],
    output: Path,
    views: int = 96,
    resolution: int = 64,
    workers: int | None = None,
    seed: int = 0,
    names: dict[str, str] | None = None,
) -> RenderSet:
    """Render models of the libraries into the folder `output`, which is created atomically.

    Those that `names` selects (see `select_models`), by default all, in as many processes as `workers` or the machine's
    cores. The views of a model depend on the seed and the model alone. Models that cannot be rendered are logged and
    skipped.

    Raises:
        FileExistsError: `output` exists.
        OSError: it cannot be written.
        ValueError: a library is broken, a number is not positive, or no model could be rendered.
    """
    workers = cores() if workers is None else workers
    for name, number in {"views": views, "resolution": resolution, "workers": workers}.items():
        if number < 1:
            raise ValueError(f"{name} is {number}, it must be at least 1")
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it or render into another folder")
    items = wanted_items(paths, names)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise OSError(f"cannot write renders to {output}: {error}") from error
    try:
        rendered = _render_into(folder, items, views, resolution, workers, seed)
        if rendered == 0:
            raise ValueError(
                f"none of the {len(items)} models of {', '.join(map(str, paths))} could be rendered; the log says why"
            )
        folder.chmod(0o755)
        folder.rename(output)
    except OSError as error:
        raise OSError(f"cannot write renders to {output}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log.info("rendered %d models, %d views each, into %s; %d skipped", rendered, views, output, len(items) - rendered)
    return RenderSet.load(output)


def wanted_items(paths: Sequence[Path], names: dict[str, str] | None) -> list[Item]:
    """The models of the libraries that `names` selects, with titles; in the order of the libraries.

    Raises:
        ValueError: a library is broken, or has none of `names`.
        OSError: a library cannot be read.
    """
    items = read_libraries(paths)
    items = [replace(item, title=title) for item, title in zip(items, subject_names(items), strict=True)]
    return [items[index] for index in sorted(select_models(items, names))]


def stratified_cameras(views: int, resolution: int, generator: np.random.Generator) -> Cameras:
    """Cameras stratified over `views` equal sectors of azimuth, shuffled so that any subset is representative."""
    azimuth = (generator.permutation(views) + generator.random(views)) * (360.0 / views)
    elevation, distance = generator.uniform(*ELEVATION, views), generator.uniform(*DISTANCE, views)
    return render_cameras(azimuth, elevation, distance, resolution)


def render_cameras(azimuth: np.ndarray, elevation: np.ndarray, distance: np.ndarray, resolution: int) -> Cameras:
    """Cameras with the renders' field of view at (B,) angles in degrees, looking at the origin, lights at the cameras.

    Computed in float64, stored in float32.
    """
    angles = [torch.tensor(values, dtype=torch.float64) for values in (azimuth, elevation, distance)]
    position = spherical(*angles)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand_as(position)
    fov = torch.full((len(position),), FOV)
    cameras = look_from(position, torch.zeros_like(position), up, fov, position, resolution, resolution)
    pose, (a, e, d) = cameras.camera_to_world.float(), (values.float() for values in angles)
    return replace(cameras, camera_to_world=pose, azimuth=a, elevation=e, distance=d, light=position.float())


def _render_into(folder: Path, items: Sequence[Item], views: int, resolution: int, workers: int, seed: int) -> int:
    """Write the arrays and items.json; returns the number of rendered models."""
    shapes = {name: (views, resolution, resolution, *extra) for name, extra in _IMAGES.items()}
    files = {name: _ArrayFile(folder / f"{name}.npy", shape, np.uint8) for name, shape in shapes.items()}
    files |= {name: _ArrayFile(folder / f"{name}.npy", (views,), np.float32) for name in _ANGLES}
    render = partial(_render_model, views=views, resolution=resolution, seed=seed)
    subjects: list[dict[str, object]] = []
    about = [field.name for field in fields(Subject)]
    try:
        for index, result in map_processes(render, items, workers, TIMEOUT):
            if isinstance(result, Failure):
                log.warning(
                    "skipped %s (%s, %s): %s", items[index].name, items[index].model, items[index].source, result.reason
                )
                continue
            for name, array in result.items():
                files[name].append(array)
            subjects.append({name: getattr(items[index], name) for name in about})
            if len(subjects) % 100 == 0:
                log.info("rendered %d of %d models", index + 1, len(items))
    finally:
        for file in files.values():
            file.close()
    lines = ",\n".join(json.dumps(subject, ensure_ascii=False, allow_nan=False) for subject in subjects)
    (folder / _ITEMS).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return len(subjects)


def _render_model(item: Item, views: int, resolution: int, seed: int) -> dict[str, np.ndarray]:
    """One model's row of each array; runs in a worker process."""
    # a seed per model: its views do not depend on the other models of the libraries
    identity = zlib.crc32(f"{item.source}/{posixpath.basename(item.model)}".encode())
    cameras = stratified_cameras(views, resolution, np.random.default_rng([seed, identity]))
    images = rasterize(load_asset(item), cameras)
    covered = images.alpha[..., None] > 0
    return {
        "albedo": _bytes(images.albedo),
        "normal": _bytes(np.where(covered, images.normal * 0.5 + 0.5, 0.0)),
        "alpha": _bytes(images.alpha),
        **{name: getattr(cameras, name).numpy() for name in _ANGLES},
    }


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)


class _ArrayFile:
    """Write a .npy file row by row; the header with the number of rows is rewritten at the end."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._shape, self._dtype, self._rows = row_shape, np.dtype(dtype), 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, row: np.ndarray) -> None:
        if row.shape != self._shape or row.dtype != self._dtype:
            raise ValueError(
                f"a row of {self._file.name} is {row.dtype}{row.shape}, expected {self._dtype}{self._shape}"
            )
        self._file.write(np.ascontiguousarray(row).data)
        self._rows += 1

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy pads the header for a first axis of any length, so it can be rewritten in place
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
