"""LLVM instructions for compiled functions: what `hash_grid.pairs`, `hash_field.tiles` and `waiting` are written with.

numba's cache does not detect changes in this file: touch the kernels after one.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic


def emits(returns: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate `emit(ctx, builder, kinds, *values)`, which emits code for values of the numba types `kinds`.

    Args:
        returns: numba type of the result, of which void functions emit none; None: that of the first argument.
        arguments: numba type to which each argument is converted; None: unconverted.
    """

    def wrap(emit: Callable[..., Any]) -> Any:
        @functools.wraps(emit)
        def typed(context: Any, *kinds: Any) -> Any:
            def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
                result = emit(ctx, builder, kinds, *values)
                return ctx.get_dummy_value() if result is None else result

            wanted = [given if kind is None else kind for given, kind in zip(kinds, arguments, strict=True)]
            return (kinds[0] if returns is None else returns)(*wanted), generate

        ours = inspect.signature(emit)  # numba passes `context` and the types of the values
        context, _, _, *values = ours.parameters.values()
        typed.__signature__ = ours.replace(parameters=[context, *values])  # type: ignore[attr-defined]
        return intrinsic(typed)

    return wrap


def element(ctx: Any, builder: Any, kind: Any, array: Any, k: Any) -> Any:
    """Address of element k of a flat array."""
    return builder.gep(ctx.make_array(kind)(ctx, builder, array).data, [k])


def load(builder: Any, place: Any, kind: Any) -> Any:
    """A value of `kind`, such as a vector, from an address that is aligned to 4 bytes."""
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def store(builder: Any, value: Any, place: Any) -> None:
    """Write a value to an address that is aligned to 4 bytes."""
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)


def shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Vector of the given lanes of two vectors, counted through both."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))
