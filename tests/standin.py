"""A device that is not the CPU, with values: its tensors hold CPU tensors, and mixing both is an error. No autograd."""

from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "privateuseone"
DEVICE = torch.device(NAME, 0)


class Held(torch.Tensor):
    """A tensor on the stand-in device."""

    @staticmethod
    def __new__(cls, held):
        options = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, **options)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs)


class StandIn(TorchDispatchMode):
    """Within this context tensors can be made on DEVICE."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs)

    def __enter__(self):
        register()
        return super().__enter__()


@cache
def register():
    torch.utils.backend_registration._setup_privateuseone_for_python_backend()


def run(function, args, kwargs):
    """Run on the CPU; the results are on DEVICE if the arguments or the option `device` are."""
    kwargs, name = dict(kwargs or {}), function.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    held = [tensor for tensor in tensors if isinstance(tensor, Held)]
    chosen = kwargs.get("device")
    target = bool(held) if chosen is None else torch.device(chosen).type == NAME
    others = [tensor for tensor in tensors if not isinstance(tensor, Held) and tensor.dim() > 0]
    if held and others and name not in ("copy_", "_to_copy", "index", "index_put_"):
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the cpu")
    if chosen is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Held) else leaf, (args, kwargs))
    out = function(*args, **kwargs)
    if name.endswith("_") and not name.endswith("__") and isinstance(out, torch.Tensor):
        return tensors[0]  # in place
    if not target:
        return out
    return tree_map(lambda leaf: Held(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)
