"""Adaptive control of the number of Gaussians (Kerbl et al. 2023, Sec. 5.2), with the optimizer's state.

Those that the gradient pulls most across the screen are doubled: small ones copied, large ones split. Faint ones and
those outside of the ball are removed. Not a threshold but a share decides, since the gradient's size depends on the
prior and its scale; and nothing is random, so that a resumed run is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHRINK = 1.6  # of a split Gaussian's scales (Kerbl et al. 2023)


@dataclass(frozen=True)
class Growth:
    """When the number of Gaussians changes, and which of them."""

    every: float  # steps; below 1 a share of the run; 0: never
    until: float  # the last share of the run with a change, 0 to 1; above 1 its last step
    share: float  # of the Gaussians that are doubled each time
    split: float  # scene units: a larger standard deviation is split, a smaller one copied
    faint: float  # opacity below which a Gaussian is removed

    def __post_init__(self) -> None:
        if self.every < 0 or self.until < 0 or not 0 <= self.share <= 1 or not 0 <= self.faint < 1:
            raise ValueError(
                f"scene.growth has every={self.every}, until={self.until}, share={self.share}, faint={self.faint}; "
                "every and until are shares of the run or numbers of steps, every=0 is never, share is 0 to 1, faint "
                "0 to below 1: type scene.growth.every=0.05"
            )

        if not self.split > 0:
            raise ValueError(f"scene.growth.split is {self.split}; it must be above 0: type scene.growth.split=0.03")

    def due(self, step: int, progress: float) -> bool:
        """Whether the number changes after the backward pass of `step`, at `progress` of the run in [0, 1]."""
        if not self.every or not 0 < progress <= 1:
            return False
        steps = round(step / progress)
        every = round(self.every if self.every >= 1 else max(1, self.every * steps))
        return step % every == 0 and step <= round(self.until if self.until > 1 else self.until * steps)

    def choose(self, kept: Tensor, pull: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Indices of the Gaussians that stay, and of those among them that are doubled.

        Args:
            kept: (N,) bool.
            pull: (N,) mean gradient on the screen.
            most: Gaussians afterwards.
        """
        stay = kept.nonzero()[:, 0]
        count = max(0, min(round(self.share * len(stay)), most - len(stay)))
        return stay, stay[pull[stay].argsort(descending=True, stable=True)[:count]]


def rearrange(parameter: nn.Parameter, rows: Tensor, fresh: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Row i of the parameter, its gradient and its moments becomes what row `rows[i]` was.

    Gradient and moments are 0 where `fresh` (bool, as `rows`); all three are beyond the last row.
    """
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
    with torch.no_grad():
        parameter[: len(rows)] = parameter[rows]
        parameter[len(rows) :] = 0
        for values in (*([] if parameter.grad is None else [parameter.grad]), *moments):
            taken = values[rows].masked_fill(fresh.view(-1, *[1] * (values.dim() - 1)), 0)
            values.zero_()[: len(rows)] = taken


def split_in_two(positions: Tensor, log_scales: Tensor, axes: Tensor, pairs: Sequence[Tensor]) -> None:
    """Move the two rows of each pair apart along their longest axis, in place, with the variance of the one they were.

    Args:
        positions: (N, 3).
        log_scales: (N, 3).
        axes: (N, 3, 3) rotation matrices.
        pairs: two (K,) of row indices.
    """
    first, second = pairs
    longest = log_scales[first].argmax(1)
    direction = axes[first].gather(2, longest[:, None, None].expand(-1, 3, 1))[..., 0]
    apart = log_scales[first].amax(1, keepdim=True).exp() * (1 - SHRINK**-2) ** 0.5 * direction
    positions[first] += apart
    positions[second] -= apart
    smaller = log_scales[first] - torch.tensor(SHRINK).log().to(log_scales)
    log_scales[first], log_scales[second] = smaller, smaller
