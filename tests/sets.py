"""An analytic render set for tests."""

import json
from pathlib import Path

import numpy as np

from dreamfusion.pocket.data.renders import RenderSet, stratified_cameras

SIZE = 64
NAMES = ("red ball", "striped box", "striped box", "cat")


def write_set(folder: Path, views: int = 24, names: tuple[str, ...] = NAMES, size: int = SIZE) -> Path:
    """Write one model per name: discs and squares of increasing size, all but the first with a dark stripe in front."""
    folder.mkdir(parents=True)
    arrays: dict[str, list[np.ndarray]] = {key: [] for key in ("albedo", "normal", "alpha")}
    angles: dict[str, list[np.ndarray]] = {key: [] for key in ("azimuth", "elevation", "distance")}
    for index in range(len(names)):
        cameras = stratified_cameras(views, size, np.random.default_rng(index))
        for key, values in angles.items():
            values.append(getattr(cameras, key).numpy())
        pictures = [draw(index, float(azimuth), size) for azimuth in angles["azimuth"][-1]]
        for key, column in zip(arrays, zip(*pictures, strict=True), strict=True):
            arrays[key].append(np.stack(column))
    for key, values in (arrays | angles).items():
        np.save(folder / f"{key}.npy", np.stack(values))
    about = {"tags": [], "category": "", "creator": "nobody", "license": "CC0", "source": "formula"}
    (folder / "items.json").write_text(json.dumps([{"name": name, **about} for name in names]))
    return folder


def load_set(folder: Path) -> RenderSet:
    return RenderSet.load(folder)


def draw(index: int, azimuth: float, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Albedo, normal and alpha of one view, uint8."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / (size / 2)
    radius = 0.45 + 0.1 * index
    inside = (x**2 + y**2 < radius**2) if index % 2 == 0 else (np.maximum(abs(x), abs(y)) < radius)
    color = np.array([(0.8, 0.1, 0.1), (0.2, 0.7, 0.3), (0.9, 0.8, 0.2), (0.4, 0.4, 0.8)][index % 4])
    albedo = np.broadcast_to(color, (size, size, 3)).copy()
    if index > 0 and abs((azimuth + 180) % 360 - 180) < 90:
        albedo[(abs(y) < 0.15) & inside] *= 0.3
    a = np.radians(azimuth)
    normal = np.broadcast_to([np.sin(a), 0, np.cos(a)], (size, size, 3)) * 0.5 + 0.5
    parts = (albedo * inside[..., None], normal * inside[..., None], inside.astype(float))
    return tuple(np.rint(part * 255).astype(np.uint8) for part in parts)
