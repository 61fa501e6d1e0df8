"""The pocket prior: a small text-to-image diffusion model trained by this project."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # unet/, scheduler/, text_encoder/, vocabulary.txt, model card
LENGTHS = "lengths.json"  # {title of a model: its longest side, centimetres}, of those whose library says it
