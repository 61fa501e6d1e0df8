"""Build a training of the pocket prior from its settings (`mode=pretrain`): renders, start weights, trainer."""

import json
import logging
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from dreamfusion.error import UserError
from dreamfusion.guidance.pretrained import refused
from dreamfusion.ops.memory import chosen_device
from dreamfusion.ops.precision import native_bfloat16
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.names import subject_names
from dreamfusion.pocket.data.renders import RenderSet, render_libraries, wanted_items
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.training.averaging import AveragedCheckpoints
from dreamfusion.pocket.training.card import TRAINING, credited, write_card
from dreamfusion.pocket.training.first_codes import fit_codes
from dreamfusion.pocket.training.naming import fit_names
from dreamfusion.pocket.training.pretraining import PocketPretraining, Seen, Start, current_keys
from dreamfusion.ranks import cluster

CODES = "feature_volume.codes"  # (M, ...): one row per model
DECODER = "feature_volume.volume."
log = logging.getLogger(__name__)


def load_or_render(
    libraries: Sequence[str], folder: Path, views: int, resolution: int, names: dict[str, str] | None
) -> RenderSet:
    """The render set in `folder`, rendered from the model libraries if the folder does not exist.

    Only models with one of `names` are rendered. Those that a library has and an earlier folder lacks are named.

    Raises:
        UserError: a library or the folder's renders cannot be read, or these have another size.
    """
    try:
        paths, earlier = [Path(p) for p in libraries], folder.exists()
        if not earlier:
            render_libraries(paths, folder, views, resolution, names=names)
        renders = RenderSet.load(folder)
        if earlier:
            with suppress(ValueError, OSError):  # libraries that are gone or broken are not needed any more
                _warn_of_new_models(renders, paths, folder, names)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if renders.resolution not in (resolution, 2 * resolution):
        raise UserError(
            f"the renders in {folder} have {renders.resolution} pixels a side, expected {resolution} or twice as many; "
            "name another folder"
        )
    return renders


def _warn_of_new_models(renders: RenderSet, paths: Sequence[Path], folder: Path, names: dict[str, str] | None) -> None:
    items = wanted_items(paths, names)
    shown = {*subject_names(renders.items)}
    if missing := [item.title for item in items if item.title not in shown]:
        log.warning(
            "the renders in %s lack %d of %d models of the libraries, such as %s; remove the folder to render again, "
            "unless they could not be rendered",
            folder, len(missing), len(items), missing[0],
        )  # fmt: skip


def prepare(
    module: PocketPretraining, data: RenderBatches, folder: Path, checkpoint: Path | None, start: Path | None
) -> None:
    """Attach the text encoder and the model card to `module`, which resumes from `checkpoint` if there is one.

    Without a checkpoint, load the weights in `start`, and fit the codes and the name classifier unless they have them;
    with one, set `data.start_step`, and `module.start` as it was then.

    Raises:
        UserError: the checkpoint is that of another training, or begun from other weights.
    """
    encoder = TextEncoder.load(WEIGHTS / "text_encoder")
    own = "" if start is None else "the package's weights" if start == WEIGHTS else start.absolute().as_posix()
    if checkpoint is not None:
        data.start_step, stored = resumed_at(checkpoint, list(data.subjects), module.muon)
        if own and stored and stored.folder not in (own, None):
            before = stored.folder or "random weights"
            raise UserError(
                f"mode.start={start}, but the training in {folder} began from {before}; name another mode.folder, or "
                "type mode.start=null to resume it"
            )
        module.start = stored or Start(credited(start), decoder=True)
        log.info("resuming at step %d", data.start_step)
    else:
        volume, begun = module.model.feature_volume, Begun(module.seen)
        module.start = Start(folder=own)
        if start is not None:
            begun = begin_from(module.model, start)
            module.seen, module.start = begun.seen, Start(credited(start), begun.decoder, own)
        if not begun.codes:
            begin_codes(volume.codes, data, chosen_device("auto"))
        if not begun.names:
            outputs = {noun: volume.vocabulary.index(name) for noun, name in data.learned_names().items()}
            correct = fit_names(volume.classify, encoder, outputs)
            log.info("the name classifier is correct on %.2f %% of all captions", 100 * correct)

    describe = partial(
        write_card,
        subjects=[data.renders.items[i] for i in data.models],
        names=[data.names_by_model[i] for i in data.models],
        views=data.renders.views,
        parameters=sum(p.numel() for p in module.parameters()),
        voxels=module.model.feature_volume.voxels,
        prompts=module.sheet_prompts,
        start=module.start.credits,
    )
    module.attach(encoder, folder, describe)


class SessionTimer(Timer):
    """Lightning's timer of a session; the sessions before it do not count."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def build_trainer(
    folder: Path,
    averaging: AveragedCheckpoints,
    start_step: int,
    validation_every: int,
    max_steps: int,
    max_hours: float | None,
    precision: str,
) -> L.Trainer:
    """A trainer that logs to `folder`/metrics and writes checkpoints by `averaging` alone."""
    timers = [] if max_hours is None else [SessionTimer(timedelta(hours=max_hours))]
    if precision == "auto":
        precision = "bf16-mixed" if native_bfloat16() else "32-true"
    return L.Trainer(
        accelerator=chosen_device("auto").type,  # Lightning's "auto" would take an Apple GPU
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_steps=max_steps,
        gradient_clip_val=1.0,
        val_check_interval=validation_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        logger=CSVLogger(folder, name="metrics", version=f"from_step_{start_step}"),
        callbacks=[averaging, TQDMProgressBar(refresh_rate=10), *timers],  # a refresh waits for the device
        enable_checkpointing=False,
        **cluster({"devices": 1}),
    )


def resumed_at(checkpoint: Path, subjects: Sequence[str], muon: bool) -> tuple[int, Start | None]:
    """Step and start weights of the training of these models, from its checkpoint; None: older code, which stored none.

    Raises:
        UserError: the file contains anything but data, is broken, or is of other models or another optimizer.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, known = int(content["global_step"]), content.get("subjects", subjects)  # older ones do not say
        start = Start(**content["start"]) if "start" in content else None
        used = any(group.get("muon") for group in content["optimizer_states"][0]["param_groups"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint} cannot be read as a checkpoint ({type(error).__name__}); move it away to begin again"
        ) from error
    if known != subjects:
        changed = sorted({*known} ^ {*subjects}) or ["their order"]
        raise UserError(
            f"{checkpoint} is of other models than the renders ({len(known)} and {len(subjects)}; {changed[0]} "
            "differs); name another mode.folder to begin again, or the renders of that training"
        )
    if used != muon:
        raise UserError(
            f"{checkpoint} was trained with mode.module.muon={str(used).lower()}: type that to resume it, or name "
            "another mode.folder to begin again"
        )
    return step, start


@dataclass(frozen=True)
class Begun:
    """What a new network took from start weights; nothing by default but the counts of images."""

    seen: Seen
    codes: bool = False  # codes of the size and width of its own
    decoder: bool = False  # any layer of the decoder of volumes
    names: bool = False  # a name classifier of the same names


@torch.no_grad()
def begin_codes(codes: Tensor, data: RenderBatches, device: torch.device | str = "cpu") -> None:
    """Set the channels of `codes` (M, C, n, n, n) to those of `fit_codes`, as many as both have."""
    log.info("fitting the first codes of %d models", len(codes))
    with torch.enable_grad():
        fitted = fit_codes(data, codes.shape[-1], device)
    codes[:, : fitted.shape[1]] = fitted[:, : codes.shape[1]]


def begin_from(model: PocketModel, folder: Path) -> Begun:
    """Copy the weights in `folder` whose shapes fit into `model`, codes by the name of their model.

    Parts that do not fit keep their random values. The counts are those of training.json.

    Raises:
        GuidanceError: the folder holds no weights.
        UserError: none of them fit.
    """
    file = folder / TRAINING
    with refused(f"mode.start={folder} holds no weights to begin from"):
        start = PocketModel.load(folder)
        seen: Seen = current_keys(json.loads(file.read_text())) if file.is_file() else {"images": 0, "proxy_images": 0}
    trained, own = start.state_dict(), model.state_dict()
    if start.feature_volume is not None:
        if own[CODES].shape[1:] != trained[CODES].shape[1:]:
            del trained[CODES]
        else:
            trained[CODES] = _matching_codes(start, model, trained[CODES], own[CODES])
    fitting = {key: value for key, value in trained.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"mode.start={folder} fits no part of mode.module.unet and mode.module.proxy_widths")
    model.load_state_dict(fitting, strict=False)
    left = sorted({key.split(".")[0] for key in own.keys() - fitting.keys()})
    log.info("beginning from %s; randomly initialised: parts of %s", folder, ", ".join(left) or "none")
    other = start.feature_volume
    return Begun(
        seen if "feature_volume" not in left else {**seen, "proxy_images": 0},
        codes=CODES in fitting,
        decoder=any(key.startswith(DECODER) for key in fitting),
        names=other is not None and other.vocabulary == model.feature_volume.vocabulary,
    )


def _matching_codes(start: PocketModel, model: PocketModel, trained: Tensor, own: Tensor) -> Tensor:
    """The codes `own` of `model`, replaced by the `trained` ones for the models that `start` knows by name, too.

    Those of new models begin around the mean of `start`, which its decoder turns into a shape that is easily changed.
    """
    known = {name: row for row, name in enumerate(start.feature_volume.config.subjects)}
    wanted = model.feature_volume.config.subjects
    rows = {row: known[name] for row, name in enumerate(wanted) if name in known}
    codes = own + trained.mean(dim=0)
    codes[list(rows)] = trained[list(rows.values())]
    log.info("%d of %d models have a trained code", len(rows), len(wanted))
    return codes
