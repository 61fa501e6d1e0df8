import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.mesh.simplify import is_watertight, repair
from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.ops.rasterize.solid import solid
from dreamfusion.scene.mesh.dual_grid import dual_surface, lattice_gradient
from dreamfusion.scene.mesh.start import signed_distance

N = 24


def lattice(function):
    places = torch.stack(torch.meshgrid(*[torch.arange(N + 1.0)] * 3, indexing="ij"), dim=-1) - N / 2
    return function(places)


def sphere(radius):
    return lattice(lambda p: p.norm(dim=-1) - radius)


def flat():
    return torch.zeros(N, N, N, 3)


def raster(mesh):
    return RasterMesh(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def test_the_surface_of_a_sphere_is_closed_faces_outwards_and_lies_on_it():
    vertices, faces, _ = dual_surface(sphere(8.0), flat())
    centred = (vertices - N / 2).numpy()
    assert is_watertight(vertices.numpy(), faces.numpy())
    assert np.abs(np.linalg.norm(centred, axis=1) - 8).max() < 0.15
    found = trimesh.Trimesh(centred, faces.numpy(), process=False)
    assert found.volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.02)
    # One vertex a cell: a quarter of the 4 faces a cell of marching tetrahedra.
    assert len(faces) == pytest.approx(2 * len(vertices), abs=8)


def test_vertices_move_with_the_distances_and_the_offsets():
    distance, offset = sphere(8.0).requires_grad_(), flat().requires_grad_()
    vertices, _, cells = dual_surface(distance, offset)
    radial = torch.nn.functional.normalize(vertices.detach() - N / 2, dim=-1)
    along = (vertices * radial).sum()
    to_distance, to_offset = torch.autograd.grad(along, (distance, offset))
    # Distances larger by one: the sphere is smaller by one.
    assert float(to_distance.sum()) == pytest.approx(-len(vertices), rel=0.05)
    torch.testing.assert_close(to_offset.view(-1, 3)[cells], radial / 2)
    assert int((to_offset != 0).any(-1).sum()) == len(cells)


def test_a_distance_has_a_gradient_of_length_one():
    distance = sphere(8.0)
    _, _, cells = dual_surface(distance, flat())
    torch.testing.assert_close(lattice_gradient(distance, cells).norm(dim=1), torch.ones(len(cells)), atol=0.02, rtol=0)
    slope = lattice_gradient(lattice(lambda p: p @ torch.tensor([0.5, 0.0, -0.25])), cells)
    torch.testing.assert_close(slope, torch.tensor([0.5, 0.0, -0.25]).expand_as(slope))


def test_sheets_that_share_a_vertex_are_separated_for_the_export():
    distance = torch.minimum(sphere(3.0) + 0, lattice(lambda p: (p - torch.tensor([4.0, 4.0, 0])).norm(dim=-1) - 2.6))
    vertices, faces, _ = dual_surface(distance, flat())
    assert is_watertight(*repair(vertices.numpy(), faces.numpy()))


def test_nothing_inside_has_no_surface():
    vertices, faces, cells = dual_surface(torch.ones(N + 1, N + 1, N + 1), flat())
    assert vertices.shape == (0, 3) and faces.shape == (0, 3) and len(cells) == 0


SOLIDS = {
    "ball": trimesh.creation.icosphere(4, 0.7),
    "box on the lattice": trimesh.creation.box((1.0, 1.0, 1.0)),
    "turned box": trimesh.creation.box((0.9, 0.6, 1.1), trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])),
    "torus": trimesh.creation.torus(0.6, 0.25),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_distances_from_a_mesh_give_its_surface_back(name):
    mesh = SOLIDS[name]
    distance = signed_distance(raster(mesh), 1.0, N)
    vertices, faces, _ = dual_surface(distance, flat())
    found = trimesh.Trimesh(vertices.numpy() / N * 2 - 1, faces.numpy(), process=False)
    assert is_watertight(*repair(found.vertices, found.faces))
    assert found.volume == pytest.approx(mesh.volume, rel=0.06)
    x, y, z = found.vertices.T
    away = {"ball": np.hypot(np.hypot(x, y), z) - 0.7, "torus": np.hypot(np.hypot(x, y) - 0.6, z) - 0.25}
    if name in away:  # corners of boxes are cut
        assert np.abs(away[name]).max() < 0.25 * 2 / N


def test_distances_of_planes_are_right_next_to_them():
    mesh = trimesh.creation.box((3.0, 1.0, 3.0), trimesh.transformations.rotation_matrix(0.4, [0, 0, 1]))
    distance = signed_distance(raster(mesh), 1.0, N).numpy()[N // 2 - 3 : N // 2 + 3, :, N // 2]
    line = np.linspace(-1, 1, N + 1)
    x, y = line[N // 2 - 3 : N // 2 + 3, None], line[None]
    wanted = (np.abs(-np.sin(0.4) * x + np.cos(0.4) * y) - 0.5) * N / 2
    near = np.abs(wanted) < 0.9
    np.testing.assert_allclose(distance[near], wanted[near], atol=0.09)  # cells; exact where all axes cross


def bad(name):
    ball = trimesh.creation.icosphere(3, 0.7)
    match name:
        case "inside out":
            ball.invert()
        case "open":
            ball.update_faces(ball.triangles_center[:, 1] > -0.5)
        case "overlapping":
            other = trimesh.creation.icosphere(3, 0.4)
            other.apply_translation([0.5, 0, 0])
            ball = trimesh.util.concatenate([ball, other])
    return ball


@pytest.mark.parametrize("name", ["inside out", "open", "overlapping"])
def test_a_broken_mesh_has_the_inside_that_one_sees(name):
    inside, _ = solid((np.asarray(bad(name).triangles) + 1) * N / 2, N)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, N + 1)] * 3, indexing="ij"), axis=-1)
    core = np.linalg.norm(places, axis=-1) < 0.6
    assert inside[core & (places[..., 1] > -0.45)].all()
    assert not inside[
        (np.linalg.norm(places, axis=-1) > 0.72) & (np.linalg.norm(places - [0.5, 0, 0], axis=-1) > 0.42)
    ].any()
