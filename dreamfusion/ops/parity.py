"""Compare the backends of each operation with the torch reference on a CPU: values, first and second derivatives.

Small inputs with the edges of each contract: no points at all, positions exactly 0 and 1, dense and hashed levels, rays
that miss. Used by the check of a GPU's kernels (`probe.py`) and by mode=doctor.
"""

import torch
from torch import Tensor

from dreamfusion.ops.backend import backends
from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.ops.feature_volume import render_feature_volume
from dreamfusion.ops.hash_field import hash_field
from dreamfusion.ops.hash_grid import hash_encode
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.march import march
from dreamfusion.ops.rasterize.differentiable import interpolate, visible
from dreamfusion.ops.splat import Screen, splat
from dreamfusion.types import RayBundle, RaySamples

LAYOUT = HashGridLayout(levels=6, features=2, log2_table_size=10, base_resolution=4, max_resolution=64)  # dense, hashed
COUNTS = 0, 1000  # points
RAYS, VOXELS, STEP = 256, 16, 1 / 32
# Largest difference relative to the largest value; TF32 products and sums by atomics reach 1e-3.
TOLERANCE = 2e-3
STRAY = 2e-3  # share of march's samples that may differ: midpoints on the face of a voxel
Outputs = dict[str, Tensor]


def deviation(op: str, backend: str, device: torch.device) -> float:
    """Largest difference of any output or derivative from the reference's, relative to its largest value.

    Raises:
        ValueError: an output has another shape, or is not finite.
        Exception: whatever the backend raises.
    """
    largest = 0.0
    expected = _outputs(op, "torch", torch.device("cpu"))
    for name, actual in _outputs(op, backend, device).items():
        actual, wanted = actual.detach().cpu(), expected[name].detach()
        if actual.shape != wanted.shape:
            raise ValueError(f"{op}: {name} has shape {tuple(actual.shape)}, expected {tuple(wanted.shape)}")
        if not actual.isfinite().all():
            raise ValueError(f"{op}: {name} is not finite")
        if actual.numel():
            largest = max(largest, float((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)))
    return largest


def disagreement(op: str, backend: str, device: torch.device) -> str | None:
    """Why a backend of `op` cannot be used on `device`, in one phrase; None if it agrees with the reference."""
    try:
        found = deviation(op, backend, device)
    except Exception as error:  # a kernel may raise anything
        return f"{op} fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None if found <= TOLERANCE else f"{op} differs from the reference by {found:.2g} of its largest value"


def operations(backend: str, device: torch.device) -> list[str]:
    """The operations that have this backend on the device."""
    return [op for op in _CASES if backend in backends(op, device)]


def _outputs(op: str, backend: str, device: torch.device) -> Outputs:
    generator = torch.Generator().manual_seed(0)  # on the CPU: the same numbers for every device
    outputs: Outputs = _CASES[op](backend, device, generator)
    return outputs


def _encode(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    found: Outputs = {}
    for count in COUNTS:
        x, table = _leaf(_points(count, generator), device), _leaf(_table(generator), device)
        encoded = hash_encode(x, table, LAYOUT, backend)
        along = torch.randn(encoded.shape, generator=generator).to(device)
        slope, to_table = torch.autograd.grad((encoded * along).sum(), (x, table), create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), table, retain_graph=True)
        parts = {"value": encoded, "gradient of the positions": slope, "of the table": to_table, "second": second}
        found |= {f"{name}, {count} points": part for name, part in parts.items()}
    return found


def _field(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    found: Outputs = {}
    for count in COUNTS:
        x = _points(count, generator).to(device)
        table = _leaf(_table(generator), device)
        hidden = _leaf(torch.randn(16, LAYOUT.width, generator=generator), device)
        head = _leaf(torch.randn(4, 16, generator=generator), device)
        output, slope = hash_field(x, table, hidden, head, LAYOUT, with_input_gradient=True, backend=backend)
        assert slope is not None
        gradients = torch.autograd.grad(output.square().sum() + 1e-3 * slope.square().sum(), (table, hidden, head))
        names = ("table", "hidden weight", "output weight")
        parts = {"value": output, "slope": slope, **dict(zip(names, gradients, strict=True))}
        found |= {f"{name}, {count} points": part for name, part in parts.items()}
    return found


def _march(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    """Midpoints at the faces of voxels may fall on either side, so the samples of each ray are counted and summed."""
    samples = _samples(generator, device, backend)
    wanted = _samples(torch.Generator().manual_seed(0), torch.device("cpu"), "torch")
    if abs(len(samples) - len(wanted)) > STRAY * len(wanted):
        raise ValueError(f"march: {len(samples)} samples, expected {len(wanted)}")
    counts = samples.offsets.diff().cpu()
    same = counts == wanted.offsets.diff()
    if (~same).sum() > STRAY * len(wanted):
        raise ValueError(f"march: {int((~same).sum())} of {RAYS} rays have another number of samples")
    found: Outputs = {}
    for name in ("t_start", "t_end"):
        sums = getattr(samples, name).new_zeros(RAYS).index_add_(0, samples.ray, getattr(samples, name)).cpu()
        reference = torch.zeros(RAYS).index_add_(0, wanted.ray, getattr(wanted, name))
        found[name] = torch.where(same, sums, reference)
    return found


def _composite(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    samples = _samples(generator, torch.device("cpu"), "torch").to(device)
    density = _leaf(20 * torch.rand(len(samples), generator=generator), device)
    values = _leaf(torch.rand(len(samples), 3, generator=generator), device)
    weights = composite(density, samples, backend)
    sums, depth, opacity = accumulate(weights, [values], samples, backend)
    loss = (sums.square().sum(1) + depth.square()[:, 0] + opacity[:, 0]).sum()
    gradients = torch.autograd.grad(loss, (density, values))
    names = ("weights", "sums", "depth", "opacity", "gradient of the density", "of the values")
    return dict(zip(names, (weights, sums, depth, opacity, *gradients), strict=True))


def _feature_volume(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    volume = _leaf(torch.randn(2, VOXELS, VOXELS, VOXELS, 5, generator=generator), device)
    points = (2.2 * torch.rand(2, 32, VOXELS, 3, generator=generator) - 1.1).to(device)
    seen = render_feature_volume(volume, points, 1, backend)
    return {"value": seen, "gradient": torch.autograd.grad(seen.square().sum(), volume)[0]}


def _rasterize(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    """Faces of all sizes, some of them cut by the border, behind the camera or without an area."""
    points = _leaf(torch.rand(2, 90, 3, generator=generator) * torch.tensor([40.0, 30.0, 1.0]) - 3, device)
    points = torch.cat(
        [points[..., :2], points[..., 2:] + 3.3 - 4 * torch.arange(90.0, device=device)[:, None].gt(84)], -1
    )
    faces = torch.randint(90, (60, 3), generator=generator).to(device)
    attributes = _leaf(torch.randn(90, 4, generator=generator), device)
    seen, nearest = visible(points, faces, 24, 34, backend)
    along = torch.randn(2, 24, 34, 4, generator=generator).to(device)
    values = interpolate(points, faces, seen, attributes, backend)
    gradients = torch.autograd.grad((values * along).sum(), (points, attributes))
    return {"faces": seen, "1 / depth": nearest, "values": values, "points": gradients[0], "attributes": gradients[1]}


def _splat(backend: str, device: torch.device, generator: torch.Generator) -> Outputs:
    """Gaussians of all sizes, some of them cut by the border, behind the camera or too faint."""
    drawn = torch.rand(2, 60, 7, generator=generator)
    means = _leaf(drawn[..., :2] * torch.tensor([44.0, 34.0]) - 5, device)
    width, height, turn = (0.5 + 5 * drawn[..., 2]) ** -2, (0.5 + 5 * drawn[..., 3]) ** -2, drawn[..., 4] - 0.5
    conics = _leaf(torch.stack([width, turn * (width * height).sqrt(), height], dim=-1), device)
    depths = (drawn[..., 5] + 1 - 2 * torch.arange(60).gt(55)).clamp(min=0).to(device)
    shares = _leaf(0.2 + 0.8 * drawn[..., 6], device)
    opacities = _leaf(torch.linspace(0, 1, 60), device)
    features = _leaf(torch.randn(2, 60, 4, generator=generator), device)
    values, opacity = splat(Screen(means, conics, shares, depths), opacities, features, 24, 34, backend)
    along = torch.randn(2, 24, 34, 5, generator=generator).to(device)
    loss = (values * along[..., :4]).sum() + (opacity * along[..., 4]).sum()
    names = ("means", "conics", "shares", "opacities", "features")
    gradients = torch.autograd.grad(loss, (means, conics, shares, opacities, features))
    return {"values": values, "opacity": opacity, **dict(zip(names, gradients, strict=True))}


def _samples(generator: torch.Generator, device: torch.device, backend: str) -> RaySamples:
    origins = torch.nn.functional.normalize(torch.randn(RAYS, 3, generator=generator), dim=-1) * 3
    towards = torch.randn(RAYS, 3, generator=generator) * 0.6 - origins  # some rays miss the sphere
    rays = RayBundle(origins, torch.nn.functional.normalize(towards, dim=-1)).to(device)
    occupancy = (torch.rand(VOXELS, VOXELS, VOXELS, generator=generator) < 0.5).to(device)
    return march(rays, occupancy, 1.0, STEP, torch.rand(RAYS, generator=generator).to(device), backend)


def _points(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3) in [0, 1], the first ones at the corners."""
    points = torch.rand(count, 3, generator=generator)
    points[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.5]])[:count]
    return points


def _table(generator: torch.Generator) -> Tensor:
    return torch.randn(LAYOUT.parameter_count, generator=generator)


def _leaf(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device).requires_grad_()


# Last those whose kernels no GPU has run: one that fails may poison the context for the checks after it.
_CASES = {
    "hash_encode": _encode,
    "hash_field": _field,
    "march": _march,
    "composite": _composite,
    "render_feature_volume": _feature_volume,
    "rasterize": _rasterize,
    "splat": _splat,
}
OPERATIONS = tuple(_CASES)
