"""Export a trained scene's mesh into its run's folder, and compare it with the renders."""

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.error import UserError
from dreamfusion.export.robot import write_robot
from dreamfusion.export.settings import PRINTED, ROBOT, SPLAT, UNTEXTURED, ExportSettings, mesh_file
from dreamfusion.export.splats import splats_of, write_ply, write_splat
from dreamfusion.export.writer import MILLIMETRES, Finish, write_mesh
from dreamfusion.image import write_image
from dreamfusion.mesh.extract import Surface, extract_surface, longest_side, placed
from dreamfusion.mesh.metrics import MeshMetrics, compare, unlike
from dreamfusion.mesh.printing import PrintFacts, print_facts
from dreamfusion.phases import phase
from dreamfusion.runs.summary import add_to_summary

log = logging.getLogger(__name__)
REFERRED = (".mtl", ".png")  # suffixes of the files that an OBJ refers to


@dataclass(frozen=True, eq=False)
class Exported:
    """A mesh file and its quality."""

    path: Path
    surface: Surface
    metrics: MeshMetrics
    facts: PrintFacts  # in scene units
    scale: float  # units of the file in a scene unit
    unit: str  # of the file
    megabytes: float  # of its files
    size: str  # the sides of the file's bounding box, its unit, and the axis that is up; "100 x 43 x 62 mm, z up"
    seconds: float  # of the export, including the comparison

    @property
    def figures(self) -> dict[str, float]:
        """The figures for the summary and the loggers, by name; lengths in scene units, whatever the file's size."""
        figures = {
            "triangles": len(self.surface.mesh.faces),
            "watertight": int(self.surface.watertight),
            **({} if self.surface.threshold is None else {"threshold": self.surface.threshold}),
            **({} if self.surface.iou is None else {"threshold_iou": self.surface.iou}),
            **{name: value for name, value in asdict(self.facts).items() if value is not None},
            "silhouette_iou": self.metrics.iou,
            "silhouette_iou_worst": self.metrics.worst_iou,
            "missing_pixels": self.metrics.missing,
            "color_difference": self.metrics.color_difference,
            "export_seconds": self.seconds,
            f"{self.path.suffix[1:]}_megabytes": self.megabytes,
        }
        return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}

    @property
    def printing(self) -> dict[str, str]:
        """What decides whether the file can be printed, by name; in the unit of the file."""
        volume, wall, overhang = self.facts.volume, self.facts.thinnest_wall, self.facts.overhang
        cubic, cubes = ("cm3", 1e-3) if self.unit == "mm" else (f"{self.unit}3", 1.0)
        found = {"surface": "watertight" if self.surface.watertight else "not watertight"}
        if volume is not None:
            found["volume"] = f"{volume * self.scale**3 * cubes:.3g} {cubic}"
        if wall is not None:
            found["thinnest wall"] = f"{wall * self.scale:.2g} {self.unit}"
        return found | {"overhang": f"{overhang:.0%}"}


def export_scene(scene: TrainedScene, export: ExportSettings) -> Exported:
    """Extract and write the mesh, and a comparison of mesh and scene (mesh_check.png), into the run's folder.

    A format without textures gets none, whatever `export.texture` is: vertex colours if it has colours.

    Raises:
        EmptyFieldError: the scene is empty.
        UserError: export=splat for a scene without Gaussians; export=urdf for an open surface, or without coacd.
    """
    started = time.monotonic()
    if export.texture and export.format in UNTEXTURED:
        unused = f"export.texture={export.texture} is not used"
        log.info("export=%s has no texture, and %s: %s", export.format, UNTEXTURED[export.format], unused)
        export = replace(export, texture=0)
    head = {"prompt": str(scene.config.prompt), "seed": str(scene.config.seed), "steps": str(scene.step)}
    if export.format == SPLAT:  # first: they need no surface
        splats = splats_of(scene.scene)
        write_ply(splats, scene.run / "splats.ply", head)
        write_splat(splats, scene.run / "splats.splat")
    surface = extract_surface(scene.scene, scene.camera, export)  # logs its phases
    if export.format == ROBOT and not surface.watertight:
        raise UserError("export=urdf needs a closed surface for the mass, and this one is open; type export.faces=0")
    with phase("check"):
        metrics = compare(scene.scene, scene.camera, surface.mesh)
        facts = print_facts(surface.mesh, surface.watertight)
    path = scene.run / mesh_file(export.format)
    metadata = {
        **head,
        "threshold": "" if surface.threshold is None else f"{surface.threshold:.4g}",
        "threshold_iou": "" if surface.iou is None else f"{surface.iou:.4f}",
        "silhouette_iou": f"{metrics.iou:.4f}",
        "color_difference": f"{metrics.color_difference:.4f}",
        "watertight": str(surface.watertight).lower(),
    }
    finish = Finish(export.roughness, export.double_sided, unlit=export.lit)
    mesh = placed(surface.mesh, export.size, export.up)
    metres = longest_side(mesh) / longest_side(surface.mesh)
    metadata |= {"up": str(export.up), "metres_per_unit": f"{metres:.6g}"}
    written = write_mesh(mesh, path, metadata, finish)
    if export.format == ROBOT:
        with phase("parts"):
            files, mass = write_robot(mesh, written, metadata, export.density, export.concavity, export.lit)
        log.info("%s: convex parts: %d, %.3g kg", files[-2], len(files) - 2, mass)
    megabytes = sum(file.stat().st_size for file in written) / 1e6
    coarser: list[Path] = []
    for number, level in enumerate(surface.levels, 1):
        same_scale = placed(level, metres * longest_side(level), export.up)
        coarser += write_mesh(same_scale, path.with_stem(f"{path.stem}.lod{number}"), metadata, finish)
    own = (path.suffix, *(REFERRED if path.suffix == ".obj" else ()))
    for old in set(scene.run.glob(f"{path.stem}.lod*")) - set(coarser):  # of an export in this format with other levels
        if old.suffix in own:
            old.unlink()
    write_image(metrics.sheet, scene.run / "mesh_check.png")
    unit, factor = ("mm", MILLIMETRES) if export.format in PRINTED else ("m", 1.0)
    sides = " x ".join(f"{side:.3g}" for side in np.ptp(mesh.vertices, axis=0) * factor)
    exported = Exported(
        path,
        surface,
        metrics,
        facts,
        scale=metres * factor,
        unit=unit,
        megabytes=megabytes,
        size=f"{sides} {unit}, {export.up} up",
        seconds=time.monotonic() - started,
    )
    add_to_summary(scene.run, exported.figures)
    return exported


def warn_if_unlike(exported: Exported) -> None:
    """Log a warning if the mesh is not what the renders show."""
    if sentence := unlike(exported.figures):
        log.warning(
            "%s: see %s; a translucent scene has no clear surface: train longer, or type export.blur=0.01 or "
            "export.threshold=NUMBER",
            sentence,
            exported.path.with_name("mesh_check.png"),
        )


def describe(exported: Exported) -> list[str]:
    """The mesh's size, quality and export time, one phrase each."""
    surface, metrics, printing = exported.surface, exported.metrics, dict(exported.printing)
    lines = [
        f"{len(surface.mesh.faces)} triangles, {printing.pop('surface')}",
        exported.size,
        *(f"level {number} {len(level.faces)} triangles" for number, level in enumerate(surface.levels, 1)),
        ", ".join(f"{name} {value}" for name, value in printing.items()),
        f"silhouette IoU {metrics.iou:.3f} with the renders, colours differ by {metrics.color_difference:.3f}",
        f"{exported.seconds:.0f} s",
    ]
    if surface.iou is not None:
        lines.insert(
            -2, f"surface at density {surface.threshold:.3g} (silhouette IoU {surface.iou:.3f} by density alone)"
        )
    return lines
