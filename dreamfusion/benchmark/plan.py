"""Sizes and repetitions of `mode=benchmark`: the settings of `conf/benchmark/`."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreamfusion.error import UserError


@dataclass(frozen=True)
class Plan:
    """Sizes of the cases in `dreamfusion/benchmark/cases.py`.

    Raises:
        UserError: a size or number of rounds below 1, or an unknown value of `baselines`.
    """

    rounds: int  # measurements of each implementation; `baseline_rounds` where slow baselines take part
    baseline_rounds: int
    points: int  # positions of the encoding and field cases
    log2_tables: Sequence[int]
    step_sizes: Sequence[int]  # pixels a side of the compared step, at each table size
    scaling_points: Sequence[int]
    scaling_sizes: Sequence[int]  # pixels a side
    scaling_views: Sequence[int]
    threads: Sequence[int]
    dream_steps: int  # steps of the configured run, each of plain and lit
    baselines: str = "isolated"  # or "together": in our process, with its allocator and the fused Adam

    def __post_init__(self) -> None:
        if self.baselines not in ("isolated", "together"):
            raise UserError(f"benchmark.baselines is {self.baselines!r}; 'isolated' and 'together' are allowed")
        for name in set(self.__dataclass_fields__) - {"baselines"}:
            value = getattr(self, name)
            numbers = [value] if isinstance(value, int) else list(value)
            if any(not isinstance(number, int) or number < 1 for number in numbers):
                raise UserError(f"benchmark.{name} is {value}; whole numbers of at least 1 are allowed")
