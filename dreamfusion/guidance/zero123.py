"""Zero-1-to-3 (stage 11, `guidance=zero123`): Stable Diffusion that turns a picture of an object to another camera.

Liu et al. 2023. The U-Net has the latents of the picture as four more input channels; its only cross-attention token is
a projection of the picture's CLIP embedding and of the camera relative to the picture's. There is no text. Tested with
small random networks; the published weights were never run.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.clip import DEVIATION, MEAN
from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.guidance.pretrained import load_frozen, read_json
from dreamfusion.image import resize
from dreamfusion.types import Branch, Cameras, TextEmbedding

CAMERA = 4  # numbers of a relative camera


@cache
def camera_projection() -> Any:
    """The class of the network from CLIP embedding and relative camera to one token, as in the published folders."""
    from diffusers import ConfigMixin, ModelMixin  # imported here: other priors do without
    from diffusers.configuration_utils import register_to_config

    class CameraProjection(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, embedding_dim: int = 768, additional_embeddings: int = CAMERA) -> None:
            super().__init__()
            self.proj = nn.Linear(embedding_dim + additional_embeddings, embedding_dim)

    return CameraProjection


class Zero123Prior(DiffusersPrior):
    """Zero123, Zero123-XL and Stable Zero123 in diffusers' layout, with `clip_camera_projection/`."""

    name = "zero123"
    models = ("ashawkey/zero123-xl-diffusers",)
    parts = ("unet", "vae", "image_encoder", "clip_camera_projection", "scheduler")
    sample_scale = 3.0  # as in the original demo
    sees_camera = True
    picture_channels = 4

    def __init__(self, stable: bool, **settings: Any) -> None:
        """See `DiffusersPrior`.

        Args:
            stable: the last number of a camera is the picture's polar angle (Stable Zero123), not the distance.
        """
        super().__init__(attention_slicing=False, lora=None, tokens=None, prediction=None, **settings)
        self.stable = stable
        self._projection = load_frozen(camera_projection(), self._folder, "clip_camera_projection", torch.float32)
        self._picture: tuple[Tensor, Tensor, Cameras] | None = None  # CLIP embedding (1, D), latents, camera

    def to(self, device: torch.device | str) -> Self:
        """See `DiffusersPrior.to`."""
        self._projection.to(device)
        return super().to(device)

    @torch.no_grad()
    def look_at(self, rgb: Tensor, camera: Cameras) -> None:
        """See `PictureConditioned.look_at`. The encoder of CLIP runs on the CPU and is freed afterwards."""
        from transformers import CLIPVisionModelWithProjection

        encoder = load_frozen(CLIPVisionModelWithProjection, self._folder, "image_encoder", torch.float32)
        side = encoder.config.image_size
        image = nn.functional.interpolate(rgb.cpu(), (side, side), mode="bicubic", align_corners=False, antialias=True)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        embedding = encoder((image.clamp(0, 1) - mean) / deviation).image_embeds
        # Not scaled as the noisy latents are: so the network was trained. Another autoencoder may have another scale.
        scale = read_json(self._folder / "vae" / "config.json").get("scaling_factor", 0.18215)
        latents = self.encode_image(resize(rgb.to(self._device), self.resolution)) / scale
        self._graph = None
        self._picture = embedding.to(self._device), latents, camera.to(self._device)

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """A place for the token of each of K texts, which are not read: (K, 1, D)."""
        states = torch.zeros(len(texts), 1, self._network.config.cross_attention_dim, device=self._device)
        return TextEmbedding(states, torch.ones(states.shape[:2], dtype=torch.bool, device=self._device))

    def _inputs(self, image: Tensor, states: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
        """The latents of the picture beside `image`, and the token of each view; both zero without condition.

        Raises:
            GuidanceError: there is no picture, or a view has no camera.
        """
        if self._picture is None:
            raise GuidanceError("guidance=zero123 needs a picture of the object; type image=cat.png, and mode=train")
        embedding, latents, reference = self._picture
        tokens: list[Tensor] = []
        pictures: list[Tensor] = []
        for token, views in zip(states.chunk(len(branches)), image.chunk(len(branches)), strict=True):
            branch = branches[len(tokens)]
            if branch.unconditional:
                tokens.append(torch.zeros_like(token))
                pictures.append(torch.zeros_like(views))
                continue
            if branch.cameras is None:
                raise GuidanceError("guidance=zero123 predicts views at known cameras only; type guidance=sd")
            code = relative_camera(branch.cameras, reference, self.stable)
            joined = torch.cat([embedding.expand(len(code), -1), code], dim=1)
            tokens.append(self._projection.proj(joined)[:, None])
            pictures.append(latents.expand(len(views), -1, -1, -1))
        return torch.cat([image, torch.cat(pictures)], dim=1), torch.cat(tokens)


def relative_camera(cameras: Cameras, reference: Cameras, stable: bool) -> Tensor:
    """Difference of the polar angles, sine and cosine of that of the azimuths, and of the distances: (B, 4).

    Angles in radians; the polar angle is 90 degrees minus the elevation. `stable`: see `Zero123Prior`.
    """
    polar = torch.deg2rad(reference.elevation - cameras.elevation)
    turn = torch.deg2rad(cameras.azimuth - reference.azimuth)
    last = cameras.distance - reference.distance
    if stable:
        last = torch.deg2rad(90 - reference.elevation).expand_as(last)
    return torch.stack([polar, turn.sin(), turn.cos(), last], dim=1)
