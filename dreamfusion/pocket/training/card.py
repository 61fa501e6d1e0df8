"""Write the model card beside the pocket prior's weights: training data, attribution, evaluation."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamfusion.files import replacing
from dreamfusion.pocket import LENGTHS
from dreamfusion.pocket.data.catalog import Subject
from dreamfusion.report.markdown import inert

CARD_FILE = "README.md"  # the name that model hubs expect
ATTRIBUTION = "ATTRIBUTION.md"
TRAINING = "training.json"  # counts of training images, read by mode.start
SWEET_HOME = (".sh3f", ".jar")  # libraries in the public domain or under CC-BY 3.0; of others the licence is not known
HEADING = "\n## Held-out evidence\n"
EVIDENCE = f"""{HEADING}
By `python launch.py mode=evaluate_prior`. "Nearest" is by oriented gradients and coarse CIELAB colours, neither of them
learned; "real renders" are held-out renders in place of samples.

"""
BEGUN = """ Training began
  from other weights; their models follow in `ATTRIBUTION.md`."""
CARD = """\
---
license: {license}
library_name: diffusers
pipeline_tag: text-to-image
---
# The pocket prior

A text-to-image diffusion model of everyday objects seen from all sides, 64x64 or 128x128 pixels, {parameters:.1f} M
parameters. The default prior of dreamfusion (`guidance=pocket`), made for distillation; too small to be an image
generator.

- **Training**: `python launch.py mode=pretrain`, {images:,} images, and {proxy_images:,} for the
  feature volume alone{hours}.
- **Data**: {models} models under {names} names from {origin}, rendered from {views} sides each,
  plain, under a point light, or white under it; some recoloured in one of twelve colours; on white and grey
  backgrounds. `vocabulary.txt` lists the names, `lengths.json` the models' sizes, `ATTRIBUTION.md` every model with
  its author and licence.{begun}
- **Network**: diffusers' `UNet2DConditionModel` on pixel-unshuffled images, cosine schedule, predicts the clean image.
  Conditioned on text (token states and sentence vector), camera (azimuth, elevation, distance), background grey level
  and kind of light. A feature volume (`sketch/`) renders a proxy image: each model has a learned code, a linear
  classifier maps the text to a model, its code is decoded to {voxels}^3 features, and albedo, opacity and normals are
  predicted from the features composited along camera rays. The UNet predicts the difference from that image.
- **Text encoder**: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), converted to fp16, from the weights with
  sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db.

Mean squared error of the predicted clean image (pixels in [-1, 1]) on held-out views of 64x64 by timestep of 1000,
with the model that each view shows given to the feature volume:

{losses}

`samples.png`: {prompts}; each from the front, the right, the back and the left.

**Limits.** It was trained on these objects alone: no styles, no poses, no materials but their colours. Up to four
objects of a prompt are placed in one scene by rule, not by learning. `guidance.variant` selects among several models of
one name. Rare names have lower quality.
"""


def write_card(
    folder: Path,
    seen: Mapping[str, float],
    losses: Mapping[int, float],
    *,
    subjects: Sequence[Subject],
    names: Sequence[str],
    views: int,
    parameters: int,
    voxels: int,
    prompts: Sequence[str],
    start: str = "",
) -> None:
    """Write README.md, ATTRIBUTION.md, vocabulary.txt, lengths.json and training.json into a folder of weights.

    `seen` counts training `images` of the whole network, `proxy_images` of the feature volume alone, and, if known,
    `hours`; `losses` are by timestep, for 64 pixels a side, `voxels` those of the feature volume a side; `names` are
    those under which the `subjects` are learned, `prompts` of the sheet; `start` is the ATTRIBUTION.md of the weights
    that the training began from, whose models are credited as well.
    """
    vocabulary = sorted({*names, *(s.name for s in subjects)})
    table = "| timestep | error |\n|--:|--:|\n" + "\n".join(f"| {t} | {loss:.4f} |" for t, loss in losses.items())
    own = sorted({subject.source for subject in subjects})
    credits = attribution(subjects)
    if inherited := not {*start.splitlines()} <= {*credits.splitlines()}:  # else of the same models
        credits += f"\nThe training began from other weights, with this list:\n\n{start}"
    public, all_public = (all(source.endswith(SWEET_HOME) for source in part) for part in (own, sources(credits)))
    card = CARD.format(
        license="cc-by-3.0" if all_public else "other",
        origin="the libraries of Sweet Home 3D" if public else f"{', '.join(map(inert, own))} (ATTRIBUTION.md)",
        parameters=parameters / 1e6,
        voxels=voxels,
        images=seen["images"],
        proxy_images=seen["proxy_images"],
        hours=f", in {seen['hours']:.1f} hours" if "hours" in seen else "",
        models=len(subjects),
        names=len(set(names)),
        begun=BEGUN if inherited else "",
        views=views,
        losses=table,
        prompts=", ".join(prompts),
    )
    for name, text in (
        (CARD_FILE, card),
        (ATTRIBUTION, credits),
        ("vocabulary.txt", "\n".join(vocabulary) + "\n"),
        (LENGTHS, json.dumps(lengths(subjects), indent=0, allow_nan=False) + "\n"),
        (TRAINING, json.dumps(dict(seen), allow_nan=False) + "\n"),
    ):
        with replacing(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")


def sources(credits: str) -> list[str]:
    """The libraries in a text of `attribution`."""
    return [line.removeprefix("## ") for line in credits.splitlines() if line.startswith("## ")]


def credited(start: Path | None) -> str:
    """The ATTRIBUTION.md of a folder of weights; empty if there is none."""
    file = start and start / ATTRIBUTION
    return file.read_text(encoding="utf-8") if file and file.is_file() else ""


def lengths(subjects: Sequence[Subject]) -> dict[str, float]:
    """The content of LENGTHS."""
    return {subject.title: subject.length for subject in subjects if subject.title and subject.length > 0}


def add_evidence(folder: Path, table: str) -> None:
    """Append `table` under HEADING to the card in `folder`, replacing earlier evidence."""
    with replacing(folder / CARD_FILE) as draft:
        card = (folder / CARD_FILE).read_text(encoding="utf-8").partition(HEADING)[0]
        draft.write_text(f"{card.rstrip()}\n{EVIDENCE}{table}\n", encoding="utf-8")


def attribution(subjects: Sequence[Subject], title: str = "The 3D models that the pocket prior was trained on") -> str:
    """Authors of the models, by library and licence, in Markdown."""
    by_source: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for subject in subjects:
        by_source[subject.source, subject.license][subject.creator or "author not named"].append(subject.name)
    lines = [f"# {title}", ""]
    for (source, license_), creators in sorted(by_source.items()):
        lines += [f"## {inert(source)}", "", inert(license_) or "licence: see the library", ""]
        lines += [f"- {inert(creator)}: {inert(', '.join(sorted(made)))}" for creator, made in sorted(creators.items())]
        lines.append("")
    return "\n".join(lines)
