"""Captions of renders from name, colour and view words, in the form of the view-dependent prompts of the 3D stage."""

import numpy as np

# sRGB; also the mean colour of a recoloured render.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.15, 0.60, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.95, 0.85, 0.15),
    "orange": (0.95, 0.50, 0.10),
    "purple": (0.55, 0.15, 0.70),
    "pink": (0.95, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.12),
    "black": (0.09, 0.09, 0.10),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.50, 0.50, 0.50),
    "turquoise": (0.15, 0.75, 0.75),
}

# Names without an article: plurals and mass nouns.
_NO_ARTICLE = frozenset(
    {"bread", "french fries", "butter", "milk", "sugar", "soap", "headphones", "sunglasses", "glasses"}
)
_SINGULAR_S = ("ss", "us", "is")


def with_article(name: str) -> str:
    """ "cat" -> "a cat", "armchair" -> "an armchair", "tulips" -> "tulips"."""
    last = name.split()[-1]
    if name in _NO_ARTICLE or (last.endswith("s") and not last.endswith(_SINGULAR_S)):
        return name
    return ("an " if name[0] in "aeio" else "a ") + name


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
