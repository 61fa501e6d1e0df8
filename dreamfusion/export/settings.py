"""The settings of conf/export/: which files there are, and what no mesh can have.

Light: a run asks before it trains, and imports what makes the mesh when it comes to that.
"""

from __future__ import annotations

from omegaconf import DictConfig

from dreamfusion.error import UserError, check_positive

FORMATS = ("glb", "obj", "ply", "stl", "usdz")
FINEST = 1024  # cells a side: twice the 512 that were measured take about eight times their memory


def check_export(export: DictConfig) -> None:
    """Raises: UserError: a setting that no mesh can have; asked before the minutes of a training run."""
    if export.format not in FORMATS:
        raise UserError(f"export.format is {export.format}; the formats are {', '.join(FORMATS)}")
    if not 8 <= export.resolution <= FINEST:
        raise UserError(f"export.resolution is {export.resolution}; it is 8 to {FINEST} cells a side")
    if not 0 <= export.min_piece <= 1:
        raise UserError(f"export.min_piece is {export.min_piece}; it is a share of the largest piece, 0 to 1")
    if export.threshold != "auto" and not (isinstance(export.threshold, int | float) and export.threshold > 0):
        raise UserError(f"export.threshold is {export.threshold}; it is auto, or a density above 0")
    if export.texture != 0 and not 16 <= export.texture <= 8192:
        raise UserError(f"export.texture is {export.texture}; it is 0 (colours at the vertices), or 16 to 8192 texels")
    if not 0 <= export.roughness <= 1:
        raise UserError(f"export.roughness is {export.roughness}; it is 0 (mirror) to 1 (chalk)")
    if export.faces < 0 or 0 < export.faces < 100:
        raise UserError(f"export.faces is {export.faces}; it is 0 (all), or at least 100 triangles")
    if export.size is not None and not (isinstance(export.size, int | float) and export.size > 0):
        raise UserError(f"export.size is {export.size}; it is null, or the longest side in metres, such as 0.1")
    if not 0 <= export.blur <= 0.5:
        raise UserError(f"export.blur is {export.blur}; it is 0 (none) to 0.5 scene units")
    if export.smoothing < 0:
        raise UserError(f"export.smoothing is {export.smoothing}; it is a number of rounds, 0 for none")
    if export.up not in ("y", "z"):
        raise UserError(f"export.up is {export.up}; it is y or z")
    if not 0 <= export.color_depth <= 0.5:
        raise UserError(f"export.color_depth is {export.color_depth}; it is 0 (at the surface) to 0.5 scene units")
    check_positive("export", chunk=export.chunk)
