"""View-dependent text: append the viewing direction to the prompt, chosen by thresholds on the camera's angles.

Stages 2 and 10 of the flow; Poole et al. 2022, Sec. 3.2 step 3 and App. A.2. It reduces the multi-face problem.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreamfusion.prompting.debias import debiased
from dreamfusion.prompting.table import Prompting
from dreamfusion.types import Cameras

VIEWS = ("front", "side", "back", "overhead")
FRONT, SIDE, BACK, OVERHEAD = range(len(VIEWS))


class ViewDependentPrompting(Prompting):
    """ "a cat" -> "a cat, front view", "... side view", "... back view", "... overhead view"."""

    def __init__(
        self,
        negative: str | Mapping[str, str],
        overhead_elevation: float,
        front: float,
        back: float,
        templates: Mapping[str, str],
        debias: Mapping[str, Any],
    ) -> None:
        """Check the thresholds and templates.

        Args:
            negative: text of the unconditional branch, for all views or by view, "" where a view has none; "" is plain
                classifier-free guidance.
            overhead_elevation: degrees; a camera above this elevation is overhead at any azimuth.
            front, back: degrees; |azimuth| below `front` is a front view, above `back` a back view.
            templates: one text for each of VIEWS, with `{prompt}` in it.
            debias: the arguments of `debiased` after the views; without a model the prompt is used as it is.

        Raises:
            ValueError: angles out of order, a negative text or templates for other views than VIEWS, or templates
                without {prompt}.
        """
        if isinstance(negative, Mapping) and not set(negative) <= set(VIEWS):
            raise ValueError(f"negative is for {sorted(negative)}, expected a text, or texts for {', '.join(VIEWS)}")
        super().__init__([negative.get(view, "") for view in VIEWS] if isinstance(negative, Mapping) else negative)
        if not 0 <= front <= back <= 180:
            raise ValueError(f"front is {front} and back is {back} degrees, expected 0 <= front <= back <= 180")
        self.debias = dict(debias)
        self.overhead_elevation, self.front, self.back = overhead_elevation, front, back
        self.templates = dict(templates)
        if set(self.templates) != set(VIEWS):
            raise ValueError(f"templates are for {sorted(self.templates)}, expected one for each of {', '.join(VIEWS)}")
        for view, template in self.templates.items():
            if "{prompt}" not in template:
                raise ValueError(f'the template for the {view} view is "{template}", expected {{prompt}} in it')

    def texts(self, prompt: str) -> list[str]:
        """The four texts, in the order of VIEWS."""
        prompts = [prompt.strip()] * len(VIEWS)
        if self.debias["model"] is not None:
            prompts = debiased(prompts[0], VIEWS, **self.debias)
        return [self.templates[view].replace("{prompt}", one) for view, one in zip(VIEWS, prompts, strict=True)]

    def view(self, cameras: Cameras) -> Tensor:
        """Index into VIEWS, (B,) int64: overhead above `overhead_elevation`, else by |azimuth|; thresholds are side."""
        azimuth = ((cameras.azimuth + 180) % 360 - 180).abs()  # wrapped: 0 is the front, 180 the back
        view = torch.full_like(azimuth, SIDE, dtype=torch.int64)
        view = torch.where(azimuth < self.front, FRONT, view)
        view = torch.where(azimuth > self.back, BACK, view)
        return torch.where(cameras.elevation > self.overhead_elevation, OVERHEAD, view)
