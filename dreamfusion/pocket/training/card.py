"""The model card that goes with the pocket prior's weights: what it saw, whose work that was, how well it does."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamfusion.files import replacing
from dreamfusion.pocket.data.renders import Subject

CARD_FILE = "README.md"  # where a hub looks for it
TRAINING = "training.json"  # how many images the weights have seen, for whoever goes on from them
EVIDENCE = """
## Held-out evidence

By `python launch.py mode=evaluate`. Nearest in oriented gradients and coarse CIELAB colours, in which nothing was
trained; "real renders" are put through the same comparison.

"""
CARD = """\
---
license: cc-by-3.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The pocket prior

A text-to-image diffusion model of everyday objects seen from all sides, 64x64 pixels, {parameters:.1f} M parameters.
It is what `guidance=pocket` of dreamfusion distils; it is too small to be a picture generator in its own right.

- **Made by** `python launch.py mode=pretrain`: {images:,} images, and {sketch_images:,} for the sketch alone{hours}.
- **Data**: {models} models under {names} names from the libraries of Sweet Home 3D, rendered from {views} sides each,
  plain, under a point light, or white under it; some recoloured in one of twelve colours; on white and grey
  backgrounds. `vocabulary.txt` lists the names, `ATTRIBUTION.md` every model with its author and licence.
- **Network**: diffusers' `UNet2DConditionModel` on pixel-unshuffled images, cosine schedule, predicts the clean image;
  told the text (token states and sentence vector), the camera (azimuth, elevation, distance), the grey level behind the
  object and the kind of light. Beside it a sketch (`sketch/`): each model has a code, learned along; a linear
  classifier says which model the words name, its code grows into a 32^3 volume of features, these are composited along
  the camera's rays, and albedo, opacity and normals are drawn from what the rays see. The UNet starts from there.
- **Text encoder**: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), unchanged but for fp16; of the weights with
  sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db.

Held-out views, mean squared error of the predicted clean image (pixels in [-1, 1]) by timestep of 1000, the sketch
being told which model each shows:

{losses}

`samples.png`: {prompts}; each from the front, the right, the back and the left.

**Limits.** It knows these objects and no others: no scenes, no styles, no relations between things. A prompt shows one
model; where several have the name, `guidance.variant` chooses. Rare names are rough.
"""


def write_card(
    folder: Path,
    seen: Mapping[str, float],
    losses: Mapping[int, float],
    *,
    subjects: Sequence[Subject],
    called: Sequence[str],
    views: int,
    parameters: int,
    prompts: Sequence[str],
) -> None:
    """README.md, ATTRIBUTION.md, vocabulary.txt and training.json into a folder of weights.

    `seen` says how many `images` the whole network was trained on, how many `sketch_images` the sketch alone, and, if
    it is known, how many `hours` that took.
    `subjects` are the models that were learned, `called` the names they were learned under, `losses` by timestep.
    """
    names = sorted({*called, *(s.name for s in subjects)})
    table = "| timestep | error |\n|--:|--:|\n" + "\n".join(f"| {t} | {loss:.4f} |" for t, loss in losses.items())
    card = CARD.format(
        parameters=parameters / 1e6,
        images=seen["images"],
        sketch_images=seen["sketch_images"],
        hours=f", in {seen['hours']:.1f} hours" if "hours" in seen else "",
        models=len(subjects),
        names=len(set(called)),
        views=views,
        losses=table,
        prompts=", ".join(prompts),
    )
    for name, text in (
        (CARD_FILE, card),
        ("ATTRIBUTION.md", attribution(subjects)),
        ("vocabulary.txt", "\n".join(names) + "\n"),
        (TRAINING, json.dumps(dict(seen)) + "\n"),
    ):
        with replacing(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")


def add_evidence(folder: Path, table: str) -> None:
    """Put what `mode=evaluate` found under its own heading at the end of a folder's card, in place of an older one."""
    with replacing(folder / CARD_FILE) as draft:
        card = (folder / CARD_FILE).read_text(encoding="utf-8").partition(EVIDENCE)[0]
        draft.write_text(f"{card.rstrip()}\n{EVIDENCE}{table}\n", encoding="utf-8")


def attribution(subjects: Sequence[Subject]) -> str:
    """Who made the models, by library and licence."""
    by_source: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for subject in subjects:
        by_source[subject.source, subject.license][subject.creator or "author not named"].append(subject.name)
    lines = ["# The 3D models that the pocket prior was trained on", ""]
    for (source, license_), creators in sorted(by_source.items()):
        lines += [f"## {source}", "", license_ or "licence: see the library", ""]
        lines += [f"- {creator}: {', '.join(sorted(made))}" for creator, made in sorted(creators.items())]
        lines.append("")
    return "\n".join(lines)
