"""How much `mode=benchmark` measures: the settings of `conf/benchmark/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamfusion.error import UserError


@dataclass(frozen=True)
class Plan:
    """Sizes are those of `dreamfusion/benchmark/cases.py`.

    Raises:
        UserError: a size, or a number of rounds, that nothing can be measured with.
    """

    rounds: int  # measurements of each implementation; the slow baselines are measured `baseline_rounds` times
    baseline_rounds: int
    points: int  # of the encoding
    log2_tables: Sequence[int]
    step_sizes: Sequence[int]  # pixels a side of the step that the baselines run, at each table size
    scaling_points: Sequence[int]
    scaling_sizes: Sequence[int]  # pixels a side
    scaling_views: Sequence[int]
    threads: Sequence[int]
    dream_steps: int  # of the default run, each of albedo and lit
    baselines: str = (
        "isolated"  # the others' formulations: in a process as it comes, or "together" with ours, set up likewise
    )

    def __post_init__(self) -> None:
        if self.baselines not in ("isolated", "together"):
            raise UserError(f"benchmark.baselines is {self.baselines!r}; 'isolated' and 'together' are allowed")
        for name in set(self.__dataclass_fields__) - {"baselines"}:
            value = getattr(self, name)
            numbers = [value] if isinstance(value, int) else list(value)
            if any(not isinstance(number, int) or number < 1 for number in numbers):
                raise UserError(f"benchmark.{name} is {value}; whole numbers of at least 1 are allowed")
