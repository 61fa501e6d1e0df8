"""Composite images of several objects into one, nearest first on each ray.

Letters: G layers, B images, R rays a side, r pixels a side (a multiple of R).
"""

import torch
from torch import Tensor


def front_to_back(order: Tensor, opacity: Tensor, images: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Composite images and features of G layers.

    Features have no opacity of their own: they are averaged with the rays' weights, and the farthest layer gets the
    rest.

    Args:
        order: (G, B, 1, R, R), the index of the nearest layer of each ray first.
        opacity: (G, B, 1, R, R), of the rays.
        images: (G, B, C, r, r), multiplied by their opacity, which is channel 3.
        features: (G, B, F, R, R).

    Returns:
        (B, C, r, r) and (B, F, R, R).
    """

    def sorted_by_depth(part: Tensor) -> Tensor:
        side = part.shape[-1] // order.shape[-1]
        nearest = order.repeat_interleave(side, dim=-2).repeat_interleave(side, dim=-1)
        return part.gather(0, nearest.expand_as(part))

    images, features, opacity = map(sorted_by_depth, (images, features, opacity))
    image, felt, last = torch.zeros_like(images[0]), torch.zeros_like(features[0]), len(order) - 1
    through, rest = torch.ones_like(image[:, :1]), torch.ones_like(felt[:, :1])
    for index in range(len(order)):
        image = image + through * images[index]
        through = through * (1 - images[index, :, 3:4].clamp(0, 1))
        felt = felt + rest * (1 if index == last else opacity[index]) * features[index]
        rest = rest * (1 - opacity[index])
    return image, felt
