"""Remesh a surface with quadrilaterals that follow its shape (Jakob et al. 2015, Instant Meshes); the extra `quads`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dreamfusion.error import UserError
from dreamfusion.mesh.isosurface import vertex_normals
from dreamfusion.types import Mesh

FINER = 4  # quadrilaterals for each vertex that Instant Meshes is given: it divides all its faces at the end
ROUNDS = 2  # of smoothing before


def with_quads(mesh: Mesh, faces: int) -> Mesh:
    """The surface as quadrilaterals, about one for two of `faces` triangles (0: of the mesh's own).

    Not repaired: a few edges may have more than two faces.

    Raises:
        UserError: pynanoinstantmeshes is not installed; the message names the install command.
    """
    try:
        from pynanoinstantmeshes import remesh
    except ImportError as error:
        raise UserError(
            "export.quads=true needs the package pynanoinstantmeshes; type pip install 'dreamfusion[quads]'"
        ) from error
    count = (faces or len(mesh.faces)) // 2 // FINER
    triangles = np.ascontiguousarray(mesh.faces, np.uint32)
    with _without_output():
        vertices, quads = remesh(mesh.vertices, triangles, count, smooth_iter=ROUNDS, deterministic=True)
    return from_quads(np.array(vertices, np.float32), quads.astype(np.int64))


@contextmanager
def _without_output() -> Iterator[None]:
    """Send the standard output of C++ nowhere: Instant Meshes writes 70 lines about its work."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def from_quads(vertices: np.ndarray, quads: np.ndarray) -> Mesh:
    """The mesh of vertices (V, 3) and quadrilaterals (Q, 4), each as two triangles (a, b, c), (a, c, d)."""
    triangles = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return Mesh(vertices, triangles, vertex_normals(vertices, triangles), quads=True)
