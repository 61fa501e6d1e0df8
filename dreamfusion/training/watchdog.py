"""Recognise a run that cannot succeed while it trains, name the cause, and warn, stop or restart from a good state.

Every `every` steps the figures below are computed on the run's device and read in one transfer. They are plain
measurements, so that a figure that is not finite stays visible.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dreamfusion.error import UserError, check_positive
from dreamfusion.system import DreamFusion
from dreamfusion.training.health import WatchedPrior, largest_parameter, measure, watch
from dreamfusion.types import Cameras

log = logging.getLogger(__name__)
ANSWERS = "warn", "stop", "restart"

Figures = dict[str, float]


@dataclass(frozen=True)
class Symptom:
    """One way to fail: when it is present, and one sentence for the user."""

    present: Callable[[Figures, Mapping[str, float]], bool]  # (figures, limits)
    sentence: str  # with {figures} and the usual cause and remedy


# In the order of diagnosis: a later one often follows from an earlier one.
SYMPTOMS = {
    "prediction": Symptom(
        lambda f, limit: not f["prediction"] <= limit["prediction"],
        "the prior's prediction reaches {prediction:.3g} where noise of deviation 1 is expected; its network overflows "
        "or its weights are damaged: set guidance.dtype=float32, or other weights",
    ),
    "exploded": Symptom(
        # A healthy scene's largest parameter grows, too, in proportion to the steps: by 7 in 1,000 of a small one.
        lambda f, limit: not f["growth"] <= limit["parameter"],
        "the optimizer explodes: a parameter of the scene is {parameter:.3g}; the learning rate is too high: lower "
        "optimizer.learning_rates.table and optimizer.learning_rates.network",
    ),
    "not_finite": Symptom(
        lambda f, limit: not all(map(math.isfinite, f.values())),
        "the loss or its gradient is not finite; a weight overflows: lower distillation.guidance_scale and "
        "system.regularizer, or set trainer.precision=32-true",
    ),
    "guidance": Symptom(
        lambda f, limit: f["guidance"] > limit["guidance"],
        "guidance changes the predicted noise by up to {guidance:.3g} where noise of deviation 1 is expected: lower "
        "distillation.guidance_scale",
    ),
    "empty": Symptom(
        lambda f, limit: f["opacity"] < limit["empty"],
        "the scene is empty: the mean opacity of its renders is {opacity:.2g}; the pressure on opacity is too strong "
        "or the initial blob too weak: lower system.regularizer.opacity or raise field.blob_density",
    ),
    "full": Symptom(
        # An object may fill its ball too, such as `a soccer ball`; then the prior sees the object at the rim.
        lambda f, limit: f["rim_opacity"] > limit["full"] and f["rim_background"] > limit["background"],
        "the scene fills its ball with fog: the opacity at the rim is {rim_opacity:.2g} where the prior sees "
        "{rim_background:.2g} of background; raise system.regularizer.opacity or field.blob_density",
    ),
    "vanished": Symptom(
        lambda f, limit: min(f["gradient"], f["parameter_gradient"]) < limit["vanished"],
        "the gradient vanished: {gradient:.2g} at the image, {parameter_gradient:.2g} at the parameters; the prior "
        "returns its input, or no part of the scene is visible: check guidance.weights, distillation.weighting and "
        "camera.distance",
    ),
}


class Sick(UserError):
    """A run that the watchdog ended."""


class Watchdog(L.Callback):
    """Diagnoses the run every `every` steps and at its end; must run before `Metrics` and `Checkpoints`."""

    def __init__(
        self, answer: str, every: int, patience: int, limits: Mapping[str, float], restarts: int, factor: float
    ) -> None:
        """Check the settings; their defaults are in conf/watchdog/.

        Args:
            answer: to a symptom: "warn" once, "stop" with `Sick`, or "restart".
            every: steps between two checks.
            patience: consecutive checks with the same symptom before the answer; at the last step one is enough.
            limits: by name, see SYMPTOMS.
            restarts: at most this many; the next symptom stops the run.
            factor: of all learning rates after each restart.

        Raises:
            UserError: a setting is out of range.
        """
        check_positive("watchdog", every=every, patience=patience)
        if answer not in ANSWERS:
            raise UserError(f"watchdog.answer is {answer}; type watchdog={'|'.join(ANSWERS)}")
        if not 0 < factor < 1:
            raise UserError(f"watchdog.factor is {factor}; it must be above 0 and below 1")
        self.answer, self.every, self.patience, self.limits = answer, every, patience, dict(limits)
        self.restarts, self.factor = restarts, factor
        self.restarted = 0  # how often
        self._symptom: str | None = None  # of the last check
        self._count = 0  # consecutive checks with it
        self._good: dict[str, Any] = {}  # state of the last healthy check, for a restart
        self._prior: WatchedPrior | None = None
        self._norms = torch.zeros(2)  # sum of the gradient norms since the last check, and their number
        self._start: Tensor | None = None  # () largest parameter before the first step

    def state_dict(self) -> dict[str, Any]:
        kept = {"symptom": self._symptom, "count": self._count, "answer": self.answer, "patience": self.patience}
        return kept | {"restarted": self.restarted, "norms": self._norms.cpu(), "start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if all(state_dict.get(name) == getattr(self, name) for name in ("answer", "patience")):  # else it counts anew
            self._symptom, self._count = state_dict["symptom"], state_dict["count"]
        self._norms, self._start = state_dict["norms"], state_dict.get("start")
        self.restarted = state_dict.get("restarted", 0)

    @property
    def left(self) -> int:
        """Restarts that are left."""
        return self.restarts - self.restarted

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._prior = pl_module.distillation.prior = watch(pl_module.distillation.prior)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if self._prior is not None:
            pl_module.distillation.prior, self._prior = self._prior.watched, None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._norms = self._norms.to(pl_module.device)
        start = largest_parameter(pl_module) if self._start is None else self._start
        self._start = start.to(pl_module.device)
        self._remember(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Cameras, batch_idx: int
    ) -> None:
        norm = pl_module.last_guidance.gradient_norm.detach().mean()
        self._norms = self._norms + torch.stack([norm, torch.ones_like(norm)])  # not in place: a checkpoint has it
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        assert self._prior is not None and self._start is not None
        measured = measure(pl_module, self._prior, outputs["loss"], batch)
        measured["gradient"], self._norms = self._norms[0] / self._norms[1], torch.zeros_like(self._norms)
        measured["growth"] = (measured["parameter"] - self._start) / (1 + step / 1000)
        # Processes of a distributed run see different views; all must answer alike.
        values: Tensor = trainer.strategy.reduce(torch.stack(list(measured.values())), reduce_op="mean")
        figures = dict(zip(measured, values.tolist(), strict=True))  # the only synchronisation
        symptom = diagnose(figures, self.limits)
        self._count = self._count + 1 if symptom == self._symptom else 1
        self._symptom = symptom
        row = {f"watchdog/{name}": value for name, value in figures.items()}
        due = self._count == self.patience or (step == trainer.max_steps and self._count < self.patience)
        if symptom is None:
            self._remember(trainer, pl_module)
        elif due:
            row[f"watchdog/{symptom}"] = 1.0
        for logger in trainer.loggers:
            if step % trainer.log_every_n_steps == 0 or (symptom and due):  # type: ignore[attr-defined]
                logger.log_metrics(row, step - 1)
        if symptom is not None and due:
            sentence = SYMPTOMS[symptom].sentence.format(**figures)
            self._answer(trainer, pl_module, f"step {step} of {trainer.max_steps}: {sentence}")

    def _answer(self, trainer: L.Trainer, system: DreamFusion, sentence: str) -> None:
        """Raises: Sick: the run is to stop, or has no restart left."""
        if self.answer == "warn":
            log.warning("%s", sentence)
        elif self.answer == "stop" or self.left < 1 or trainer.global_step == trainer.max_steps:
            raise Sick(f"{sentence}; to train on regardless, type watchdog=warn")
        else:
            self._restart(trainer, system)
            self._symptom, self._count = None, 0
            self.restarted += 1
            log.warning(
                "%s. The scene of step %d is restored, with %g times the learning rates; restarts left: %d",
                *(sentence, self._good["step"], self.factor, self.left),
            )

    def _remember(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Keep a copy of the state, on its device, if it may be needed."""
        if self.answer == "restart" and self.left > 0:
            states = {"system": system.state_dict(), "optimizers": [one.state_dict() for one in trainer.optimizers]}
            self._good = copy.deepcopy(states) | {"step": trainer.global_step}

    def _restart(self, trainer: L.Trainer, system: DreamFusion) -> None:
        """Load the kept state with smaller learning rates; the count of steps and the schedules go on."""
        system.load_state_dict(self._good["system"])
        for optimizer, state in zip(trainer.optimizers, self._good["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))  # it trains on with the tensors that it is given
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            rates = [rate * self.factor for rate in scheduler.get_last_lr()]
            scheduler.base_lrs = [rate * self.factor for rate in scheduler.base_lrs]
            scheduler._last_lr = rates
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"], group["initial_lr"] = rate, group["initial_lr"] * self.factor


def diagnose(figures: Figures, limits: Mapping[str, float]) -> str | None:
    """The name of the first symptom that is present; None for a healthy run."""
    return next((name for name, symptom in SYMPTOMS.items() if symptom.present(figures, limits)), None)
