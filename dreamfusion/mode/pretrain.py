"""`mode=pretrain` and `mode=finetune`: train the pocket prior on renders of a model library.

It resumes from the last checkpoint if there is one.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dreamfusion.error import typed

log = logging.getLogger(__name__)
SHIPPED = "shipped"  # start: the weights of the package


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
    appearance: Any,
    emphasis: dict[str, float] | None,
    cameras_each: int,
    fine: Any,
    module: Any,
) -> None:
    """Render the libraries if `renders` does not exist, then train until `max_steps` or `max_hours`.

    With `fine.every`, images of twice the size are mixed in, and the renders have that size. `start` is a folder of
    weights, or SHIPPED.
    """
    import torch
    from torch.utils.data import DataLoader

    from dreamfusion.checkpoint_file import newest_readable
    from dreamfusion.paths import LAST
    from dreamfusion.pocket import WEIGHTS
    from dreamfusion.pocket.data.batches import MixedBatches, RenderBatches
    from dreamfusion.pocket.data.names import read_names
    from dreamfusion.pocket.model.denoiser import SIZES
    from dreamfusion.pocket.model.words import with_article
    from dreamfusion.pocket.training.assemble import build_trainer, load_or_render, prepare
    from dreamfusion.pocket.training.averaging import AveragedCheckpoints
    from dreamfusion.runs.lock import locked
    from dreamfusion.training.assemble import user_errors

    target = Path(folder)
    with user_errors():
        learned = None if names is None else read_names(Path(names))
        batches = partial(
            RenderBatches,
            seed=cfg.seed,
            names=learned,
            appearance=appearance,
            emphasis=dict(emphasis or {}),
            cameras_each=cameras_each,
        )
        small, large = SIZES
        rendered = load_or_render(libraries, Path(renders), views, small if fine.every is None else large, learned)
        data = batches(rendered, batch_size, size=small)
        drawn: RenderBatches | MixedBatches = data
        held_out = [data.validation(validation_size)]
        if fine.every is not None:
            close = batches(rendered, fine.batch_size, size=large)
            held_out.append(close.validation(fine.validation_size))
        log.info("%d models under %d names", len(data.models), len(data.names))
        torch.manual_seed(cfg.seed)  # for the initial weights
        training = module(subjects=data.subjects)
    with locked(target):
        with user_errors():
            resume = newest_readable(target / "checkpoints")
            begun = None if start is None else WEIGHTS if start == SHIPPED else Path(start)
            prepare(training, data, target, resume, begun)
            if fine.every is not None:
                drawn = MixedBatches(data, close, fine.every, training.coarse_steps)
                _warn_without_fine_images(training, max_steps)
            last = target / "checkpoints" / LAST
            averaging = AveragedCheckpoints(ema_decay, training.warmup_steps, last, checkpoint_minutes)
            trainer = build_trainer(
                target, averaging, data.start_step, validation_every, max_steps, max_hours, precision
            )
        drawn.to(trainer.strategy.root_device)
        trainer.fit(
            training,
            DataLoader(drawn, batch_size=None),
            DataLoader(held_out, batch_size=None),  # type: ignore[arg-type]
            ckpt_path=None if resume is None else str(resume),
            weights_only=True,
        )
    weights = target / "weights"
    words = typed("prompt", with_article(data.names[0])), typed("guidance.weights", weights)
    log.info("the weights are in %s; type %s", weights, " ".join(words))


def _warn_without_fine_images(training: Any, max_steps: int) -> None:
    if max_steps <= training.coarse_steps:
        log.warning(
            "all mode.max_steps=%d steps are of images of the smaller size; lower mode.module.coarse_steps=%d for both",
            max_steps, training.coarse_steps,
        )  # fmt: skip
