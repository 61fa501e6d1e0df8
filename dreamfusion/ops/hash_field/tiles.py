"""LLVM intrinsics for sums in vector registers and bfloat16 dot products (AVX512-BF16), which numba cannot express.

For `network_bfloat16.py`. A tile is a tuple of rows, a row a tuple of vectors of 16 float32. Two bfloat16 share a word,
an element of a uint32 array: one instruction multiplies 16 words by 16 others and adds both products of each pair of
words to a float32. Arrays are flat; offsets (k, p) and strides count elements, and there are no bounds checks. numba's
cache does not detect changes in this file: touch network_bfloat16.py after one.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from numba.types import Type, UniTuple, int64, void

from dreamfusion.ops.intrinsics import element, emits, load, shuffled, store

LANES = 16
_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_WORDS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_FLOAT, LANES)
_HALVES = ir.VectorType(ir.IntType(16), 2 * LANES)
# Interleaving of two vectors of 32 lanes: the first and the second half of the result.
_BY_TURNS = [[first + lane // 2 + 2 * LANES * (lane % 2) for lane in range(2 * LANES)] for first in (0, LANES)]
_PAIRED = [lane // 2 + LANES * (lane % 2) for lane in range(2 * LANES)]  # interleaving of the halves of one vector
_ROWS_FIRST = [position * 16 + half * 8 + row for row in range(8) for half in range(2) for position in range(2)]


class _Vector(Type):
    """16 words, or 16 float32."""


_VECTOR = _Vector(name="dreamfusion.ops.hash_field.tiles.vector")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


@intrinsic(prefer_literal=True)
def zeros(context: Any, rows: Any, vectors: Any) -> Any:
    """A tile of `rows` x `vectors` zero vectors; both must be literals."""
    tile = UniTuple(UniTuple(_VECTOR, vectors.literal_value), rows.literal_value)

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        row = ctx.make_tuple(builder, tile.dtype, [ir.Constant(_FLOATS, None)] * tile.dtype.count)
        return ctx.make_tuple(builder, tile, [row] * tile.count)

    return tile(rows, vectors), generate


@emits(None, None, None, int64, int64, None, int64)
def add_products(
    ctx: Any, builder: Any, kinds: Any, tile: Any, weights: Any, k: Any, stride: Any, x: Any, p: Any
) -> Any:
    """Add to lane j of row i of the tile both products of the words weights[k + i stride] and x[p + j]."""
    shape = kinds[0]
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _WORDS])
    multiply = builder.module.declare_intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", [], kind)
    place = element(ctx, builder, kinds[4], x, p)
    words = [load(builder, _along(builder, place, LANES * j), _WORDS) for j in range(shape.dtype.count)]
    rows = []
    for i in range(shape.count):
        word = builder.load(element(ctx, builder, kinds[1], weights, _step(builder, k, stride, i)))
        first = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, _I32(0))
        weight = shuffled(builder, first, first, [0] * LANES)
        sums = [builder.extract_value(tile, [i, j]) for j in range(shape.dtype.count)]
        sums = [builder.call(multiply, [total, weight, word]) for total, word in zip(sums, words, strict=True)]
        rows.append(ctx.make_tuple(builder, shape.dtype, sums))
    return ctx.make_tuple(builder, shape, rows)


def _storing(value: Callable[[Any, Any, Any], Any], doc: str) -> Any:
    def put_each(ctx: Any, builder: Any, kinds: Any, tile: Any, out: Any, k: Any, stride: Any) -> None:
        for i in range(kinds[0].count):
            row = element(ctx, builder, kinds[1], out, _step(builder, k, stride, i))
            for j in range(kinds[0].dtype.count):
                place = _along(builder, row, LANES * j)
                store(builder, value(builder, builder.extract_value(tile, [i, j]), place), place)

    put_each.__doc__ = doc
    return emits(void, None, None, int64, int64)(put_each)


def _rectified(builder: Any, vector: Any, place: Any) -> Any:
    zero = ir.Constant(_FLOATS, None)
    return builder.select(builder.fcmp_ordered("<", vector, zero), zero, vector)  # NaN propagates


put = _storing(lambda builder, vector, place: vector, "out[k + i stride + j] = lane j of row i of the tile.")
put_rectified = _storing(_rectified, "`put`, with negative values replaced by 0.")
add_to = _storing(lambda builder, vector, place: builder.fadd(vector, load(builder, place, _FLOATS)), "`put`, but +=.")


@emits(void, None, int64, None, int64)
def pack(ctx: Any, builder: Any, kinds: Any, x: Any, k: Any, out: Any, p: Any) -> None:
    """Write the 16 words out[p + i] = (x[k + 2 i], x[k + 2 i + 1])."""
    place = element(ctx, builder, kinds[0], x, k)
    words = _halves(builder, place, _along(builder, place, LANES))
    store(builder, builder.bitcast(words, _WORDS), element(ctx, builder, kinds[2], out, p))


@emits(void, None, int64, int64, None, int64)
def pack_rows(ctx: Any, builder: Any, kinds: Any, x: Any, k: Any, stride: Any, out: Any, p: Any) -> None:
    """Write the 16 words out[p + i] = (x[k + i], x[k + stride + i])."""
    places = (element(ctx, builder, kinds[0], x, _step(builder, k, stride, row)) for row in range(2))
    both = _halves(builder, *places)
    mixed = shuffled(builder, both, both, _PAIRED)
    store(builder, builder.bitcast(mixed, _WORDS), element(ctx, builder, kinds[3], out, p))


@emits(void, None, int64, int64, None, int64, int64)
def transpose(
    ctx: Any, builder: Any, kinds: Any, x: Any, k: Any, stride: Any, out: Any, p: Any, out_stride: Any
) -> None:
    """Transpose 8 rows of 32 words (a position, two features) to 16 rows of 16 words (a feature, two positions).

    out[p + i out_stride + 2 j + h] is half h of x[k + j stride + 2 i] and of x[k + j stride + 2 i + 1].
    """
    vectors = []
    for j in range(LANES // 2):
        place = element(ctx, builder, kinds[0], x, _step(builder, k, stride, j))
        vectors += [load(builder, _along(builder, place, LANES * second), _HALVES) for second in range(2)]
    # The index bits of a half are: vector = row 2 1 0, position 4; lane = position 3 2 1 0, half. Interleaving two
    # vectors moves the first bit of each index to the end of the other. After three rounds:
    # vector = position 4 3 2 1; lane = position 0, half, row 2 1 0.
    for _ in range(3):
        pairs = zip(vectors[:8], vectors[8:], strict=True)
        vectors = [shuffled(builder, *two, lanes) for two in pairs for lanes in _BY_TURNS]
    for i, vector in enumerate(vectors):
        words = builder.bitcast(shuffled(builder, vector, vector, _ROWS_FIRST), _WORDS)
        store(builder, words, element(ctx, builder, kinds[3], out, _step(builder, p, out_stride, i)))


def _along(builder: Any, place: Any, elements: int) -> Any:
    return builder.gep(place, [_I64(elements)])


def _step(builder: Any, k: Any, stride: Any, steps: int) -> Any:
    return builder.add(k, builder.mul(stride, _I64(steps)))


def _halves(builder: Any, first: Any, second: Any) -> Any:
    """Convert 16 float32 at each of two addresses to 32 bfloat16, rounded to nearest."""
    kind = ir.FunctionType(_HALVES, [_FLOATS, _FLOATS])
    convert = builder.module.declare_intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", [], kind)
    return builder.call(convert, [load(builder, second, _FLOATS), load(builder, first, _FLOATS)])
