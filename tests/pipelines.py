"""Small random networks of the published classes, saved in diffusers' folder layout."""

import json

import torch

LENGTH = 12  # tokens
LATENTS = {"sd": 4, "sdxl": 4, "sd3": 16}  # channels
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def save_sd(folder, prediction_type="epsilon"):
    """Stable Diffusion with 32-pixel images and 16x16 latents."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    save_autoencoder(folder / "vae")
    DDIMScheduler(prediction_type=prediction_type, beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    save_clip(folder, CLIPTextModel)
    return folder


def save_mvdream(folder):
    """MVDream with 32-pixel images, converted: a U-Net with a camera embedding."""
    from diffusers import UNet2DConditionModel

    save_sd(folder)
    camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    UNet2DConditionModel(**UNET | camera).save_pretrained(folder / "unet")
    return folder


def save_zero123(folder):
    """Zero-1-to-3 with 32-pixel images: four more channels, and CLIP's image encoder for images of 24 pixels."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from dreamfusion.guidance.zero123 import camera_projection

    torch.manual_seed(0)
    UNet2DConditionModel(**UNET | {"in_channels": 8}).save_pretrained(folder / "unet")
    save_autoencoder(folder / "vae", scaling_factor=0.5)
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**vision, image_size=24, patch_size=8, projection_dim=16)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    camera_projection()(embedding_dim=16).save_pretrained(folder / "clip_camera_projection")
    return folder


def save_deepfloyd(folder, side=16):
    """DeepFloyd IF with six output channels, and T5 over single letters."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=side,
        in_channels=3,
        out_channels=6,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ).save_pretrained(folder / "unet")
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    scheduler.save_pretrained(folder / "scheduler")
    save_t5(folder)
    return folder


def save_sdxl(folder):
    """Stable Diffusion XL with 32-pixel images: encoders of width 16 and 24, pooled text of 24."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    UNet2DConditionModel(
        **UNET | extra | {"cross_attention_dim": 40, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    ).save_pretrained(folder / "unet")
    save_autoencoder(folder / "vae", force_upcast=True)
    EulerDiscreteScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    save_clip(folder, CLIPTextModel)
    save_clip(folder, CLIPTextModelWithProjection, "_2", width=24)
    return folder


def save_sd3(folder):
    """Stable Diffusion 3 with 32-pixel images: CLIPs of width 16 and 24, T5 of width 48."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(0)
    SD3Transformer2DModel(
        sample_size=16,
        in_channels=LATENTS["sd3"],
        out_channels=LATENTS["sd3"],
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=16,
    ).save_pretrained(folder / "transformer")
    save_autoencoder(folder / "vae", latent_channels=LATENTS["sd3"], scaling_factor=1.5305, shift_factor=0.0609)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    save_clip(folder, CLIPTextModelWithProjection)
    save_clip(folder, CLIPTextModelWithProjection, "_2", width=24)
    save_t5(folder, "_3", width=48)
    return folder


def save_autoencoder(folder, **changes):
    from diffusers import AutoencoderKL

    settings = {
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "force_upcast": False,
    }
    AutoencoderKL(**settings | changes).save_pretrained(folder)


def save_clip(folder, encoder, number="", width=16):
    """CLIP's text encoder of two layers, and its tokenizer."""
    encoder(clip_text(width)).save_pretrained(folder / f"text_encoder{number}")
    save_tokenizer(folder / f"tokenizer{number}")


def save_clip_model(folder, side):
    """CLIP with both encoders, for images of `side` pixels."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=side, patch_size=8
    )
    CLIPModel(
        CLIPConfig(text_config=clip_text(16).to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def clip_text(width):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=99,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
    )


def save_tokenizer(tokenizer):
    """CLIP's tokenizer over single letters."""
    tokenizer.mkdir(exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz,"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (tokenizer / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "pad_token": "<|endoftext|>"})
    )


def save_t5(folder, number="", width=16):
    """T5's text encoder of one layer, and its tokenizer over single letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        folder / f"text_encoder{number}"
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    T5Tokenizer(vocab=[*pieces, *letters], extra_ids=0).save_pretrained(folder / f"tokenizer{number}")
