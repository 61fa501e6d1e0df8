"""View texts blended by azimuth, and perp-neg, against the multi-face problem.

Stages 2 and 10 of the flow. Perp-neg (Armandpour et al. 2023, Sec. 4) also guides away from the texts of other views;
the weights are threestudio's. `guidance/prior.py` combines the predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dreamfusion.ops.constants import constant
from dreamfusion.prompting.table import TextTable
from dreamfusion.prompting.view_dependent import BACK, FRONT, OVERHEAD, SIDE, VIEWS, ViewDependentPrompting
from dreamfusion.types import Cameras, Conditioning, Opposed

CURVES = ("front_side", "side_front", "side_back", "front_side_back")


class BlendedPrompting(ViewDependentPrompting):
    """The text between front and side, or side and back, is their interpolation; overhead is not blended."""

    def __init__(self, perp_neg: Mapping[str, Sequence[float]] | None, **settings: Any) -> None:
        """See `ViewDependentPrompting`; its thresholds only choose negative texts and the overhead view here.

        Args:
            perp_neg: a, b and c of the weight -(a exp(-b r) + c) of each of CURVES; None: no perp-neg.

        Raises:
            ValueError: other curves, or not three numbers each.
        """
        super().__init__(**settings)
        self.perp_neg = None if perp_neg is None else {name: tuple(curve) for name, curve in perp_neg.items()}
        if self.perp_neg is not None:
            lengths = {name: len(curve) for name, curve in self.perp_neg.items()}
            if lengths != dict.fromkeys(CURVES, 3):
                raise ValueError(f"perp_neg has {lengths}, expected [a, b, c] for each of {', '.join(CURVES)}, or null")

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """The blended text of each camera, and the front and the side text for perp-neg."""
        conditioning = super().condition(table, cameras)
        device = table.texts.states.device
        conditioning = replace(conditioning, text=table.texts.blend(self.shares(cameras).to(device)))
        if self.perp_neg is None:
            return conditioning
        both = constant((FRONT, SIDE), device, torch.int64).repeat_interleave(len(cameras))
        return replace(conditioning, opposed=Opposed(table.texts[both], self.weights(cameras).to(device)))

    def shares(self, cameras: Cameras) -> Tensor:
        """Share of each of VIEWS in the text, (B, 4): linear in |azimuth| from front (0) to side (90) to back (180)."""
        turn = self._turn(cameras)
        front, back = (1 - turn).clamp(min=0), (turn - 1).clamp(min=0)
        by_view = {FRONT: front, SIDE: 1 - front - back, BACK: back, OVERHEAD: torch.zeros_like(turn)}
        shares = torch.stack([by_view[view] for view in range(len(VIEWS))], dim=1)
        above = torch.arange(len(VIEWS), device=turn.device) == OVERHEAD
        return torch.where(self._overhead(cameras)[:, None], above.to(shares), shares)

    def weights(self, cameras: Cameras) -> Tensor:
        """Weights of the front and of the side text, (2, B), negative; 0 for overhead views."""
        turn = self._turn(cameras)
        near, r = turn < 1, torch.where(turn < 1, 1 - turn, 2 - turn)  # r: share of the view nearer to the front
        front = torch.where(near, self._curve("front_side", r), self._curve("front_side_back", r))
        side = torch.where(near, self._curve("side_front", 1 - r), self._curve("side_back", r))
        return -torch.stack([front, side]) * ~self._overhead(cameras)

    def _curve(self, name: str, r: Tensor) -> Tensor:
        assert self.perp_neg is not None
        a, b, c = self.perp_neg[name]
        return a * torch.exp(-b * r) + c

    def _turn(self, cameras: Cameras) -> Tensor:
        """|azimuth| / 90 degrees, (B,) from 0 (front) to 2 (back)."""
        return ((cameras.azimuth + 180) % 360 - 180).abs() / 90

    def _overhead(self, cameras: Cameras) -> Tensor:
        return cameras.elevation > self.overhead_elevation
