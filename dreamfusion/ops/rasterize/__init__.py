"""Z-buffer rasteriser for triangle meshes on the CPU. Numba, one thread, releases the GIL.

Renders the pocket prior's training views and checks exported meshes. Every pixel is the mean of supersample^2 point
samples. Letters: B views, H W pixels, V F vertices and faces, M materials.
"""

from dataclasses import dataclass

import numpy as np

from dreamfusion.ops.rasterize.kernels import Screen, Surface, shade, visible
from dreamfusion.types import Cameras, Mesh, check_shapes

NEAR = 0.01  # scene units; triangles nearer than this to the camera plane are not drawn


@dataclass(frozen=True, eq=False)
class Material:
    """An unlit surface: a colour, multiplied with a texture if there is one."""

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: np.ndarray | None = None  # (h, w, 4) uint8, first row at the top (v = 1); transparent where alpha < 0.5


@dataclass(frozen=True, eq=False)
class RasterMesh:
    """A triangle mesh with vertex colours, or with materials and texture coordinates."""

    vertices: np.ndarray  # (V, 3) scene units
    faces: np.ndarray  # (F, 3) integers
    normals: np.ndarray | None = None  # (V, 3) unit; None: face normals
    colors: np.ndarray | None = None  # (V, 3) in [0, 1], multiplied with the material
    uv: np.ndarray | None = None  # (V, 2), repeating; (0, 0) is the lower left corner of the texture
    material: np.ndarray | None = None  # (F,) index into materials; None: the first for all faces
    materials: tuple[Material, ...] = (Material(),)

    def __post_init__(self) -> None:
        v, f = len(self.vertices), len(self.faces)
        check_shapes(self, vertices=(v, 3), faces=(f, 3), normals=(v, 3), colors=(v, 3), uv=(v, 2), material=(f,))
        if f and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < v:
            raise ValueError(f"RasterMesh.faces has an index outside of the {v} vertices")
        m = len(self.materials)
        if self.material is not None and f and not 0 <= self.material.min() <= self.material.max() < m:
            raise ValueError(f"RasterMesh.material has an index outside of the {m} materials")


@dataclass(frozen=True, eq=False)
class RasterOutput:
    """B images without background: all values are 0 where alpha is 0."""

    albedo: np.ndarray  # (B, H, W, 3) float32 in [0, 1], mean over the covered samples
    normal: np.ndarray  # (B, H, W, 3) float32, world space, unit, facing the camera
    alpha: np.ndarray  # (B, H, W) float32, covered fraction of the pixel
    depth: np.ndarray  # (B, H, W) float32, mean distance from the camera along the ray


def rasterize(mesh: RasterMesh, cameras: Cameras, supersample: int = 4) -> RasterOutput:
    """Render the mesh from every camera, with two-sided faces.

    Raises:
        ValueError: supersample is not a positive whole number.
    """
    if supersample < 1:
        raise ValueError(f"supersample is {supersample}, it must be at least 1 (samples along each side of a pixel)")
    b, h, w = len(cameras), cameras.height, cameras.width
    surface = pack(mesh)
    poses = cameras.camera_to_world.detach().cpu().numpy().astype(np.float64)
    fov = np.radians(cameras.fov.detach().cpu().numpy().astype(np.float64))
    focal = 0.5 * h * supersample / np.tan(0.5 * fov)  # in samples
    sums = np.zeros((b, h, w, 8), np.float32)
    for view in range(b):
        screen = _project(surface.vertices, poses[view], focal[view], h * supersample, w * supersample)
        nearest, seen = visible(screen, surface, h * supersample, w * supersample)
        sums[view] = shade(screen, nearest, seen, surface, poses[view], focal[view], supersample)
    count, length = sums[..., 7], np.linalg.norm(sums[..., 3:6], axis=-1)
    covered = np.maximum(count, 1)
    return RasterOutput(
        albedo=sums[..., :3] / covered[..., None],
        normal=sums[..., 3:6] / np.maximum(length, 1e-12)[..., None],
        alpha=count / supersample**2,
        depth=sums[..., 6] / covered,
    )


def as_raster(mesh: Mesh) -> RasterMesh:
    """Convert to the rasteriser's mesh; the texture becomes a material."""
    texture = None
    if mesh.texture is not None:
        texture = np.concatenate([mesh.texture, np.full((*mesh.texture.shape[:2], 1), 255, np.uint8)], axis=2)
    return RasterMesh(
        mesh.vertices, mesh.faces, mesh.normals, mesh.colors, mesh.uv, materials=(Material(texture=texture),)
    )


def texel_faces(
    uv: np.ndarray, faces: np.ndarray, size: int, top: int = 0, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Face and barycentric coordinates of samples of a texture, for texture baking.

    Args:
        uv: (V, 2) in [0, 1], (0, 0) is the lower left corner of the texture.
        faces: (F, 3) integers.
        size: samples along a side.
        top, rows: the first row of samples and their number; by default all.

    Returns:
        (rows, size) int64 index of the face, -1 where there is none, first row at the top; and
        (N, 3) barycentric coordinates of the N covered samples, in reading order.
    """
    vertices = np.concatenate([uv, np.zeros((len(uv), 1))], axis=1)
    x, y = uv[:, 0].astype(np.float64) * size, (1.0 - uv[:, 1].astype(np.float64)) * size - top
    height = size - top if rows is None else rows
    _, face = visible(Screen(x, y, np.ones(len(uv))), pack(RasterMesh(vertices, faces)), height, size)
    row, column = np.nonzero(face >= 0)
    corner = faces[face[row, column]]  # (N, 3)
    (x0, x1, x2), (y0, y1, y2) = x[corner].T, y[corner].T
    px, py = column + 0.5, row + 0.5
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)  # not 0: a sample lies in the face
    b0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) / area
    b1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) / area
    return face, np.stack([b0, b1, 1.0 - b0 - b1], axis=1)


def pack(mesh: RasterMesh) -> Surface:
    """The arrays that the compiled loops take."""
    textures = [np.zeros((0, 0, 4), np.uint8) if m.texture is None else m.texture for m in mesh.materials]
    if mesh.uv is None:
        textures = [np.zeros((0, 0, 4), np.uint8) for _ in textures]
    lengths = [t.shape[0] * t.shape[1] for t in textures]
    return Surface(
        vertices=np.ascontiguousarray(mesh.vertices, np.float64),
        faces=np.ascontiguousarray(mesh.faces, np.int64),
        normals=np.zeros((0, 3)) if mesh.normals is None else np.ascontiguousarray(mesh.normals, np.float64),
        colors=np.zeros((0, 3)) if mesh.colors is None else np.ascontiguousarray(mesh.colors, np.float64),
        uv=np.zeros((0, 2)) if mesh.uv is None else np.ascontiguousarray(mesh.uv, np.float64),
        material=np.zeros(len(mesh.faces), np.int64) if mesh.material is None else mesh.material.astype(np.int64),
        base=np.array([m.color for m in mesh.materials], np.float64).reshape(-1, 3),
        texels=np.ascontiguousarray(np.concatenate([t.reshape(-1, 4) for t in textures])),
        start=np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        size=np.array([t.shape[:2] for t in textures], np.int64),
        cutout=np.array([bool((t[..., 3] < 128).any()) for t in textures]),
    )


def _project(vertices: np.ndarray, pose: np.ndarray, focal: float, height: int, width: int) -> Screen:
    local = (vertices - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    inverse_depth = np.where(depth > NEAR, 1 / np.maximum(depth, NEAR), 0.0)
    x = 0.5 * width + focal * local[:, 0] * inverse_depth
    y = 0.5 * height - focal * local[:, 1] * inverse_depth
    return Screen(x, y, inverse_depth)
