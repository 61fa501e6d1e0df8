"""Solid backgrounds. A random colour a view keeps a transparent object from matching the background."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamfusion.randomness import uniform
from dreamfusion.schedule import check_share


class ConstantBackground(nn.Module):
    """One fixed colour, sRGB in [0, 1]."""

    def __init__(self, color: Sequence[float]) -> None:
        super().__init__()
        values = list(color) if isinstance(color, Sequence) and not isinstance(color, str) else [color]
        if len(values) != 3 or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            raise ValueError(f"background.color is {color}; type three numbers in [0, 1]: background.color=[1,1,1]")
        self.color: Tensor
        self.register_buffer("color", torch.tensor(list(color), dtype=torch.float32))

    def forward(self, directions: Tensor, views: int, generator: torch.Generator | None) -> Tensor:
        """Ray directions (R, 3) -> colours (R, 3)."""
        return self.color.expand_as(directions)


class RandomBackground(nn.Module):
    """White in the fraction `white` of views, any colour in `colored`, else grey; white in evaluation."""

    def __init__(self, white: float, colored: float) -> None:
        """Raises: ValueError: a share outside [0, 1], or both together above 1."""
        super().__init__()
        check_share("background.white", white, 0.35)
        check_share("background.colored", colored, 0.0)
        if white + colored > 1:
            raise ValueError(
                f"background.white is {white} and background.colored {colored}, together above 1; type "
                "background.white=0.35 background.colored=0"
            )
        self.white, self.colored = white, colored

    def forward(self, directions: Tensor, views: int, generator: torch.Generator | None) -> Tensor:
        """Ray directions (R, 3) of `views` views -> colours (R, 3)."""
        if generator is None:
            return torch.ones_like(directions)
        device = directions.device
        draw = uniform(views, 1, generator=generator, device=device)
        grey = uniform(views, 1, generator=generator, device=device).expand(views, 3)
        color = torch.where(
            draw < self.white + self.colored, uniform(views, 3, generator=generator, device=device), grey
        )
        color = torch.where(draw < self.white, 1.0, color).to(directions)
        return color.repeat_interleave(directions.shape[0] // views, dim=0)
