"""LLVM intrinsics for pairs of neighbouring float32 (8-byte load, add and store), prefetch and atomics.

For `kernels.py`: the compiler alone loads the two features of an entry separately, at half the width.
numba's cache does not detect changes in this file: touch kernels.py after one.
"""

from typing import Any

from llvmlite import ir
from numba.types import float32, int64, uint32, uint64, void

from dreamfusion.ops.intrinsics import element, emits, load, shuffled, store

_FAST = ("fast",)
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_PAIR = ir.VectorType(ir.FloatType(), 2)
NOTHING = 0  # a pair of zeros


@emits(uint64, uint64, float32, None, None)
def add_read(ctx: Any, builder: Any, kinds: Any, total: Any, weight: Any, array: Any, k: Any) -> Any:
    """Return total + weight * (array[k], array[k + 1]); a pair is held in a uint64."""
    read = load(builder, element(ctx, builder, kinds[2], array, k), _PAIR)
    grown = builder.fadd(builder.bitcast(total, _PAIR), _times(builder, weight, read), _FAST)
    return builder.bitcast(grown, _I64)


@emits(void, None, int64, int64, uint64)
def put(ctx: Any, builder: Any, kinds: Any, rows: Any, row: Any, column: Any, pair: Any) -> None:
    """Write a pair to rows[row : row + 2, column]; in an array of words, as two bfloat16 to rows[row / 2, column]."""
    numbers = builder.bitcast(pair, _PAIR)
    if kinds[0].dtype == uint32:
        word = _narrowed(builder, numbers)
        builder.store(word, _cell(ctx, builder, kinds[0], rows, builder.lshr(row, _I64(1)), column))
    else:
        for lane in range(2):
            place = _cell(ctx, builder, kinds[0], rows, builder.add(row, _I64(lane)), column)
            builder.store(builder.extract_element(numbers, _I32(lane)), place)


@emits(uint64, None, int64, int64)
def get(ctx: Any, builder: Any, kinds: Any, rows: Any, row: Any, column: Any) -> Any:
    """Read the pair written by `put`."""
    if kinds[0].dtype == uint32:
        place = _cell(ctx, builder, kinds[0], rows, builder.lshr(row, _I64(1)), column)
        halves = builder.bitcast(builder.load(place), ir.VectorType(_I16, 2))
        words = builder.zext(halves, ir.VectorType(_I32, 2))
        pair = builder.shl(words, ir.Constant(ir.VectorType(_I32, 2), [16, 16]))
    else:
        lanes = (_cell(ctx, builder, kinds[0], rows, builder.add(row, _I64(lane)), column) for lane in range(2))
        pair = _join(builder, *(builder.load(place) for place in lanes))
    return builder.bitcast(pair, _I64)


@emits(uint64, float32, float32)
def join(ctx: Any, builder: Any, kinds: Any, even: Any, odd: Any) -> Any:
    """Combine two numbers into a pair."""
    return builder.bitcast(_join(builder, even, odd), _I64)


@emits(uint64, float32, uint64)
def scaled(ctx: Any, builder: Any, kinds: Any, weight: Any, pair: Any) -> Any:
    """Return weight * pair."""
    return builder.bitcast(_times(builder, weight, builder.bitcast(pair, _PAIR)), _I64)


@emits(uint64, uint64, uint64)
def plus(ctx: Any, builder: Any, kinds: Any, a: Any, b: Any) -> Any:
    """Return the sum of two pairs."""
    return builder.bitcast(builder.fadd(builder.bitcast(a, _PAIR), builder.bitcast(b, _PAIR), _FAST), _I64)


@emits(void, None, None, uint64)
def add_to(ctx: Any, builder: Any, kinds: Any, array: Any, k: Any, pair: Any) -> None:
    """array[k : k + 2] += pair."""
    place = element(ctx, builder, kinds[0], array, k)
    store(builder, builder.fadd(load(builder, place, _PAIR), builder.bitcast(pair, _PAIR), _FAST), place)


@emits(int64, None)
def take(ctx: Any, builder: Any, kinds: Any, left: Any) -> Any:
    """Atomically decrement left[0] and return the new value, unique among threads; negative if none is left."""
    place = element(ctx, builder, kinds[0], left, _I64(0))
    return builder.sub(builder.atomic_rmw("sub", place, _I64(1), "monotonic"), _I64(1))


@emits(void, None, None)
def prefetch(ctx: Any, builder: Any, kinds: Any, array: Any, k: Any) -> None:
    """Prefetch the cache line of array[k]."""
    byte = builder.bitcast(element(ctx, builder, kinds[0], array, k), _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    call = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
    builder.call(call, [byte, _I32(0), _I32(3), _I32(1)])  # read; keep in all caches; data cache


@emits(void, None, None)
def read(ctx: Any, builder: Any, kinds: Any, array: Any, k: Any) -> None:
    """Read array[k : k + 2] and discard the value; the compiler cannot remove the read."""
    pair = builder.bitcast(load(builder, element(ctx, builder, kinds[0], array, k), _PAIR), _I64)
    builder.asm(ir.FunctionType(ir.VoidType(), [_I64]), "", "r", [pair], side_effect=True)


def _cell(ctx: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> Any:
    """Address of array[row, column]."""
    parts = ctx.make_array(kind)(ctx, builder, array)
    bytes_ = builder.mul(row, builder.extract_value(parts.strides, 0))
    begin = builder.gep(builder.bitcast(parts.data, _I8.as_pointer()), [bytes_], inbounds=True)
    return builder.gep(builder.bitcast(begin, parts.data.type), [column], inbounds=True)


def _narrowed(builder: Any, pair: Any) -> Any:
    """Convert a pair to a word of two bfloat16, the first in the lower half. The instruction converts four numbers."""
    four, eight, which = ir.VectorType(ir.FloatType(), 4), ir.VectorType(_I16, 8), ir.VectorType(ir.IntType(1), 4)
    convert = builder.module.declare_intrinsic(
        "llvm.x86.avx512bf16.mask.cvtneps2bf16.128", [], ir.FunctionType(eight, [four, eight, which])
    )
    wide = shuffled(builder, pair, pair, [0, 1, 0, 1])
    narrow = builder.call(convert, [wide, ir.Constant(eight, None), ir.Constant(which, [1] * 4)])
    return builder.extract_element(builder.bitcast(narrow, ir.VectorType(_I32, 4)), _I32(0))


def _times(builder: Any, weight: Any, pair: Any) -> Any:
    return builder.fmul(_join(builder, weight, weight), pair, _FAST)


def _join(builder: Any, even: Any, odd: Any) -> Any:
    pair = builder.insert_element(ir.Constant(_PAIR, ir.Undefined), even, _I32(0))
    return builder.insert_element(pair, odd, _I32(1))
