"""The figures of a training step that tell a run that works from one that cannot; `watchdog.py` judges them."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamfusion.camera.rays import cast_rays
from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.guidance.prior import Prior, seen_size
from dreamfusion.scene.base import Scene
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.system import DreamFusion
from dreamfusion.types import Branch, Cameras

RIM = 0.9  # of the scene's radius: rays that pass the centre farther than this only meet the rim of its ball
FAINT = 1e-3  # mean squared difference to the background, in the prior's space, below which a render shows nothing


class WatchedPrior:
    """A prior that keeps its last prediction, made by `watch`."""

    __slots__ = ("_last", "watched")
    watched: Prior
    _last: tuple[Tensor, Tensor, tuple[Tensor, ...]] | None

    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`."""
        estimates: tuple[Tensor, ...] = self.watched.denoise(noisy, timestep, branches)
        self._last = noisy, self.watched.alphas_cumprod[timestep], estimates
        return estimates

    def last_estimate(self) -> Tensor | None:
        """x0_hat (B, C, h, w) of the last prediction's first branch, the text's; None before the first."""
        return None if self._last is None else self._last[2][0]

    def last_noises(self) -> tuple[Tensor, ...]:
        """The noise of each branch of the last prediction; empty before the first."""
        if self._last is None:
            return ()
        noisy, abar, estimates = self._last
        return tuple(noise_from_clean(clean, noisy, abar) for clean in estimates)


def watch(prior: Prior) -> WatchedPrior:
    """The prior as a `WatchedPrior`, which is of the prior's class too and has its state.

    A wrapper that passes attributes on would not do: since Python 3.12 `isinstance` of a protocol does not see them.
    """
    made: Any = object.__new__(type("WatchedPrior", (WatchedPrior, type(prior)), {}))
    made.__dict__ = prior.__dict__  # one state: what moves the one moves the other
    made.watched, made._last = prior, None
    watched: WatchedPrior = made
    return watched


@torch.no_grad()
def measure(system: DreamFusion, prior: WatchedPrior, loss: Tensor, cameras: Cameras) -> dict[str, Tensor]:
    """The figures of a step by name, () each, on the device of the run.

    Args:
        system: after the optimizer's step, with the gradients still there.
        prior: with the predictions of the step.
        loss: of the step.
        cameras: of the step.
    """
    assert system.last_opacity is not None
    gradients = [parameter.grad for parameter in trained(system) if parameter.grad is not None]
    nothing, predictions = torch.zeros((), device=loss.device), prior.last_noises()
    scale = system.distillation.guidance_scale(system.progress)
    figures = {
        "loss": loss.detach().float(),
        "prediction": torch.stack([one.abs().amax() for one in predictions]).amax() if predictions else nothing,
        "guidance": abs(scale) * (predictions[0] - predictions[1]).abs().amax() if len(predictions) > 1 else nothing,
        "parameter_gradient": torch.nn.utils.get_total_norm(gradients),
        "parameter": largest_parameter(system),
        "opacity": system.last_opacity.mean(),
        "rim_opacity": nothing,
        "rim_background": nothing,
    }
    if isinstance(system.scene, NeRF):  # only a density can turn to fog; a surface may be the whole ball
        rim = rim_mask(system.scene, cameras)
        figures["rim_opacity"] = masked_mean(system.last_opacity, rim)
        figures["rim_background"] = rim_background(system, prior, rim)
    return figures


def trained(system: L.LightningModule) -> list[nn.Parameter]:
    """The parameters that the optimizer moves."""
    return [parameter for parameter in system.parameters() if parameter.requires_grad]


@torch.no_grad()
def largest_parameter(system: L.LightningModule) -> Tensor:
    """The largest absolute value of a trained parameter, ()."""
    return torch.nn.utils.get_total_norm(trained(system), norm_type=math.inf)


def rim_mask(scene: Scene, cameras: Cameras) -> Tensor:
    """1 at the pixels whose rays meet the scene's ball near its rim only, 0 elsewhere: (B, 1, H, W).

    An object inside its ball leaves the rim empty, whatever share of the picture it covers.
    """
    rays = cast_rays(cameras)
    ahead = -(rays.origins * rays.directions).sum(-1, keepdim=True)
    passed = (rays.origins + ahead * rays.directions).norm(dim=-1) / scene.radius  # from the centre, in radii
    return ((passed > RIM) & (passed < 1)).float().view(len(cameras), 1, cameras.height, cameras.width)


def masked_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Mean of an image over a mask of its shape, (); 0 if the mask is empty."""
    return (image * mask).sum() / mask.sum().clamp(min=1)


def rim_background(system: DreamFusion, prior: WatchedPrior, rim: Tensor) -> Tensor:
    """How much of background the prior's estimate has where the render is `rim` (B, 1, H, W), ().

    The least-squares s of estimate = (1 - s) render + s background: about 1 where the prior would have the rim empty, 0
    where it agrees with what is there, or where nothing is. 1 for a prior without estimates.
    """
    estimate, guidance, background = prior.last_estimate(), system.last_guidance, system.last_background
    assert guidance is not None and background is not None
    if estimate is None:
        return rim.new_ones(())
    size = seen_size(prior.watched, rim.shape[-1])
    flat = prior.watched.encode_image(background[:, :, None, None].expand(-1, -1, size, size))
    rim = F.interpolate(rim, estimate.shape[-2:], mode="area")
    way = flat - guidance.latents
    along = (rim * way * (estimate - guidance.latents)).sum()
    return along / (rim * way.square()).sum().clamp(min=FAINT).maximum(FAINT * rim.sum())
