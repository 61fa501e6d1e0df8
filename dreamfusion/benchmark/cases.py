"""Benchmark cases: each operation and the whole NeRF step, compared with baselines and the machine's limits."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product

import torch
from torch import Tensor

from dreamfusion.benchmark.baselines import ENCODINGS, BaselineField, parameter_count
from dreamfusion.benchmark.isolated import Tasks, isolated
from dreamfusion.benchmark.plan import Plan
from dreamfusion.benchmark.timing import OURS, Row, added, interleaved, reference_ops
from dreamfusion.camera.orbit import Orbit
from dreamfusion.camera.rays import cast_rays
from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.ops.hardware import cores
from dreamfusion.ops.hash_field import hash_field
from dreamfusion.ops.hash_field.reference import hash_field as composed
from dreamfusion.ops.hash_grid import hash_encode
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.machine import Gather, Multiply
from dreamfusion.ops.march import march
from dreamfusion.ops.precision import processor_bfloat16
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.hashgrid import HashGridField
from dreamfusion.scene.nerf.occupancy import OccupancyRenderer
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN, Shading
from dreamfusion.types import RaySamples

Network = Callable[..., tuple[Tensor, Tensor | None]]
BASELINES = list(ENCODINGS)[1:]  # the first is our own reference
READS = "reads at random"  # only the reads, with known indices
FLOAT32 = "kernels in float32"  # measured where our kernels otherwise use bfloat16
LIMIT = "limit"  # only the reads, levels in order first, and the arithmetic
HIDDEN, OUTPUTS = 64, 4
STEPS = 128  # ray-marching steps along the diameter
OCCUPIED = 0.69  # radius of the occupied ball: 74,000 samples at 64 x 64 pixels
RESOLUTION = 64  # of the occupancy grid


def encode_rows(plan: Plan, log2_table: int) -> list[Row]:
    """Measure the encoding forward, backward to the table, and their sum, at `plan.points` positions; one thread."""
    positions, layout = _positions(plan.points), _layout(log2_table)
    limits = {READS: Gather(positions, layout, in_order=False), LIMIT: Gather(positions, layout, in_order=True)}
    setting: dict[str, int | str] = {"points": plan.points, "table": f"2^{log2_table}", "threads": 1}
    ours = encode_tasks([OURS, "torch reference"], plan.points, log2_table)
    with _baselines(plan, encode_tasks, BASELINES, plan.points, log2_table) as others:
        rows = [
            Row(name, setting, interleaved({**tasks, **others[name], **limits}, plan.baseline_rounds))
            for name, tasks in ours.items()
        ]
    return [*rows, added("encode, forward and backward", *rows)]


def encode_tasks(names: Sequence[str], points: int, log2_table: int) -> Tasks:
    """Forward and backward of the named encodings."""
    layout, positions = _layout(log2_table), _positions(points)
    seed = torch.Generator().manual_seed(0)
    gradient = torch.randn(points, layout.width, generator=seed)
    forward: dict[str, Callable[[], object]] = {}
    backward: dict[str, Callable[[], object]] = {}
    for name in names:
        encode = ENCODINGS.get(name, hash_encode)
        table = torch.rand(parameter_count(name, layout), generator=seed).requires_grad_()
        forward[name] = partial(encode, positions, table, layout)
        encoded = encode(positions, table, layout)
        backward[name] = partial(torch.autograd.grad, encoded, table, gradient, retain_graph=True)
    return {"encode, forward": forward, "encode, backward": backward}


def field_rows(plan: Plan, log2_table: int) -> list[Row]:
    """Measure encoding and network, in the second row with the input gradient; forward and backward; one thread.

    Limit: reading every entry twice, forward and backward, and the multiplications at the speed of a large product.
    """
    layout, positions = _layout(log2_table), _positions(plan.points)
    gather, multiply = Gather(positions, layout, in_order=True), Multiply()
    rows = []
    for with_normal in (False, True):
        run = _field_pass(layout, positions, with_normal)
        tasks: dict[str, Callable[[], object]] = {
            OURS: partial(run, partial(hash_field, precision="auto")),
            **({FLOAT32: partial(run, hash_field)} if processor_bfloat16() else {}),
            "kernels, not fused": partial(run, partial(composed, backend=None)),
            "torch reference": partial(run, partial(composed, backend="torch")),
            "gather": gather,
            "multiply": multiply,
        }
        seconds = interleaved(tasks, plan.baseline_rounds)
        flop = plan.points * HIDDEN * 2 * (3 * (layout.width + OUTPUTS) + (2 * layout.width if with_normal else 0))
        reads, products = seconds.pop("gather"), seconds.pop("multiply")
        seconds[LIMIT] = [2 * a + b * flop / multiply.flop for a, b in zip(reads, products, strict=True)]
        setting: dict[str, int | str] = {"points": plan.points, "table": f"2^{log2_table}", "threads": 1}
        rows.append(Row("field with normals" if with_normal else "field", setting, seconds))
    return rows


def ray_rows(plan: Plan) -> list[Row]:
    """Measure marching, and compositing forward and backward, at the size of the step; one thread."""
    size = max(plan.step_sizes)
    rays, occupancy = cast_rays(_orbit(1, size).sample(0.0, torch.Generator().manual_seed(0))), _ball()

    def marched(backend: str | None) -> RaySamples:
        return march(rays, occupancy, 1.0, 2 / STEPS, backend=backend)

    samples = marched(None)
    seed = torch.Generator().manual_seed(0)
    density = torch.rand(len(samples), generator=seed).requires_grad_()
    values = torch.rand(3, len(samples), generator=seed).t().requires_grad_()  # the layout of the field's output

    def composited(backend: str | None) -> object:
        sums, depth, opacity = accumulate(composite(density, samples, backend), [values], samples, backend)
        return torch.autograd.grad(sums.square().sum() + (depth * opacity).sum(), (density, values))

    rows = []
    for operation, run in (("march", marched), ("composite, forward and backward", composited)):
        tasks = {OURS: partial(run, None), "torch reference": partial(run, "torch")}
        setting: dict[str, int | str] = {"rays": size**2, "samples": len(samples), "threads": 1}
        rows.append(Row(operation, setting, interleaved(tasks, plan.rounds)))
    return rows


def step_rows(plan: Plan, log2_table: int) -> Iterator[Row]:
    """Measure the NeRF step without a prior: march, field, shading, compositing, loss, backward, Adam; one thread."""
    for size, shading in product(plan.step_sizes, (ALBEDO, LAMBERTIAN)):
        name, step = _step_name(shading), Step(None, log2_table, size, shading)
        ours: dict[str, Callable[[], object]] = {OURS: step}
        if processor_bfloat16():
            ours[FLOAT32] = Step(None, log2_table, size, shading, precision="float32")
        settings = log2_table, size, shading, plan.baselines == "together"
        with _baselines(plan, step_tasks, BASELINES, *settings) as others:
            seconds = interleaved({**ours, **others[name]}, plan.baseline_rounds)
        yield Row(name, step.setting | {"threads": 1}, seconds)


def step_tasks(names: Sequence[str], log2_table: int, size: int, shading: Shading, fused: bool) -> Tasks:
    """Steps of the named baselines, with the fused Adam of our step, or with torch's default."""
    return {_step_name(shading): {name: Step(name, log2_table, size, shading, fused=fused) for name in names}}


def scaling_rows(plan: Plan, log2_table: int = 17) -> Iterator[tuple[str, list[Row]]]:
    """Measure our time against positions, pixels a side, views and threads, as one curve of rows each."""
    layout = _layout(log2_table)
    curve = []
    for points in plan.scaling_points:
        run = _field_pass(layout, _positions(points), False)
        seconds = interleaved({OURS: partial(run, partial(hash_field, precision="auto"))}, plan.rounds)
        curve.append(Row("field", {"points": points, "threads": 1}, seconds))
    yield "points", curve
    for name, sizes, views in (("pixels a side", plan.scaling_sizes, [1]), ("views", [64], plan.scaling_views)):
        curve = []
        for size, count in product(sizes, views):
            step = Step(None, log2_table, size, ALBEDO, count)
            setting = {"pixels a side": size, "views": count} | step.setting | {"threads": 1}
            curve.append(Row(_step_name(ALBEDO), setting, interleaved({OURS: step}, plan.rounds)))
        yield name, curve
    yield "threads", list(thread_rows(plan, log2_table))


def thread_rows(plan: Plan, log2_table: int) -> Iterator[Row]:
    """Measure the step in wall-clock time on several threads, up to the number of cores, compared with one thread."""
    step = Step(None, log2_table, max(plan.step_sizes), ALBEDO)
    for threads in (count for count in plan.threads if count <= cores()):
        one, many = [], []
        for _ in range(plan.rounds):  # interleaved, so that background load affects both
            one += interleaved({OURS: step}, 1, 1)[OURS]
            many += interleaved({OURS: step}, 1, threads)[OURS]
        yield Row(_step_name(ALBEDO), step.setting | {"threads": threads}, {OURS: many, "one thread": one})


class Step:
    """One training step of a field on a fixed target; `name` is the encoding of a baseline, None our own field."""

    def __init__(
        self,
        name: str | None,
        log2_table: int,
        size: int,
        shading: Shading,
        views: int = 1,
        fused: bool = True,
        precision: str = "auto",
    ) -> None:
        torch.manual_seed(0)
        settings: dict[str, float | int] = {
            "radius": 1.0, "levels": 16, "features": 2, "log2_table_size": log2_table, "base_resolution": 16,
            "max_resolution": 2048, "hidden": HIDDEN, "blob_density": 5.0, "blob_radius": 0.5, "density_scale": 3.0,
            "open_levels": 1.0,
        }  # fmt: skip
        if name is None:
            self.field: HashGridField = HashGridField(**settings, precision=precision)  # type: ignore[arg-type]
        else:
            self.field = BaselineField(name, **settings, precision=precision)
        self.ours, self.shading = name is None, shading
        self.renderer = OccupancyRenderer(1.0, RESOLUTION, STEPS, 0.01, 0.95, 16, 256)
        self.renderer.grid.binaries.copy_(_ball()[None])
        self.background = ConstantBackground([1.0, 1.0, 1.0])
        self.cameras = _orbit(views, size).sample(0.0, torch.Generator().manual_seed(0))
        self.target = torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(1))
        self.optimizer = torch.optim.Adam(self.field.parameters(), lr=1e-3, fused=fused or None)
        samples = self.renderer.sample(cast_rays(self.cameras), None)
        self.setting: dict[str, int | str] = {"samples": len(samples), "table": f"2^{log2_table}"}

    def __call__(self) -> None:
        with nullcontext() if self.ours else reference_ops():
            generator = torch.Generator().manual_seed(2)
            render = self.renderer(self.cameras, self.field, self.background, self.shading, False, generator)
            (render.rgb - self.target).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _baselines(plan: Plan, build: Callable[..., Tasks], *arguments: object) -> AbstractContextManager[Tasks]:
    return nullcontext(build(*arguments)) if plan.baselines == "together" else isolated(build, *arguments)


def _field_pass(layout: HashGridLayout, positions: Tensor, with_normal: bool) -> Callable[[Network], None]:
    """Forward and backward of the field's network with a given implementation of `hash_field`."""
    seed = torch.Generator().manual_seed(0)
    table, hidden, out = (
        torch.randn(shape, generator=seed).requires_grad_()
        for shape in ((layout.parameter_count,), (HIDDEN, layout.width), (OUTPUTS, HIDDEN))
    )

    def run(network: Network) -> None:
        output, input_gradient = network(positions, table, hidden, out, layout, with_normal)
        loss = output.sum() if input_gradient is None else output.sum() + input_gradient.square().sum()
        torch.autograd.grad(loss, (table, hidden, out))

    return run


def _layout(log2_table: int) -> HashGridLayout:
    return HashGridLayout(levels=16, features=2, log2_table_size=log2_table, base_resolution=16, max_resolution=2048)


def _orbit(views: int, size: int) -> Orbit:
    """Distances and field of view of `camera=orbit`."""
    return Orbit((-15, 75), (2.7, 3.3), False, (1.374, 1.374), 0.0, 0.0, 0.0, 0.0, (2.7, 3.3), views, 1, size)


def _ball() -> Tensor:
    """(G, G, G) bool, a ball of radius OCCUPIED at the centre of [-1, 1]^3."""
    centre = (torch.arange(RESOLUTION) + 0.5) * (2 / RESOLUTION) - 1
    x, y, z = torch.meshgrid(centre, centre, centre, indexing="ij")
    return x.square() + y.square() + z.square() < OCCUPIED**2


def _positions(count: int) -> Tensor:
    """(count, 3) in [0, 1], ray by ray through the ball, in the order of the step."""
    size = math.ceil(64 * math.sqrt(count / 70_000)) + 2  # pixels a side for at least `count` samples
    while True:
        rays = cast_rays(_orbit(1, size).sample(0.0, torch.Generator().manual_seed(0)))
        samples = march(rays, _ball(), 1.0, 2 / STEPS)
        if len(samples) >= count:
            return (samples.positions[:count] / 2 + 0.5).contiguous()
        size += 8


def _step_name(shading: Shading) -> str:
    return "step with normals" if shading.needs_normal else "step"
