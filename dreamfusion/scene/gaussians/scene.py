"""`scene=gaussians`: 3D Gaussians, blended front to back (Kerbl et al. 2023; DreamGaussian, Tang et al. 2024).

Letters: N Gaussians, M the most that there can be.
"""

from collections.abc import Mapping, Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import UserError
from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.ops.splat import MOST, Screen, splat
from dreamfusion.ops.splat.projection import project_gaussians, rotation_matrices
from dreamfusion.ops.splat.voxels import voxelize
from dreamfusion.ranks import summed
from dreamfusion.scene.base import Scene
from dreamfusion.scene.gaussians.growth import Growth, rearrange, split_in_two
from dreamfusion.scene.gaussians.harmonics import DEGREES, bounded, colors_along
from dreamfusion.scene.mesh.start import SEED, seen_colors
from dreamfusion.scene.nerf.grid import GridField
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, FieldOutput, Gaussians, RayBundle, RenderOutput

NEIGHBOURS = 3  # whose mean distance is the first scale (Kerbl et al. 2023)
SOLID, OVERLAP = 0.9, 0.7  # of a start: opacity; scales in distances of neighbours, which close the surface
FINEST = 512  # cells a side of the lattice that thins the points of a start
GRID, STEPS = 128, 96  # lattice points a side and samples a ray of `volume`
EMPTY = 1e-3  # opacity that a pixel without a surface lends to the middle of the scene, for normals


class GaussianScene(Scene):
    """The first `count` rows of the parameters are Gaussians; the others wait, with moments of 0."""

    draws_whole = True
    count: Tensor  # () int64
    pull: Tensor  # (M,) sum of the gradients on the screen since the last change of the number
    views: Tensor  # (M,) number of views in the sum

    def __init__(
        self,
        background: nn.Module,
        radius: float,
        count: int,
        most: int,
        degree: int,
        ball: float,
        opacity: float,
        growth: Growth,
    ) -> None:
        """Begins with `count` grey Gaussians at random places in a ball of radius `ball`.

        `degree` is that of the spherical harmonics: with 1, colours change with the direction.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        if not NEIGHBOURS < count <= most:
            raise ValueError(f"scene.count is {count}, of scene.most={most}; type scene.count=5000 scene.most=20000")
        if not 0 < opacity < 1 or not 0 < ball <= radius:
            raise ValueError(f"scene.opacity is {opacity}, allowed 0 to 1; scene.ball {ball}, allowed 0 to {radius}")
        if degree not in DEGREES:
            raise ValueError(
                f"scene.degree is {degree}, allowed 0 (one colour for all directions) and 1 (colours that change with "
                "the direction); type scene.degree=1"
            )
        self.background, self.radius, self.growth, self.begin = background, radius, growth, count
        self.position, self.color = nn.Parameter(torch.zeros(most, 3)), nn.Parameter(torch.zeros(most, 3))
        self.opacity, self.scale = nn.Parameter(torch.zeros(most)), nn.Parameter(torch.zeros(most, 3))
        self.rotation = nn.Parameter(torch.zeros(most, 4))
        self.directional = nn.Parameter(torch.zeros(most, 3, 3)) if degree else None  # see `bounded`
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("pull", torch.zeros(most))
        self.register_buffer("views", torch.zeros(most))
        self.last_screen: Screen | None = None  # of a training render, for its gradient
        places = normalize(torch.randn(count, 3), dim=-1) * ball * torch.rand(count, 1) ** (1 / 3)
        self._begin(places, torch.full((count, 3), 0.5), opacity, 1.0)

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Gaussians of the other degree or `most`: those of degree 0 are the same from all sides, of degree 1
        the means stay. The statistics begin anew.

        Raises:
            UserError: there are more than `most`.
        """
        own = {} if self.directional is None else {"directional": torch.zeros_like(self.directional)}
        taken = own | {name: value for name, value in state.items() if name in own or name != "directional"}
        if "count" not in state or "position" not in state:  # another kind of scene
            return taken
        count, most = int(state["count"]), len(self.position)
        if count > most:
            raise UserError(f"the scene to start from has {count} Gaussians, and scene.most is {most}; raise it")
        for name, _ in self.named_parameters(recurse=False):
            if name in taken:
                value = taken[name][:most]
                taken[name] = torch.cat([value, value.new_zeros(most - len(value), *value.shape[1:])])
        return taken | {"pull": torch.zeros_like(self.pull), "views": torch.zeros_like(self.views)}

    def start_from(self, mesh: RasterMesh) -> None:
        """Take shape and colours of a mesh in scene units, at even distances on what is seen from outside.

        Raises:
            UserError: no part of it is visible.
        """
        places, colors = seen_colors(mesh, self.radius)
        if len(places) <= NEIGHBOURS:
            raise UserError("the mesh to start from has no visible surface; its faces must have an area")
        self._begin(*thinned(places.float(), colors.float(), self.radius, self.begin), SOLID, OVERLAP)

    @torch.no_grad()
    def _begin(self, places: Tensor, colors: Tensor, opacity: float, overlap: float) -> None:
        """Round Gaussians with a standard deviation of `overlap` times the distance from their neighbours."""
        n = len(places)
        away, _ = cKDTree(places.numpy()).query(places.numpy(), NEIGHBOURS + 1)
        width = torch.from_numpy(overlap * away[:, 1:].mean(1)).float().clamp(min=1e-4)
        self.count.fill_(n)
        self.position[:n] = places.to(self.position)
        self.color[:n] = torch.logit(colors.to(self.color), eps=0.02)
        self.opacity[:n] = torch.logit(torch.tensor(opacity))
        self.scale[:n] = width.log()[:, None].to(self.scale)
        self.rotation[:n] = self.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        if self.directional is not None:
            self.directional[:n] = 0.0

    def gaussians(self) -> Gaussians:
        """The Gaussians, differentiable; those outside of the ball, which the next change of the number removes, have
        opacity 0."""
        n = int(self.count)
        inside = self.position[:n].detach().norm(dim=-1) <= self.radius
        colors = self.color[:n].sigmoid()
        return Gaussians(
            means=self.position[:n],
            scales=self.scale[:n].exp(),
            rotations=self.rotation[:n],
            opacities=self.opacity[:n].sigmoid() * inside,
            colors=colors,
            directional=None if self.directional is None else bounded(self.directional[:n], colors),
        )

    def render(
        self,
        cameras: Cameras,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
        rows: slice = slice(None),
        background: nn.Module | None = None,
    ) -> RenderOutput:
        """See `Scene.render`; the generator draws backgrounds only. Normals are those of the depth."""
        own = self.gaussians()
        screen = project_gaussians(cameras, own.means, own.scales, own.rotations)
        if generator is not None and screen.means.requires_grad:
            screen.means.retain_grad()
            self.last_screen = screen
        offsets = own.means - cameras.camera_to_world[:, None, :, 3]
        features = torch.cat([colors_along(own, offsets), offsets.norm(dim=-1, keepdim=True)], dim=-1)
        sums, opacity = splat(screen, own.opacities, features, cameras.height, cameras.width)
        color, depth, opacity = sums[..., :3], sums[..., 3:], opacity[..., None]
        rays, normal = cast_rays(cameras), None
        if with_normal or shading.needs_normal:
            points, normal = surface(cameras, rays, depth, opacity)
            color = _shaded(cameras, shading, color, opacity, points, normal)
        elif shading.ambient != 1:
            color = color * shading.ambient
        behind = (self.background if background is None else background)(rays.directions, len(cameras), generator)
        behind = behind.view_as(color)

        def image(values: Tensor) -> Tensor:
            return values[:, rows].permute(0, 3, 1, 2)

        return RenderOutput(
            rgb=image(color + (1 - opacity) * behind),
            background=behind.detach()[:, rows].mean((1, 2)),
            opacity=image(opacity),
            depth=image(depth),
            normal=None if normal is None else image(opacity * normal),
        )

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {
            **{name: [parameter] for name, parameter in self._rows().items()},
            "network": list(self.background.parameters()),
        }

    def _rows(self) -> dict[str, nn.Parameter]:
        """The parameters that have a row for each Gaussian."""
        own = {"position": self.position, "color": self.color, "opacity": self.opacity, "scale": self.scale}
        own["rotation"] = self.rotation
        return own if self.directional is None else own | {"directional": self.directional}

    def figures(self, render: RenderOutput) -> Mapping[str, float]:
        return {"gaussians": self._drawn()}

    def _drawn(self) -> int:
        """`count`, known from the last training render: to read it waits for a GPU, the prior's network included."""
        return int(self.count) if self.last_screen is None else self.last_screen.means.shape[1]

    def volume(self) -> NeRF:
        """The density and mean colours of the Gaussians on a lattice, for the extraction of a mesh."""
        own = self.gaussians()
        grid = voxelize(
            own.means, own.scales, own.rotations, own.opacities.clamp(max=MOST), own.colors, self.radius, GRID
        )
        field = GridField(grid.to(self.device), self.radius)
        return NeRF(field, self.background, StratifiedRenderer(self.radius, STEPS))

    @torch.no_grad()
    def after_backward(self, step: int, progress: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Add the gradient on the screen to the statistics; every n steps, double and remove Gaussians."""
        n, screen, self.last_screen = self._drawn(), self.last_screen, None
        if screen is not None and screen.means.grad is not None:
            norm = screen.means.grad.norm(dim=-1)
            known = norm.isfinite().all()  # else a step that a scaler of the loss skips
            seen = torch.stack([norm.where(known, 0.0), ((screen.depths > 0) & known).float()]).sum(1)
            pull, views = summed(seen)  # all ranks double the same Gaussians
            self.pull[:n] += pull
            self.views[:n] += views
        if self.growth.due(step, progress):
            self._grow(n, optimizer)

    def _grow(self, n: int, optimizer: torch.optim.Optimizer | None) -> None:
        kept = (self.opacity[:n].sigmoid() >= self.growth.faint) & (self.position[:n].norm(dim=-1) <= self.radius)
        pull = self.pull[:n] / self.views[:n].clamp(min=1)
        self.pull.zero_()
        self.views.zero_()
        stay, doubled = self.growth.choose(kept, pull, len(self.pull))
        if len(stay) <= NEIGHBOURS:
            return  # the watchdog says that the scene is empty
        rows = torch.cat([stay, doubled])
        place = torch.full((n,), -1, device=rows.device).index_put((stay,), torch.arange(len(stay), device=rows.device))
        first, second = place[doubled], len(stay) + torch.arange(len(doubled), device=rows.device)
        large = self.scale[doubled].amax(1).exp() > self.growth.split
        fresh = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        fresh[second], fresh[first[large]] = True, True
        for parameter in self._rows().values():
            rearrange(parameter, rows, fresh, optimizer)
        self.count.fill_(len(rows))
        split = first[large], second[large]
        split_in_two(self.position.data, self.scale.data, rotation_matrices(self.rotation[: len(rows)]), split)
        # Two copies at one place are as opaque as the one was (Bulò et al. 2024).
        copied = torch.cat([first[~large], second[~large]])
        half = 1 - (1 - self.opacity[copied].sigmoid()).clamp(min=1e-6).sqrt()
        self.opacity.data[copied] = torch.logit(half, eps=1e-6)


def thinned(places: Tensor, colors: Tensor, radius: float, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` of points (P, 3) with colours (P, 3): means of the cells of a lattice."""
    side, few = 4, torch.zeros(0)
    while len(few) < min(count, len(places)) and side < FINEST:
        side = side + 1 + side // 16
        x, y, z = ((places / radius + 1) / 2 * side).floor().long().T
        few, cell = ((x * (side + 1) + y) * (side + 1) + z).unique(return_inverse=True)
    both = torch.cat([places, colors, torch.ones_like(places[:, :1])], dim=1)
    total = torch.zeros(len(few), 7).index_add(0, cell, both)
    mean = (total / total[:, 6:])[torch.randperm(len(few), generator=torch.Generator().manual_seed(SEED))[:count]]
    return mean[:, :3], mean[:, 3:6]


def surface(cameras: Cameras, rays: RayBundle, depth: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Points and unit normals (B, H, W, 3) of the surface that depth and opacity (B, H, W, 1) show."""
    middle = cameras.distance[:, None, None, None]
    mean = (depth + EMPTY * middle) / (opacity + EMPTY)
    shape = (*depth.shape[:3], 3)
    points = rays.origins.view(shape) + mean * rays.directions.view(shape)
    wide = pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    right, down = wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2], wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]
    return points, normalize(torch.linalg.cross(down, right, dim=-1), dim=-1)


def _shaded(
    cameras: Cameras, shading: Shading, color: Tensor, opacity: Tensor, points: Tensor, normal: Tensor
) -> Tensor:
    """Premultiplied colours (B, H, W, 3), shaded by the normals of the pixels."""
    light = cameras.light[:, None, None].expand_as(points).reshape(-1, 3)
    albedo = (color / opacity.clamp(min=1e-6)).reshape(-1, 3)  # an empty pixel is black instead of 0 / 0
    given = FieldOutput(albedo[:, 0], albedo, normal.reshape(-1, 3))
    return shading(given, points.reshape(-1, 3), light).view_as(color) * opacity
