"""Optimizer and learning rates (`conf/optimizer/`), by named parameter groups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from dreamfusion.error import UserError
from dreamfusion.schedule import Schedule, ScheduleLike, schedule


def plain(value: Any) -> Any:
    """A list or a dict of Hydra's as Python's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class Optimization:
    """Learning rates, numbers or schedules, which warm up linearly for `warmup_steps` and fall linearly to `end` times
    their value over the run."""

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        learning_rates: Mapping[str, ScheduleLike],
        end: float,
        warmup_steps: int,
    ) -> None:
        """`optimizer` is a partial torch optimizer that lacks only the parameters; `learning_rates` by group name.

        Raises:
            ValueError: a learning rate that is not above 0, or a negative `end`.
        """
        self.learning_rates = {name: schedule(rate) for name, rate in learning_rates.items()}
        for name, rate in self.learning_rates.items():
            if rate.lowest <= 0:
                raise ValueError(f"optimizer.learning_rates.{name} is {rate.lowest}; a learning rate must be above 0")
        if end < 0:
            raise ValueError(f"optimizer.end is {end}; this factor must be at least 0")
        self.optimizer, self.end, self.warmup_steps = optimizer, end, warmup_steps

    def __call__(
        self, parameters: Mapping[str, Sequence[nn.Parameter]], others: Sequence[dict[str, Any]], max_steps: int
    ) -> dict[str, Any]:
        """Lightning's optimizer configuration for named groups, and for `others` with learning rates of their own.

        Raises:
            UserError: no learning rate for a group.
        """
        for name in parameters:
            if name not in self.learning_rates:
                raise UserError(f"there is no learning rate for {name!r}; type +optimizer.learning_rates.{name}=0.01")
        trained = {name: list(group) for name, group in parameters.items() if group}
        groups = [
            {"name": name, "params": group, "lr": self.learning_rates[name](0.0)} for name, group in trained.items()
        ]
        # Hydra's lists would be in the optimizer's state, and no checkpoint with them could be read.
        given = {name: plain(value) for name, value in getattr(self.optimizer, "keywords", {}).items()}
        optimizer = self.optimizer([*groups, *others], **given)

        def factor_of(rate: Schedule) -> Callable[[int], float]:
            def factor(step: int) -> float:
                warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
                past = min(step / max(max_steps, 1), 1.0)
                return warm * (1 + (self.end - 1) * past) * (rate(past) / rate(0.0))

            return factor

        rates = [*(self.learning_rates[name] for name in trained), *[schedule(1.0)] * len(others)]
        factors = [factor_of(rate) for rate in rates]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
