"""Pictures of a scene from all sides."""

import numpy as np
import pytest
import torch

from dreamfusion.camera.rays import cast_rays
from dreamfusion.report.turntable import surface_normals
from dreamfusion.scene.picture import Picture


@pytest.mark.parametrize("azimuth", [0.0, 130.0])
def test_normals_of_the_depth_of_a_ball_are_those_of_the_ball(cameras_at, azimuth):
    camera = cameras_at([azimuth], [20.0], height=128, focal=2.0)
    rays = cast_rays(camera)
    along = -(rays.origins * rays.directions).sum(-1)
    inside = 0.25 - (rays.origins**2).sum(-1) + along**2  # radius 0.5
    depth = torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), 0).view(128, 128)
    seen = Picture(
        np.zeros((128, 128, 3), np.float32), (inside > 0).float().view(128, 128).numpy(), depth.numpy(), None
    )
    normal = surface_normals(camera, seen)
    points = (rays.origins + rays.directions * depth.view(-1, 1)).view(128, 128, 3).numpy()
    facing = (inside > 0.1).view(128, 128).numpy()  # towards the rim, the blur mixes in less of the far side
    assert facing.sum() > 1000
    assert np.degrees(np.arccos((normal * points * 2).sum(-1)[facing].clip(-1, 1))).max() < 6
    assert (normal[seen.opacity == 0] == 0).all()
