"""`mode=pretrain`: renders of a model library -> the pocket prior's weights. Resumes by itself."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.ops.precision import native_bfloat16
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.pocket.training.card import TRAINING

if TYPE_CHECKING:
    from dreamfusion.pocket.training.pretraining import Seen

CODES = "sketch.codes"  # a row for each model
log = logging.getLogger(__name__)


def run(
    cfg: DictConfig,
    libraries: Sequence[str],
    renders: str,
    views: int,
    folder: str,
    start: str | None,
    names: str | None,
    batch_size: int,
    validation_size: int,
    validation_every: int,
    checkpoint_minutes: float,
    max_steps: int,
    max_hours: float | None,
    ema_decay: float,
    precision: str,
    look: Any,
    emphasis: dict[str, float] | None,
    cameras_each: int,
    module: Any,
) -> None:
    """Render the libraries if that was not done yet, then train until `max_steps` or `max_hours`."""
    import lightning as L
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader

    from dreamfusion.pocket import WEIGHTS
    from dreamfusion.pocket.data.batches import RenderBatches
    from dreamfusion.pocket.data.renders import RenderSet, render_libraries
    from dreamfusion.pocket.model.text import TextEncoder
    from dreamfusion.pocket.training.averaging import AveragedCheckpoints
    from dreamfusion.pocket.training.card import write_card
    from dreamfusion.pocket.training.naming import fit_names

    if not Path(renders).exists():
        try:
            render_libraries([Path(p) for p in libraries], Path(renders), views=views)
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from error
    wanted = None if names is None else read_names(Path(names))
    data = RenderBatches(
        RenderSet.load(Path(renders)),
        batch_size,
        cfg.seed,
        wanted,
        look=look,
        emphasis=dict(emphasis or {}),
        cameras_each=cameras_each,
    )
    log.info("%d models under %d names", len(data.models), len(data.names))
    module = module(subjects=data.subjects)
    target = Path(folder)
    checkpoint = target / "checkpoints" / "last.ckpt"
    if start is not None and not checkpoint.is_file():
        module.seen = begin_from(module.model, Path(start))

    def describe(folder: Path, seen: Seen, losses: dict[int, float]) -> None:
        write_card(
            folder,
            seen,
            losses,
            subjects=[data.renders.items[i] for i in data.models],
            called=[data.called[i] for i in data.models],
            views=data.renders.views,
            parameters=sum(p.numel() for p in module.parameters()),
            prompts=module.sheet_prompts,
        )

    encoder = TextEncoder.load(WEIGHTS / "text_encoder")
    if not checkpoint.is_file():
        drawer = module.model.drawer
        right = fit_names(drawer.classify, encoder, {n: drawer.names.index(c) for n, c in data.spoken().items()})
        log.info("%.2f %% of all captions name the right thing", 100 * right)
    module.attach(encoder, target, describe)
    if checkpoint.is_file():
        data.start_step = step_of(checkpoint)
        log.info("resuming at step %d", data.start_step)
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        precision=_precision(precision),
        max_steps=max_steps,
        max_time=None if max_hours is None else timedelta(hours=max_hours),
        val_check_interval=validation_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        logger=CSVLogger(target, name="metrics", version=f"from_step_{data.start_step}"),
        callbacks=[AveragedCheckpoints(ema_decay, module.warmup_steps, checkpoint, checkpoint_minutes)],
        enable_checkpointing=False,
        enable_progress_bar=True,
    )
    training = DataLoader(data, batch_size=None)
    held_out: Any = DataLoader([data.validation(validation_size)], batch_size=None)  # type: ignore[arg-type]
    resume = str(checkpoint) if checkpoint.is_file() else None
    trainer.fit(module, training, held_out, ckpt_path=resume, weights_only=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint of this training was written after.

    Raises:
        UserError: it holds something other than data, or is broken.
    """
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint} cannot be read as a checkpoint ({type(error).__name__}); move it away to begin again"
        ) from error


def read_names(path: Path) -> dict[str, str]:
    """Lines `name` or `name = library name, library name 3` -> {library name: name it is learned under}, in order."""
    called = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, own = line.partition("=")
        if name.strip() and not line.startswith("#"):
            called.update({library.strip(): name.strip() for library in (own or name).split(",")})
    return called


def begin_from(model: PocketModel, folder: Path) -> Seen:
    """Take over the parts of a folder of weights that fit, the models' codes by name; the others start at random.

    Returns what the weights taken over have `seen`, as their training.json says.
    """
    try:
        start = PocketModel.load(folder)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        raise UserError(f"mode.start={folder} holds no weights to begin from: {error}") from error
    trained, own = start.state_dict(), model.state_dict()
    if start.sketch is not None:
        known = {name: row for row, name in enumerate(start.sketch.config.subjects)}
        wanted = model.drawer.config.subjects
        rows = [(row, known[name]) for row, name in enumerate(wanted) if name in known]
        codes = own[CODES].clone()
        for row, source in rows:
            codes[row] = trained[CODES][source]
        trained[CODES] = codes
        log.info("%d of %d models have a code already", len(rows), len(wanted))
    fitting = {key: value for key, value in trained.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"mode.start={folder} fits no part of mode.module.unet and mode.module.sketch")
    model.load_state_dict(fitting, strict=False)
    left = sorted({key.split(".")[0] for key in own.keys() - fitting.keys()})
    log.info("beginning from %s; new are parts of: %s", folder, ", ".join(left) or "none")
    told = folder / TRAINING
    seen: Seen = json.loads(told.read_text()) if told.is_file() else {"images": 0, "sketch_images": 0}
    return seen if "sketch" not in left else {**seen, "sketch_images": 0}


def _precision(choice: str) -> Any:
    if choice != "auto":
        return choice
    return "bf16-mixed" if native_bfloat16() else "32-true"
