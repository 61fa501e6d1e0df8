"""Environment map: an MLP over ray directions (Poole et al. 2022, Sec. 3.2)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from dreamfusion.randomness import uniform
from dreamfusion.schedule import check_least, check_share


class LearnedBackground(nn.Module):
    """Colour from a positionally encoded direction by a small MLP; a random solid colour in some training views."""

    def __init__(self, frequencies: int, hidden: int, layers: int, random_share: float) -> None:
        """`random_share`: fraction of training views with a random solid colour, which keeps the object opaque.

        Raises:
            ValueError: a count below its least, or a share outside [0, 1].
        """
        super().__init__()
        check_least("background.frequencies", frequencies, 0, 4)
        check_least("background.hidden", hidden, 1, 64)
        check_least("background.layers", layers, 0, 2)
        check_share("background.random_share", random_share, 0.5)
        self.random_share = random_share
        self.scales: Tensor
        self.register_buffer("scales", 2.0 ** torch.arange(frequencies), persistent=False)
        widths = [3 + 6 * frequencies] + [hidden] * layers
        stack: list[nn.Module] = []
        for before, after in pairwise(widths):
            stack += [nn.Linear(before, after), nn.SiLU()]
        self.network = nn.Sequential(*stack, nn.Linear(widths[-1], 3))

    def forward(self, directions: Tensor, views: int, generator: torch.Generator | None) -> Tensor:
        """Ray directions (R, 3) of `views` views -> colours (R, 3)."""
        waves = (directions[:, None, :] * self.scales[:, None]).flatten(1)
        color = torch.sigmoid(self.network(torch.cat([directions, waves.sin(), waves.cos()], dim=-1)))
        color = color.to(directions)  # with torch.autocast the network's output is in half precision
        if generator is None or self.random_share == 0:
            return color
        rays = directions.shape[0] // views
        solid = uniform(views, 3, generator=generator, device=color.device).repeat_interleave(rays, dim=0)
        replaced = uniform(views, generator=generator, device=color.device) < self.random_share
        return torch.where(replaced.repeat_interleave(rays)[:, None], solid, color)
