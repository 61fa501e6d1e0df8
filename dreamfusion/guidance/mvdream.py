"""MVDream (stage 11, `guidance=mvdream`): Stable Diffusion 2.1 that predicts four views of one object together.

Shi et al. 2023. Two changes to the U-Net: its self-attention covers the tokens of all views, and an embedding of the
camera is added to that of the time. The second is diffusers' `class_embedding` of type "projection" under another name.
Tested with small random networks; the original checkpoint and its conversion were never run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.hub import find_file
from dreamfusion.guidance.pretrained import refused
from dreamfusion.guidance.stable_diffusion import StableDiffusionPrior
from dreamfusion.ops.constants import constant
from dreamfusion.types import Branch, Cameras, TextEmbedding

CAMERA = 16  # numbers of a camera matrix


class MVDreamPrior(StableDiffusionPrior):
    """Views are consecutive images of a batch, in groups of four cameras 90 degrees apart (`camera=multiview`)."""

    name = "mvdream"
    views = 4
    sees_camera = True
    sample_scale = 10.0  # as in the original sampling script
    trained = 256

    def __init__(self, checkpoint: str | None, **settings: Any) -> None:
        """See `DiffusersPrior`; `model` is Stable Diffusion 2.1 base, for all but the weights of the U-Net.

        Args:
            checkpoint: file of the original weights, or owner/name/file on the hub; None: the U-Net of `model` has a
                camera embedding already.

        Raises:
            GuidanceError: there is no such file, or the weights do not fit the U-Net.
        """
        self._checkpoint = checkpoint
        super().__init__(
            attention_slicing=False, lora=None, tokens=None, prediction=None, **settings
        )  # slicing would replace the attention of all views
        self._couple_views()

    def _load_network(self, network: type[Any], dtype: torch.dtype) -> Any:
        if self._checkpoint is None:
            loaded = super()._load_network(network, dtype)
            if loaded.config.class_embed_type != "projection":
                raise GuidanceError(
                    f"the U-Net in {self._folder} has no camera embedding; type "
                    "guidance.checkpoint=MVDream/MVDream/sd-v2.1-base-4view.pt, or the path of such a file"
                )
            return loaded
        config = network.load_config(str(self._folder / "unet"), local_files_only=True)
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA}
        with torch.device("meta"):
            unet = network.from_config(config)
        file = find_file(self._checkpoint, "guidance.checkpoint")
        with refused(f"guidance.checkpoint={self._checkpoint} cannot be read"):
            state = converted(torch.load(file, map_location="cpu", weights_only=True, mmap=True), config)
        with refused(f"{file} does not fit the U-Net in {self._folder}"):
            unet.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
        return unet.eval().requires_grad_(False)

    def _couple_views(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        one, all_views = AttnProcessor2_0(), MultiViewAttention(AttnProcessor2_0(), self.views)
        places = self._network.attn_processors
        self._network.set_attn_processor({place: all_views if ".attn1." in place else one for place in places})

    def _conditions(self, text: TextEmbedding, branches: Sequence[Branch], dtype: torch.dtype) -> dict[str, Any]:
        """Camera matrices of all branches; the network was trained with them for the unconditional branch too."""
        cameras = [branch.cameras for branch in branches if branch.cameras is not None]
        if len(cameras) < len(branches) or any(len(group) % self.views for group in cameras):
            raise ValueError(f"{self.name} predicts groups of {self.views} views, each with its camera")
        return {"class_labels": torch.cat([camera_code(group) for group in cameras]).to(dtype)}


class MultiViewAttention:
    """Attention processor: joins the tokens (B, L, D) of consecutive views to (B / views, views L, D)."""

    def __init__(self, attention: Any, views: int) -> None:
        self.attention, self.views = attention, views

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        joined = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)
        return self.attention(attn, joined, *arguments, **settings).view_as(hidden_states)


def camera_code(cameras: Cameras) -> Tensor:
    """Camera matrices in MVDream's axes, at distance 1, row by row, (B, 16).

    Its objects face +x and stand on +z: our (z, x, y).
    """
    rotation, position = cameras.camera_to_world[..., :3], cameras.camera_to_world[..., 3:]
    matrix = torch.cat([rotation, torch.nn.functional.normalize(position, dim=1)], dim=-1).roll(1, dims=1)
    last = constant((0.0, 0.0, 0.0, 1.0), matrix.device, matrix.dtype).expand(len(matrix), 1, 4)
    return torch.cat([matrix, last], dim=1).flatten(1)


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The U-Net of an original checkpoint under diffusers' names; the rest of the checkpoint is dropped."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    renamed = {name.replace(".camera_embed.", ".label_emb.0."): value for name, value in state.items()}
    try:
        return convert_ldm_unet_checkpoint(renamed, dict(config))
    except KeyError as error:
        raise GuidanceError(f"the checkpoint is not MVDream's: it has no {error.args[0]}") from error
