"""LLVM intrinsics for pairs of neighbouring float32 (8-byte load, add and store), prefetch and atomics.

For `kernels.py`: the compiler alone loads the two features of an entry separately, at half the width.
numba's cache does not detect changes in this file: touch kernels.py after one.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FAST = ("fast",)
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_PAIR = ir.VectorType(ir.FloatType(), 2)
NOTHING = 0  # a pair of zeros


@intrinsic
def add_read(context: Any, total: Any, weight: Any, array: Any, k: Any) -> Any:
    """Return total + weight * (array[k], array[k + 1]); a pair is held in a uint64."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        total_, weight_, array_, k_ = values
        read = _load(builder, _address(ctx, builder, signature.args[2], array_, k_))
        grown = builder.fadd(builder.bitcast(total_, _PAIR), _times(builder, weight_, read), _FAST)
        return builder.bitcast(grown, _I64)

    return types.uint64(types.uint64, types.float32, array, k), generate


@intrinsic
def put(context: Any, rows: Any, row: Any, column: Any, pair: Any) -> Any:
    """Write a pair to rows[row : row + 2, column]; in an array of words, as two bfloat16 to rows[row / 2, column]."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows_, row_, column_, pair_ = values
        numbers = builder.bitcast(pair_, _PAIR)
        if rows.dtype == types.uint32:
            word = _narrowed(builder, numbers)
            builder.store(word, _element(ctx, builder, rows, rows_, builder.lshr(row_, _I64(1)), column_))
        else:
            for lane in range(2):
                place = _element(ctx, builder, rows, rows_, builder.add(row_, _I64(lane)), column_)
                builder.store(builder.extract_element(numbers, _I32(lane)), place)
        return ctx.get_dummy_value()

    return types.void(rows, types.int64, types.int64, types.uint64), generate


@intrinsic
def get(context: Any, rows: Any, row: Any, column: Any) -> Any:
    """Read the pair written by `put`."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows_, row_, column_ = values
        if rows.dtype == types.uint32:
            place = _element(ctx, builder, rows, rows_, builder.lshr(row_, _I64(1)), column_)
            halves = builder.bitcast(builder.load(place), ir.VectorType(_I16, 2))
            words = builder.zext(halves, ir.VectorType(_I32, 2))
            pair = builder.shl(words, ir.Constant(ir.VectorType(_I32, 2), [16, 16]))
        else:
            lanes = (_element(ctx, builder, rows, rows_, builder.add(row_, _I64(lane)), column_) for lane in range(2))
            pair = _join(builder, *(builder.load(place) for place in lanes))
        return builder.bitcast(pair, _I64)

    return types.uint64(rows, types.int64, types.int64), generate


@intrinsic
def join(context: Any, even: Any, odd: Any) -> Any:
    """Combine two numbers into a pair."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(_join(builder, *values), _I64)

    return types.uint64(types.float32, types.float32), generate


@intrinsic
def scaled(context: Any, weight: Any, pair: Any) -> Any:
    """Return weight * pair."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(_times(builder, values[0], builder.bitcast(values[1], _PAIR)), _I64)

    return types.uint64(types.float32, types.uint64), generate


@intrinsic
def plus(context: Any, a: Any, b: Any) -> Any:
    """Return the sum of two pairs."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        left, right = (builder.bitcast(value, _PAIR) for value in values)
        return builder.bitcast(builder.fadd(left, right, _FAST), _I64)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def add_to(context: Any, array: Any, k: Any, pair: Any) -> Any:
    """array[k : k + 2] += pair."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        array_, k_, pair_ = values
        address = _address(ctx, builder, signature.args[0], array_, k_)
        grown = builder.fadd(_load(builder, address), builder.bitcast(pair_, _PAIR), _FAST)
        builder.store(grown, address, align=4)
        return ctx.get_dummy_value()

    return types.void(array, k, types.uint64), generate


@intrinsic
def take(context: Any, left: Any) -> Any:
    """Atomically decrement left[0] and return the new value, unique among threads; negative if none is left."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = ctx.make_array(signature.args[0])(ctx, builder, values[0]).data
        return builder.sub(builder.atomic_rmw("sub", data, _I64(1), "monotonic"), _I64(1))

    return types.int64(left), generate


@intrinsic
def prefetch(context: Any, array: Any, k: Any) -> Any:
    """Prefetch the cache line of array[k]."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte = builder.bitcast(_address(ctx, builder, signature.args[0], *values), _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        call = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
        builder.call(call, [byte, _I32(0), _I32(3), _I32(1)])  # read; keep in all caches; data cache
        return ctx.get_dummy_value()

    return types.void(array, k), generate


@intrinsic
def read(context: Any, array: Any, k: Any) -> Any:
    """Read array[k : k + 2] and discard the value; the compiler cannot remove the read."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        pair = builder.bitcast(_load(builder, _address(ctx, builder, signature.args[0], *values)), _I64)
        builder.asm(ir.FunctionType(ir.VoidType(), [_I64]), "", "r", [pair], side_effect=True)
        return ctx.get_dummy_value()

    return types.void(array, k), generate


def _address(ctx: Any, builder: Any, kind: Any, array: Any, k: Any) -> Any:
    data = ctx.make_array(kind)(ctx, builder, array).data
    return builder.bitcast(builder.gep(data, [k]), _PAIR.as_pointer())


def _element(ctx: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> Any:
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
    wide = builder.shuffle_vector(pair, pair, ir.Constant(ir.VectorType(_I32, 4), [0, 1, 0, 1]))
    narrow = builder.call(convert, [wide, ir.Constant(eight, None), ir.Constant(which, [1] * 4)])
    return builder.extract_element(builder.bitcast(narrow, ir.VectorType(_I32, 4)), _I32(0))


def _load(builder: Any, address: Any) -> Any:
    return builder.load(address, align=4)


def _times(builder: Any, weight: Any, pair: Any) -> Any:
    return builder.fmul(_join(builder, weight, weight), pair, _FAST)


def _join(builder: Any, even: Any, odd: Any) -> Any:
    pair = builder.insert_element(ir.Constant(_PAIR, ir.Undefined), even, _I32(0))
    return builder.insert_element(pair, odd, _I32(1))
