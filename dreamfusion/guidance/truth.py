"""A prior that knows the answer (`guidance=truth`): its estimate is the picture of the model that the prompt names.

With it, every distillation method becomes the fit of a scene to the laboratory's ground truth (`truth/store.py`): what
the representation and the optimiser can do, without what a prior does not know. Nothing is sampled or predicted.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import GuidanceError
from dreamfusion.guidance.pocket_scenes import default_layout
from dreamfusion.guidance.prior import PixelSpace
from dreamfusion.ops.rasterize import RasterMesh, as_raster, rasterize
from dreamfusion.pocket.model.prompt import VIEW
from dreamfusion.scene.shading import Shading
from dreamfusion.truth.composed import Placed, composed
from dreamfusion.truth.store import Truth, find_truth, no_truth
from dreamfusion.types import Branch, Cameras, FieldOutput, TextEmbedding


def meant_layout(prompt: str) -> tuple[Placed, ...] | None:
    """See `Composer.layout`; the objects of a prompt stand where the pocket prior puts them."""
    found = find_truth(prompt)
    return default_layout(prompt) if found is None else (Placed(found.name),)


def meant(prompt: str) -> Truth:
    """The truth of a prompt, of several objects too.

    Raises:
        UserError: the laboratory has none.
    """
    found = composed(meant_layout(prompt))
    if found is None:
        raise no_truth(prompt)
    return found


class TruthPrior(PixelSpace):
    """Pictures of the truth at the cameras of the views, with their background and light."""

    name, views, sample_scale = "truth", 1, 1.0

    def __init__(self, resolution: int, ambient: float, guidance_scale: float, weighting: str) -> None:
        """Make the noise levels.

        Args:
            resolution: side of the pictures, pixels.
            ambient: share of the light that comes from everywhere, as the system's light has it.
            guidance_scale, weighting: recommended values for distillation, see `Prior`.
        """
        self.resolution, self.ambient = resolution, ambient
        self.guidance_scale, self.weighting = guidance_scale, weighting
        self.alphas_cumprod = torch.linspace(0.01, 1.56, 1000, dtype=torch.float64).cos().square().float()
        self._meshes: dict[str, RasterMesh] = {}  # by prompt; a text refers to its place

    def to(self, device: torch.device | str) -> Self:
        """Move the noise levels; pictures are drawn on the CPU."""
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Raises: UserError: the laboratory has no truth for the prompt."""
        meant(prompt)

    def layout(self, prompt: str) -> tuple[Placed, ...] | None:
        """See `Composer.layout`."""
        return meant_layout(prompt)

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """The number of each text's truth; -1 for the empty text: states (K, 1, 1).

        Raises:
            UserError: the laboratory has no truth for a text.
        """
        index = [self._number(VIEW.sub("", text)) if text else -1 for text in texts]
        return TextEmbedding(torch.tensor(index).float().view(-1, 1, 1), torch.ones(len(texts), 1, dtype=torch.bool))

    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`; the estimate of the empty text is grey.

        Raises:
            GuidanceError: the cameras of a text are unknown.
        """
        return tuple(self._clean(branch, noisy) for branch in branches)

    def _clean(self, branch: Branch, noisy: Tensor) -> Tensor:
        """Pictures (B, 3, r, r) in [-1, 1]."""
        if branch.cameras is None:
            raise GuidanceError("guidance=truth draws pictures at known cameras only; type guidance=pocket")
        index, meshes = branch.text.states[:, 0, 0].long().tolist(), list(self._meshes.values())
        pictures = []
        for view, number in enumerate(index):
            appearance = (1.0, 0.0) if branch.appearance is None else tuple(branch.appearance[view].tolist())
            if number < 0:
                pictures.append(torch.zeros_like(noisy[view]).cpu())
            else:
                pictures.append(self._picture(meshes[number], branch.cameras.one(view), *appearance))
        return torch.stack(pictures).to(noisy)

    def _number(self, prompt: str) -> int:
        """The place of the prompt's truth in `_meshes`."""
        if prompt not in self._meshes:
            self._meshes[prompt] = as_raster(meant(prompt).mesh)
        return list(self._meshes).index(prompt)

    def _picture(self, mesh: RasterMesh, camera: Cameras, grey: float, code: float) -> Tensor:
        """One picture (3, r, r) in [-1, 1] over a background `grey`, with the light of `Shading.code`."""
        camera = camera.to("cpu").resized(self.resolution, self.resolution)
        drawn = rasterize(mesh, camera)
        color, alpha = torch.from_numpy(drawn.albedo).view(-1, 3), torch.from_numpy(drawn.alpha).view(-1, 1)
        if code != 0:
            rays = cast_rays(camera)
            positions = rays.origins + torch.from_numpy(drawn.depth).view(-1, 1) * rays.directions
            seen = FieldOutput(alpha[:, 0], color, torch.from_numpy(drawn.normal).view(-1, 3))
            shading = Shading(self.ambient, 1 - self.ambient, textureless=code < 0)
            color = shading(seen, positions, camera.light.expand_as(positions))
        pixels = (2 * color - 1) * alpha + grey * (1 - alpha)
        return pixels.T.view(3, self.resolution, self.resolution)
