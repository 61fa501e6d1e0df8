"""Captions of renders from name, colour and view words, in the form of the view-dependent prompts of the 3D stage."""

import numpy as np

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


def recolor(albedo: np.ndarray, alpha: np.ndarray, color: str) -> np.ndarray:
    """Tint albedo (H, W, 3) in [0, 1]: luminance relative to the object's mean scales the named colour."""
    luminance = albedo @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    mean = float((luminance * alpha).sum() / max(float(alpha.sum()), 1e-3))
    relative = np.clip(luminance / max(mean, 0.05), 0.4, 1.6)[..., None]
    target = np.array(COLORS[color], dtype=np.float32)
    # Darken below the mean, blend towards white above: dark parts stay dark, highlights stay light.
    dark = target * np.minimum(relative, 1)
    return np.asarray(dark + (1 - dark) * np.maximum(relative - 1, 0) * 0.5, dtype=np.float32)
