"""Describe a mesh as a body for robot simulators: URDF and MJCF, with convex parts, mass and inertia.

Convex parts are those of CoACD (Wei et al. 2022), the extra `urdf`; one convex hull needs no package.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import trimesh

from dreamfusion.error import UserError
from dreamfusion.export.comments import xml_comment
from dreamfusion.files import replacing
from dreamfusion.types import Mesh

BODY = "mesh.urdf"  # beside it: mesh.xml, and mesh.part00.stl and so on
HULL = 1.0  # concavity of any solid is below; so is that of its convex hull
Decompose = Callable[[trimesh.Trimesh, float], list[trimesh.Trimesh]]


def convex_parts(solid: trimesh.Trimesh, concavity: float) -> list[trimesh.Trimesh]:
    """Convex solids that cover the solid; CoACD's measure of how far they go beyond it is at most `concavity`.

    Raises:
        UserError: coacd is not installed; the message names the install command.
    """
    if concavity >= HULL:
        return [solid.convex_hull]
    try:
        import coacd
    except ImportError as error:
        raise UserError(
            "export=urdf needs the package coacd; type pip install 'dreamfusion[urdf]', or export.concavity=1 for one "
            "convex hull"
        ) from error
    coacd.set_log_level("error")
    parts = coacd.run_coacd(coacd.Mesh(solid.vertices, solid.faces), threshold=concavity, seed=0)
    return [trimesh.Trimesh(*part).convex_hull for part in parts]


def write_robot(
    mesh: Mesh,
    visual: Sequence[Path],
    metadata: Mapping[str, str],
    density: float,
    concavity: float,
    unlit: bool = False,
    decompose: Decompose = convex_parts,
) -> tuple[list[Path], float]:
    """Write mesh.urdf and mesh.xml (MJCF) beside the visual mesh, with the parts that collide as .stl files.

    Args:
        mesh: closed, in metres.
        visual: the files of the visual mesh, an .obj first, with its .png if it has a texture.
        metadata: texts by name, for a comment.
        density: kg/m^3; mass and inertia are those of the closed mesh filled with it.
        concavity: see `convex_parts`.
        unlit: the colours include the light: in MuJoCo they shine.

    Returns:
        The files written, and the mass in kg.

    Raises:
        UserError: see `convex_parts`.
    """
    places, place = np.unique(mesh.vertices.astype(np.float64), axis=0, return_inverse=True)
    solid = trimesh.Trimesh(places, place.reshape(-1)[mesh.faces], process=False)
    solid.density = density
    parts, base = decompose(solid, concavity), visual[0].with_name(BODY)
    files = {base.with_suffix(f".part{number:02d}.stl"): part for number, part in enumerate(parts)}
    contents = {path: bytes(part.export(file_type="stl")) for path, part in files.items()}
    names = [path.name for path in files]
    picture = next((path.name for path in visual if path.suffix == ".png"), None)
    head = f'<?xml version="1.0" encoding="utf-8"?>\n{xml_comment(metadata)}\n'
    contents[base.with_suffix(".urdf")] = (head + _urdf(solid, visual[0].name, names)).encode()
    contents[base.with_suffix(".xml")] = (head + _mjcf(solid, visual[0].name, picture, names, unlit)).encode()
    for old in set(base.parent.glob(f"{base.stem}.part*.stl")) - contents.keys():  # of an export with more parts
        old.unlink()
    for path, content in contents.items():
        with replacing(path) as draft:
            draft.write_bytes(content)
    return list(contents), float(solid.mass)


def _urdf(solid: trimesh.Trimesh, visual: str, parts: Sequence[str]) -> str:
    """One link; its frame is that of the mesh."""
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = solid.moment_inertia
    collisions = "".join(f"    <collision><geometry>{_mesh(part)}</geometry></collision>\n" for part in parts)
    return (
        '<robot name="dreamfusion">\n  <link name="dreamfusion">\n'
        f'    <inertial>\n      <origin xyz="{_numbers(solid.center_mass)}"/>\n      <mass value="{solid.mass:.9g}"/>\n'
        f'      <inertia ixx="{xx:.9g}" ixy="{xy:.9g}" ixz="{xz:.9g}" iyy="{yy:.9g}" iyz="{yz:.9g}" izz="{zz:.9g}"/>\n'
        f"    </inertial>\n    <visual><geometry>{_mesh(visual)}</geometry></visual>\n{collisions}  </link>\n</robot>\n"
    )


def _mjcf(solid: trimesh.Trimesh, visual: str, picture: str | None, parts: Sequence[str], unlit: bool) -> str:
    """One free body; the visual mesh is in group 2 and collides with nothing, the parts are in group 3."""
    i = solid.moment_inertia
    tensor = _numbers([i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2]])
    look = f'    <texture name="look" type="2d" file={quoteattr(picture or "")}/>\n' if picture else ""
    shine = ' emission="1"' if unlit else ""
    assets = "".join(f'    <mesh name="part{n}" file={quoteattr(part)}/>\n' for n, part in enumerate(parts))
    geoms = "".join(f'      <geom type="mesh" mesh="part{n}" group="3"/>\n' for n in range(len(parts)))
    return (
        '<mujoco model="dreamfusion">\n  <asset>\n'
        f'{look}    <material name="look"{" texture=" + quoteattr("look") if picture else ""}{shine}/>\n'
        f'    <mesh name="visual" file={quoteattr(visual)}/>\n{assets}  </asset>\n'
        '  <worldbody>\n    <body name="dreamfusion">\n      <freejoint/>\n'
        f'      <inertial pos="{_numbers(solid.center_mass)}" mass="{solid.mass:.9g}" fullinertia="{tensor}"/>\n'
        f'      <geom type="mesh" mesh="visual" material="look" contype="0" conaffinity="0" group="2"/>\n{geoms}'
        "    </body>\n  </worldbody>\n</mujoco>\n"
    )


def _mesh(name: str) -> str:
    return f"<mesh filename={quoteattr(name)}/>"


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
