"""Captions of renders from name, colour and view words, in the form of the view-dependent prompts of the 3D stage."""

import numpy as np
from torch import Tensor

from dreamfusion.pocket.model.words import COLORS, with_article


def view_words(azimuth: float, elevation: float) -> str:
    """View words by Poole et al. 2022, sec. 3.2: overhead above 60 degrees, else front, side or back."""
    if elevation > 60:
        return "overhead view"
    turned = abs((azimuth + 180) % 360 - 180)
    return "front view" if turned < 45 else "back view" if turned > 135 else "side view"


def caption(rng: np.random.Generator, name: str, color: str | None, view: str, view_share: float = 0.5) -> str:
    """Sample a caption such as "a purple cactus, front view"; view words with probability `view_share`."""
    words = f"{color} {name}" if color else name
    text = words if color is None and rng.random() < 0.1 else with_article(words)
    return f"{text}, {view}" if rng.random() < view_share else text


def captions_of(name: str) -> list[str]:
    """All captions that `caption` can return for a name, except the bare noun with view words."""
    views = ("front view", "side view", "back view", "overhead view")
    things = [with_article(name), *(with_article(f"{color} {name}") for color in COLORS)]
    return [name, *things, *(f"{thing}, {view}" for thing in things for view in views)]


def recolor(albedo: Tensor, alpha: Tensor, color: Tensor) -> Tensor:
    """Tint albedo (B, H, W, 3) in [0, 1] with opacity (B, H, W, 1) to colours (B, 3).

    The luminance relative to the object's mean scales the colour.
    """
    luminance = albedo @ albedo.new_tensor([0.299, 0.587, 0.114])
    covered = alpha[..., 0]
    mean = (luminance * covered).sum((1, 2)) / covered.sum((1, 2)).clamp(min=1e-3)
    relative = (luminance / mean.clamp(min=0.05)[:, None, None]).clamp(0.4, 1.6)[..., None]
    # Darken below the mean, blend towards white above: dark parts stay dark, highlights stay light.
    dark = color[:, None, None] * relative.clamp(max=1)
    return dark + (1 - dark) * (relative - 1).clamp(min=0) * 0.5
