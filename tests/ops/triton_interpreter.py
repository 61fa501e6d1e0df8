"""Triton's interpreter for the tests: rounds `fma` once, as GPUs do, and skips work that takes most of its time."""

import importlib
from functools import cache

import numpy as np
import triton.language as tl
from triton.runtime import JITFunction, interpreter

MODULES = ("march", "hash_grid", "composite", "feature_volume", "rasterize", "splat")


def prepare():
    """Import the kernels, with TRITON_INTERPRET=1: they stay interpreted in this process."""
    march, *_ = [importlib.import_module(f"dreamfusion.ops.{name}.triton") for name in MODULES]
    interpreted = cache(lambda function: interpreter.InterpretedFunction(function.fn))
    for module in (tl, tl.standard):  # Lightning has imported triton, without the variable
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                setattr(module, name, interpreted(value))
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter.interpreter_builder.create_fma = fma
    for function in (tl.zeros.fn, march._march.fn):  # at each launch, this takes longer than most kernels
        interpreter._patch_lang(function)
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()


def fma(x, y, z):
    exact = x.data.astype(np.float64) * y.data + z.data
    return interpreter.TensorHandle(exact.astype(x.data.dtype), x.dtype.scalar)
