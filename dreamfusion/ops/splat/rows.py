"""LLVM intrinsics for `cpu.py`: steps of one Gaussian on a row of 16 pixels, each pixel in a lane of a vector.

Arrays are flat float32; offsets count elements, and there are no bounds checks. numba's cache does not detect changes
in this file: touch cpu.py after one.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.types import float32, int64, void

from dreamfusion.ops.intrinsics import element, emits, load, shuffled, store
from dreamfusion.ops.splat import MOST

LANES = 16
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)
SERIES = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)  # of the exponential
SQUARINGS = 4  # exp(p) = exp(p / 16)^16, to 2e-6 of its value for p > -log(255)
WEIGHT, ALPHA, ALONG = 0, LANES, 2 * LANES  # in `work`; the derivative of the loss by the weight
MOMENTS = 6  # sums by `chain`: of the derivative by the exponent times 1, x, y, x^2, x y, y^2


@emits(float32, None, int64, None, *[float32] * 6)
def cover(
    ctx: Any, b: Any, kinds: Any, through: Any, k: Any, work: Any, x: Any, q0: Any, q1: Any, q2: Any, o: Any, least: Any
) -> Any:
    """Alpha and weight of a Gaussian on the row through[k:k + 16], whose transmittance is updated.

    alpha = opacity exp(q0 + q1 x + q2 x^2), where the exponent is at least `least`. Returns the row's largest
    transmittance.
    """
    x = _places(b, x)
    place = element(ctx, b, kinds[0], through, k)
    passing = load(b, place, _FLOATS)
    power = _fused(b, _fused(b, _spread(b, q2), x, _spread(b, q1)), x, _spread(b, q0))
    least = _spread(b, least)
    drawn = b.fcmp_ordered(">=", power, least)
    part = b.fmul(b.select(drawn, power, least), _all(2.0**-SQUARINGS))
    value = _all(SERIES[0])
    for term in SERIES[1:]:
        value = _fused(b, value, part, _all(term))
    for _ in range(SQUARINGS):
        value = b.fmul(value, value)
    alpha = b.fmul(_spread(b, o), value)
    alpha = b.select(b.fcmp_ordered("<", alpha, _all(MOST)), alpha, _all(MOST))
    alpha = b.select(drawn, alpha, _all(0.0))
    weight = b.fmul(passing, alpha)
    passing = b.fsub(passing, weight)
    store(b, passing, place)
    _put(ctx, b, kinds[2], work, WEIGHT, weight)
    _put(ctx, b, kinds[2], work, ALPHA, alpha)
    return _folded(b, passing, lambda one, two: b.select(b.fcmp_ordered(">", one, two), one, two))


@emits(void, None, int64, None, int64)
def copy(ctx: Any, b: Any, kinds: Any, to: Any, k: Any, values: Any, p: Any) -> None:
    """to[k:k + 16] = values[p:p + 16]."""
    store(b, load(b, element(ctx, b, kinds[2], values, p), _FLOATS), element(ctx, b, kinds[0], to, k))


@emits(void, None, int64, None, int64, float32)
def add_scaled(ctx: Any, b: Any, kinds: Any, to: Any, k: Any, values: Any, p: Any, factor: Any) -> None:
    """to[k:k + 16] += factor * values[p:p + 16]."""
    place = element(ctx, b, kinds[0], to, k)
    given = load(b, element(ctx, b, kinds[2], values, p), _FLOATS)
    store(b, _fused(b, given, _spread(b, factor), load(b, place, _FLOATS)), place)


@emits(void, None, int64, None, int64, None, int64)
def add_product(ctx: Any, b: Any, kinds: Any, to: Any, k: Any, one: Any, p: Any, two: Any, q: Any) -> None:
    """to[k:k + 16] += one[p:p + 16] * two[q:q + 16]."""
    place = element(ctx, b, kinds[0], to, k)
    first, second = (load(b, element(ctx, b, kinds[i], x, at), _FLOATS) for i, x, at in ((2, one, p), (4, two, q)))
    store(b, _fused(b, first, second, load(b, place, _FLOATS)), place)


@emits(void, None, int64, None, float32, float32, None)
def chain(ctx: Any, b: Any, kinds: Any, behind: Any, k: Any, work: Any, x: Any, y: Any, sums: Any) -> None:
    """Take a Gaussian off what is `behind`, and add the derivative by its exponent to the moments sums[:6 * 16]."""
    x, y, place = _places(b, x), _spread(b, y), element(ctx, b, kinds[0], behind, k)
    weight, alpha, along = (
        load(b, element(ctx, b, kinds[2], work, ir.IntType(64)(at)), _FLOATS) for at in (WEIGHT, ALPHA, ALONG)
    )
    own = b.fmul(weight, along)
    rest = b.fsub(load(b, place, _FLOATS), own)
    store(b, rest, place)
    slope = b.fsub(own, b.fdiv(b.fmul(rest, alpha), b.fsub(_all(1.0), alpha)))
    slope = b.select(b.fcmp_ordered("<", alpha, _all(MOST)), slope, _all(0.0))
    across, down = b.fmul(slope, x), b.fmul(slope, y)
    for index, part in enumerate((slope, across, down, b.fmul(across, x), b.fmul(across, y), b.fmul(down, y))):
        at = element(ctx, b, kinds[5], sums, ir.IntType(64)(index * LANES))
        store(b, b.fadd(load(b, at, _FLOATS), part), at)


@emits(float32, None, int64)
def total(ctx: Any, b: Any, kinds: Any, values: Any, k: Any) -> Any:
    """Sum of values[k:k + 16], which become 0."""
    place = element(ctx, b, kinds[0], values, k)
    found = load(b, place, _FLOATS)
    store(b, _all(0.0), place)
    return _folded(b, found, b.fadd)


def _put(ctx: Any, b: Any, kind: Any, array: Any, at: int, value: Any) -> None:
    store(b, value, element(ctx, b, kind, array, ir.IntType(64)(at)))


def _folded(b: Any, vector: Any, fold: Callable[[Any, Any], Any]) -> Any:
    size = LANES
    while size > 1:
        size //= 2
        halves = (shuffled(b, vector, vector, list(range(first, first + size))) for first in (0, size))
        vector = fold(*halves)
    return b.extract_element(vector, ir.IntType(32)(0))


def _places(b: Any, first: Any) -> Any:
    return b.fadd(_spread(b, first), ir.Constant(_FLOATS, [float(lane) for lane in range(LANES)]))


def _spread(b: Any, value: Any) -> Any:
    first = b.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.IntType(32)(0))
    return shuffled(b, first, first, [0] * LANES)


def _all(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _fused(b: Any, one: Any, two: Any, three: Any) -> Any:
    """one * two + three, in one instruction where there is one."""
    return b.fadd(b.fmul(one, two, flags=("contract",)), three, flags=("contract",))
