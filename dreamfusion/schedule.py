"""Numbers that change over a run: piecewise linear in `progress`, the completed fraction in [0, 1].

The only schedule type of the project: guidance scale, timestep range, regulariser weights, lights, resolution.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Schedule:
    """Linear interpolation between (progress, value) points, constant before the first and after the last.

    Two points at the same progress are a jump, at which the later value applies.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a schedule needs at least one [progress, value] pair, got an empty list")
        places = [place for place, _ in self.points]
        outside = [place for place in places if not 0 <= place <= 1]
        if outside:
            raise ValueError(f"a schedule's progress lies in [0, 1], got {outside[0]}; write [[0, 1.0], [0.5, 2.0]]")
        if places != sorted(places):
            raise ValueError(f"a schedule's pairs are sorted by progress, got progress in the order {places}")

    @property
    def lowest(self) -> float:
        return min(value for _, value in self.points)

    @property
    def highest(self) -> float:
        return max(value for _, value in self.points)

    def __call__(self, progress: float) -> float:
        """Value at `progress`.

        Raises:
            ValueError: progress outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is {progress}, expected a number in [0, 1] (step / max_steps)")
        right = bisect_right(self.points, progress, key=lambda point: point[0])
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (start, before), (end, after) = self.points[right - 1], self.points[right]
        return before + (after - before) * (progress - start) / (end - start)


ScheduleLike: TypeAlias = float | Sequence[Sequence[float]] | Schedule


def schedule(value: ScheduleLike) -> Schedule:
    """Convert a number (constant), a list of [progress, value] pairs (plain or OmegaConf's) or a schedule.

    Raises:
        TypeError: neither a number nor a list of pairs of numbers.
        ValueError: an empty list, pairs out of order, a progress outside [0, 1].
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Schedule(tuple(_pair(pair) for pair in value))
    return Schedule(((0.0, _number(value)),))


def _pair(pair: object) -> tuple[float, float]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"a schedule is a number or a list of [progress, value] pairs, got the entry {pair!r}")
    return _number(pair[0]), _number(pair[1])


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a schedule is made of finite numbers, got {value!r}")
    return float(value)


def check_share(setting: str, value: ScheduleLike, example: float, positive: bool = False) -> None:
    """Raises: ValueError: the value of a setting is not 0 to 1, or with `positive` above 0 and up to 1."""
    found = schedule(value)
    if not 0 <= found.lowest <= found.highest <= 1 or (positive and found.lowest == 0):
        allowed = "above 0 and at most 1" if positive else "0 to 1"
        raise ValueError(f"{setting} is {value}; it must be {allowed}: type {setting}={example}")


def check_least(setting: str, value: float, least: float, example: float) -> None:
    """Raises: ValueError: the value of a setting is below `least`."""
    if not value >= least:
        raise ValueError(f"{setting} is {value}; it must be at least {least}: type {setting}={example}")
