"""Begin a new scene from a mesh file, or from the surface of another kind of scene."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.error import UserError
from dreamfusion.export.settings import ExportSettings

if TYPE_CHECKING:
    from dreamfusion.ops.rasterize import RasterMesh

MESHES = (".glb", ".obj")
RESOLUTION = 128  # of the surface of another scene: its details are for the training that follows
PIECE, STANDING_PIECE = 0.01, 1.0  # of that surface, see conf/export/glb.yaml
FILLED = 0.95  # of the scene's radius: farthest vertex of a mesh file


def read_mesh(path: Path, radius: float) -> "RasterMesh":
    """The mesh in a .glb or .obj file, centred and scaled to the scene.

    Raises:
        UserError: it cannot be read, or has no faces or too many.
    """
    from dreamfusion.pocket.data.assets import AssetError, load_asset  # imported here and below: takes a second
    from dreamfusion.pocket.data.catalog import Item

    try:
        mesh = load_asset(Item(path.stem, (), "", "", "", path.name, model=path.as_posix()))
    except AssetError as error:
        raise UserError(f"start={path} cannot be read: {error}; it must be a .glb or .obj file with faces") from error
    return replace(mesh, vertices=mesh.vertices * (FILLED * radius))


def mesh_of(trained: TrainedScene, export: ExportSettings) -> "RasterMesh":
    """The surface of a scene with its colours at the vertices.

    Raises:
        EmptyFieldError: it has none.
    """
    from dreamfusion.mesh.extract import extract_surface
    from dreamfusion.mesh.metrics import as_raster

    # The format of the final file decides nothing here, such as a printed one, which has a single piece.
    plain = replace(export, format="glb", resolution=RESOLUTION, faces=0, texture=0, lit=False, quads=False, levels=())
    plain = replace(plain, min_piece=PIECE, min_standing_piece=STANDING_PIECE)
    return as_raster(extract_surface(trained.scene, trained.camera, plain).mesh)
