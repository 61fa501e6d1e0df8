"""ImageReward (Xu et al. 2023): a person's likely preference for a picture of a text, the judge of T3Bench.

BLIP's image and text encoders and a chain of linear layers, from the published checkpoint, on transformers' classes.
Tested with small random weights, not with the published ones.
"""

import json
import re
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dreamfusion.error import UserError
from dreamfusion.guidance.clip import DEVIATION, MEAN
from dreamfusion.guidance.pretrained import refused

FILES = ("ImageReward.pt", "med_config.json", "vocab.txt")
REPOSITORY = "THUDM/ImageReward"
LONGEST = 35  # tokens
OFFSET, SCALE = 0.16717362830052426, 1.0333394966054072  # of the published model's rewards
HEAD = 64  # width of an attention head of the image encoder
# The checkpoint's names of the image encoder, and transformers'.
NAMES = (
    (r"^cls_token", "embeddings.class_embedding"),
    (r"^pos_embed", "embeddings.position_embedding"),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward(nn.Module):
    """Rewards of pictures, about 0 on average with deviation 1."""

    def __init__(self, state: dict[str, Tensor], text: dict[str, Any], vocabulary: Path) -> None:
        """`state` and `text` are the contents of ImageReward.pt and med_config.json."""
        from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        image, words, chain = (
            _part(state, name) for name in ("blip.visual_encoder.", "blip.text_encoder.", "mlp.layers.")
        )
        image = {_renamed(key): value for key, value in image.items()}
        width, _, patch, _ = image["embeddings.patch_embedding.weight"].shape
        tokens = image["embeddings.position_embedding"].shape[1] - 1
        self.resolution = patch * round(tokens**0.5)
        depth = 1 + max(int(key.split(".")[2]) for key in image if key.startswith("encoder.layers."))
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width, intermediate_size=image["encoder.layers.0.mlp.fc1.weight"].shape[0],
                num_hidden_layers=depth, num_attention_heads=max(width // HEAD, 1), image_size=self.resolution,
                patch_size=patch, layer_norm_eps=1e-6,
            )
        )  # fmt: skip
        kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        size = words["embeddings.word_embeddings.weight"].shape[0]
        settings = BlipTextConfig(**{key: text[key] for key in kept}, vocab_size=size, encoder_hidden_size=width)
        self.text = BlipTextModel(settings, add_pooling_layer=False)
        layers = sorted((int(key.split(".")[0]), value.shape) for key, value in chain.items() if key.endswith("weight"))
        self.chain = nn.ModuleDict({str(place): nn.Linear(shape[1], shape[0]) for place, shape in layers})
        self.vision.load_state_dict(image)
        self.text.load_state_dict({key: value for key, value in words.items() if "position_ids" not in key})
        self.chain.load_state_dict(chain)
        self.tokenizer = BertTokenizer(str(vocabulary))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, model: str) -> Self:
        """From a folder or a hub id; the published repository has no vocab.txt: copy bert-base-uncased's beside it.

        Raises:
            UserError: a file is missing.
            GuidanceError: a file is broken, or holds other than data.
        """
        folder = Path(model).expanduser()
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(model, allow_patterns=list(FILES[:2])))
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} has no {missing[0]}; ImageReward needs {', '.join(FILES)}: the first two of {REPOSITORY} "
                "on the hub, the last of google-bert/bert-base-uncased"
            )
        with refused(f"{folder} cannot be read as ImageReward"):
            state = torch.load(folder / FILES[0], map_location="cpu", weights_only=True)
            return cls(state, json.loads((folder / FILES[1]).read_text(encoding="utf-8")), folder / FILES[2])

    @torch.no_grad()
    def forward(self, prompt: str, rgb: Tensor) -> Tensor:
        """Rewards (B,) of pictures (B, 3, H, H) in [0, 1] of one prompt."""
        rgb = nn.functional.interpolate(rgb, (self.resolution, self.resolution), mode="bicubic", antialias=True).clamp(
            0, 1
        )
        mean, deviation = (rgb.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        seen = self.vision((rgb - mean) / deviation).last_hidden_state
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
        ids, mask = (tokens[key].to(rgb.device).expand(len(rgb), -1) for key in ("input_ids", "attention_mask"))
        out = self.text(ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False).last_hidden_state[:, 0]
        for layer in self.chain.values():  # published without activations
            out = layer(out)
        return (out[:, 0] - OFFSET) / SCALE


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _renamed(key: str) -> str:
    for pattern, name in NAMES:
        key = re.sub(pattern, name, key)
    return key
