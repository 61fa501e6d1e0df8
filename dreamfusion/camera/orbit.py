"""Stage 4: random cameras and lights around the object (Poole et al. 2022, sec. 3.2 step 1 and App. A.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.error import UserError
from dreamfusion.schedule import ScheduleLike, check_least, schedule
from dreamfusion.types import Cameras

Range = Sequence[float]  # [low, high]

FOV = 40.0  # degrees, vertical: of the pocket prior's training renders; `focal` is 1.374


@dataclass(frozen=True)
class Orbit:
    """Distribution of cameras that look at the origin, and of point lights near the camera."""

    elevation: Range  # degrees
    distance: Range  # scene units; see relative_distance
    relative_distance: bool  # distance in units of 1 / tan(half the field of view), so that objects look equally large
    focal: Range  # focal length over image height; 1.374 is a vertical field of view of 40 degrees
    uniform_area: float  # fraction drawn uniformly in area on the sphere, the rest uniformly in angle
    position_jitter: float  # camera position + U(-j, j)^3, scene units
    look_at_std: float  # look-at point ~ N(0, std^2), scene units
    up_std: float  # up vector + N(0, std^2)
    light_distance: Range  # of the point light from the origin, scene units
    views: int  # cameras a step
    group: int  # consecutive cameras that differ in azimuth only, by 360 / group degrees; 1: all are independent
    size: ScheduleLike  # pixels a side; a number, or a schedule over the run's progress

    def __post_init__(self) -> None:
        for name in ("elevation", "distance", "focal", "light_distance"):
            given = getattr(self, name)
            bounds = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
            numbers = all(isinstance(bound, int | float) for bound in bounds)
            if not numbers or len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"camera.{name} is {bounds}; expected [low, high], low not above high")
        if not 0 <= self.uniform_area <= 1:
            raise ValueError(f"camera.uniform_area is {self.uniform_area}, expected a fraction in [0, 1]")
        if self.elevation[0] < -90 or self.elevation[1] > 90:
            raise ValueError(f"camera.elevation is {list(self.elevation)}; allowed are -90 to 90 degrees")
        for name in ("distance", "focal", "light_distance"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"camera.{name} is {list(getattr(self, name))}; both ends must be above 0")
        for name in ("position_jitter", "look_at_std", "up_std"):
            check_least(f"camera.{name}", getattr(self, name), 0, 0.0)
        if self.views < 1:
            raise ValueError(f"camera.views is {self.views}; a step needs at least 1 camera")
        if self.group < 1 or self.views % self.group:
            raise ValueError(
                f"camera.views is {self.views}, not a multiple of camera.group, {self.group}; "
                f"type camera.views={max(self.group, 1)} or camera.group=1"
            )
        if schedule(self.size).lowest < 1:
            raise ValueError(f"camera.size is {self.size}; a view needs at least 1 pixel a side: type camera.size=64")

    def sample(self, progress: float, generator: torch.Generator) -> Cameras:
        """Draw the cameras of one step, azimuths stratified over the circle, with one light each.

        The cameras of a group share every other draw, light and jitter included.
        """
        groups, size = self.views // self.group, round(schedule(self.size)(progress))

        def each(drawn: Tensor) -> Tensor:
            return drawn.repeat_interleave(self.group, dim=0)

        def uniform(bounds: Range) -> Tensor:
            return each(bounds[0] + (bounds[1] - bounds[0]) * torch.rand(groups, generator=generator))

        azimuth = (torch.arange(groups) + torch.rand(groups, generator=generator)) * (360 / self.views)
        azimuth = each(azimuth) + (torch.arange(self.views) % self.group) * (360 / self.group)
        azimuth = (azimuth + 360 * torch.rand(1, generator=generator)) % 360
        low, high = (math.sin(math.radians(e)) for e in self.elevation)
        by_area = torch.rad2deg(torch.asin(uniform((low, high)).clamp(-1, 1)))
        elevation = torch.where(
            each(torch.rand(groups, generator=generator)) < self.uniform_area, by_area, uniform(self.elevation)
        )
        jitter = (2 * each(torch.rand(groups, 3, generator=generator)) - 1) * self.position_jitter
        distance = uniform(self.distance)
        look_at = each(torch.randn(groups, 3, generator=generator)) * self.look_at_std
        up = torch.tensor([0.0, 1.0, 0.0]) + each(torch.randn(groups, 3, generator=generator)) * self.up_std
        scatter = each(torch.randn(groups, 3, generator=generator))
        light_distance, focal = uniform(self.light_distance), uniform(self.focal)
        position = spherical(azimuth, elevation, self._scaled(distance, focal)) + jitter
        light = torch.nn.functional.normalize(position + scatter, dim=-1) * light_distance[:, None]
        return look_from(position, look_at, up, focal_to_fov(focal), light, size, size)

    def view(self, azimuth: Tensor, elevation: float | Tensor, height: int, width: int) -> Cameras:
        """Cameras at given azimuths (B,) and elevations (one, or (B,)), in degrees: for previews and turntables.

        Distance and focal length are the middle of their ranges. The light is above the camera's right shoulder, at the
        same relative position for each.
        """
        focal = torch.full_like(azimuth, sum(self.focal) / 2)
        middle = self._scaled(torch.full_like(azimuth, sum(self.distance) / 2), focal)
        above = torch.as_tensor(elevation, dtype=azimuth.dtype).expand_as(azimuth)
        position = spherical(azimuth, above, middle)
        light = spherical(azimuth + 30, (above + 35).clamp(max=89), middle)
        up = torch.tensor([0.0, 1.0, 0.0]).expand(len(azimuth), 3)
        return look_from(position, torch.zeros_like(position), up, focal_to_fov(focal), light, height, width)

    def _scaled(self, distance: Tensor, focal: Tensor) -> Tensor:
        """Distances in scene units; 1 / tan(fov / 2) is twice the focal length."""
        return distance * 2 * focal if self.relative_distance else distance


def around(views: int, group: int) -> Tensor:
    """Azimuths (views,) evenly around the object, in groups whose members are 360 / group degrees apart.

    Raises:
        UserError: `views` is not a multiple of `group`.
    """
    if views % group:
        raise UserError(f"{views} views around the object are not a multiple of {group}, which the prior couples")
    return torch.arange(views).view(group, -1).T.flatten() * (360 / views)


def look_from(
    position: Tensor, look_at: Tensor, up: Tensor, fov: Tensor, light: Tensor, height: int, width: int
) -> Cameras:
    """Cameras at `position` (B, 3) that look at `look_at` (B, 3); angles are computed from the position."""
    back = torch.nn.functional.normalize(position - look_at, dim=-1)
    # Seen from straight above, up and back are parallel: use -z (away from the front) as up.
    parallel = torch.linalg.vector_norm(torch.linalg.cross(up, back, dim=-1), dim=-1, keepdim=True) < 1e-4
    up = torch.where(parallel, torch.tensor([0.0, 0.0, -1.0]).expand_as(up), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back, dim=-1), dim=-1)
    true_up = torch.linalg.cross(back, right, dim=-1)
    distance = torch.linalg.vector_norm(position, dim=-1)
    return Cameras(
        camera_to_world=torch.stack([right, true_up, back, position], dim=-1),
        fov=fov,
        azimuth=torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) % 360,
        elevation=torch.rad2deg(torch.asin((position[:, 1] / distance).clamp(-1, 1))),
        distance=distance,
        light=light,
        height=height,
        width=width,
    )


def spherical(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """(...) degrees, degrees, scene units -> positions (..., 3)."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    return distance[..., None] * torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)


def focal_to_fov(focal: Tensor) -> Tensor:
    """Focal length over image height -> vertical field of view in degrees."""
    return torch.rad2deg(2 * torch.atan(0.5 / focal))
