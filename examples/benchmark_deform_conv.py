"""Time and memory of deformable convolutions, side by side in one process.

    python examples/benchmark_deform_conv.py [--rounds 3] [--device cuda] [--memory]

Every way to compute is first compared with the reference backend, outputs and gradients; then the table of
medians is printed as Markdown. `torchvision` needs that package; a plain convolution is the floor.
"""

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from benchmarking import geometric_mean, header, peak_memory, timed
from torch import Tensor

from dlka_med.ops import deform_conv
from dlka_med.ops.geometry import Geometry


@dataclass(frozen=True)
class Problem:
    """One convolution that keeps the size of a square or cubic image; `dense` mixes all channels."""

    spatial_dims: int
    channels: int
    side: int
    kernel: int
    dilation: int = 1
    dense: bool = False

    @property
    def settings(self) -> dict[str, int]:
        """The keyword arguments of `deform_conv`."""
        padding = self.dilation * (self.kernel // 2)
        return {"padding": padding, "dilation": self.dilation, "groups": 1 if self.dense else self.channels}

    def tensors(self, device: str, dtype: torch.dtype) -> list[Tensor]:
        """x, weight, and offsets of about a voxel, off the borders of the cells, where gradients jump."""
        draw = torch.Generator().manual_seed(0)
        size, points = (self.side,) * self.spatial_dims, self.kernel**self.spatial_dims
        inputs = self.channels if self.dense else 1
        shapes = (
            (1, self.channels, *size),
            (1, points * self.spatial_dims, *size),
            (self.channels, inputs, *(self.kernel,) * self.spatial_dims),
        )
        x, offset, weight = (torch.randn(shape, generator=draw) for shape in shapes)
        offset = offset.round() + 0.1 + 0.8 * torch.rand(offset.shape, generator=draw)
        return [tensor.to(device, dtype).requires_grad_() for tensor in (x, offset, weight)]

    def __str__(self) -> str:
        kind = "dense" if self.dense else "depthwise"
        size = "x".join([str(self.side)] * self.spatial_dims)
        return f"{kind} {self.spatial_dims}D, {self.channels} ch, {size}, k{self.kernel} d{self.dilation}"


TABLES = {
    "depthwise 2D": [
        Problem(2, 96, 56, 5),
        Problem(2, 96, 56, 7, 3),
        Problem(2, 192, 28, 7, 3),
        Problem(2, 32, 64, 7, 3),
    ],
    "depthwise 3D": [Problem(3, 32, 32, 3), Problem(3, 32, 24, 5), Problem(3, 64, 16, 7, 3)],
    "dense 3D": [
        Problem(3, 32, 32, 3, dense=True),
        Problem(3, 64, 16, 3, dense=True),
        Problem(3, 128, 8, 3, dense=True),
    ],
}


LARGE = [Problem(2, 96, 224, 7, 3), Problem(3, 32, 64, 3), Problem(3, 32, 64, 3, dense=True)]


def by_torchvision(problem: Problem, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """torchvision.ops.deform_conv2d."""
    from torchvision.ops import deform_conv2d

    settings = problem.settings
    return deform_conv2d(x, offset, weight, padding=settings["padding"], dilation=settings["dilation"])


def by_grid_sample(problem: Problem, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """All points sampled by torch's grid_sample, then one matrix product or weighted sum."""
    padding, dilation, groups = problem.settings.values()
    return grid_sampled(x, offset, weight, Geometry.of(x.ndim - 2, problem.kernel, 1, padding, dilation, groups))


def grid_sampled(x: Tensor, offset: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """`deform_conv` by grid_sample, dense or depthwise, for an output as large as the input."""
    dims, points, size = geometry.spatial_dims, geometry.points, x.shape[2:]
    like = {"device": x.device, "dtype": x.dtype}
    taps = torch.tensor(geometry.kernel_points, **like) - torch.tensor(geometry.padding, **like)
    base = torch.stack(torch.meshgrid(*(torch.arange(extent, **like) for extent in size), indexing="ij"))
    place = offset.reshape(-1, points, dims, *size) + base + taps.reshape(1, points, dims, *[1] * dims)
    scale = torch.tensor([2 / max(extent - 1, 1) for extent in size], **like).reshape(-1, *[1] * dims)
    grid = (place * scale - 1).flip(2).movedim(2, -1).reshape(x.shape[0], points * size[0], *size[1:], dims)
    sampled = F.grid_sample(x, grid, align_corners=True).reshape(*x.shape[:2], points, -1)
    if geometry.groups == 1:
        return (weight.flatten(1) @ sampled.flatten(1, 2)).reshape(x.shape)
    return torch.einsum("bckp,ck->bcp", sampled, weight.flatten(1)).reshape(x.shape)


def by_plain_conv(problem: Problem, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """The convolution without offsets, channels-last: the floor."""
    conv = F.conv2d if problem.spatial_dims == 2 else F.conv3d
    form = torch.channels_last if problem.spatial_dims == 2 else torch.channels_last_3d
    return conv(x.contiguous(memory_format=form), weight, **problem.settings)


def by_backend(name: str | None) -> Callable[..., Tensor]:
    """`deform_conv` by one of its backends."""

    def run(problem: Problem, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv(x, offset, weight, **problem.settings, backend=name)

    return run


FUSED, FLOOR = "dlka_med", "plain conv"


def candidates(problem: Problem) -> dict[str, Callable[..., Tensor]]:
    """All ways to compute a problem; the first is the one that the others are compared with."""
    others = {"reference": by_backend("reference"), FUSED: by_backend(None), FLOOR: by_plain_conv}
    if problem.spatial_dims == 3:
        return {"grid_sample": by_grid_sample} | others
    if importlib.util.find_spec("torchvision"):
        return {"torchvision": by_torchvision, "grid_sample": by_grid_sample} | others
    return {"grid_sample": by_grid_sample} | others


def forward(run: Callable[..., Tensor], problem: Problem, tensors: list[Tensor]) -> Tensor:
    """The output alone."""
    with torch.no_grad():
        return run(problem, *tensors)


def forward_backward(run: Callable[..., Tensor], problem: Problem, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of all tensors (the floor has none for the offset)."""
    y = run(problem, *tensors)
    return [y.detach(), *torch.autograd.grad(y, tensors, torch.ones_like(y), allow_unused=True)]


def check(problem: Problem, tensors: list[Tensor], tolerance: float) -> None:
    """Refuse to measure what does not agree with the reference."""
    runs = candidates(problem)
    expected = forward_backward(runs["reference"], problem, tensors)
    for name in runs.keys() - {"reference", FLOOR}:
        for ours, theirs in zip(forward_backward(runs[name], problem, tensors), expected, strict=True):
            error = (ours - theirs).abs().max() / theirs.abs().max()
            if not error < tolerance:
                raise SystemExit(f"{name} differs from the reference by {error:.1e} of the maximum: {problem}")


def measure(problem: Problem, device: str, dtype: torch.dtype, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds forward, and forward and backward, of every candidate."""
    tensors = problem.tensors(device, dtype)
    check(problem, tensors, 1e-3 if dtype == torch.float32 else 5e-2)
    passes = []
    for step in (forward, forward_backward):
        calls = {
            name: (lambda run=run, step=step: step(run, problem, tensors)) for name, run in candidates(problem).items()
        }
        passes.append(timed(calls, device, rounds))
    return {name: (passes[0][name], passes[1][name]) for name in passes[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="memory of a forward call instead of times")
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    arguments = parser.parse_args()
    print(header(arguments.device), arguments.dtype, sep="; ")
    if arguments.memory:
        print_memory(arguments.device, getattr(torch, arguments.dtype))
        return
    for title in arguments.tables:
        print_table(title, arguments.device, getattr(torch, arguments.dtype), arguments.rounds)


def print_table(title: str, device: str, dtype: torch.dtype, rounds: int) -> None:
    """Milliseconds of every candidate, and how many times as fast the fused backend is."""
    names = list(candidates(TABLES[title][0]))
    print(f"\n### {title}: milliseconds forward / forward and backward\n")
    print(f"| problem | {' | '.join(names)} | {FUSED} over {names[0]} |")
    print("|---" * (len(names) + 2) + "|")
    ratios = []
    for problem in TABLES[title]:
        times = measure(problem, device, dtype, rounds)
        ratios.append([slow / fast for slow, fast in zip(times[names[0]], times[FUSED], strict=True)])
        cells = [f"{1000 * times[name][0]:.2f} / {1000 * times[name][1]:.2f}" for name in names]
        print(f"| {problem} | {' | '.join(cells)} | {ratios[-1][0]:.1f}x / {ratios[-1][1]:.1f}x |", flush=True)
    means = [geometric_mean(list(column)) for column in zip(*ratios, strict=True)]
    print(f"| geometric mean |{' |' * len(names)} {means[0]:.1f}x / {means[1]:.1f}x |")


def print_memory(device: str, dtype: torch.dtype) -> None:
    """What a forward call of the fused backend holds at its peak, result included, beside the sizes of its tensors."""
    print("\n| problem | input + offset + output, MiB | a forward call at its peak, MiB | ratio |\n|---|---|---|---|")
    for problem in LARGE:
        tensors = problem.tensors(device, dtype)
        run = by_backend(None)
        forward(run, problem, tensors)
        own = sum(tensor.nbytes for tensor in (*tensors[:2], tensors[0]))
        peak = peak_memory(lambda run=run, on=(problem, tensors): forward(run, *on), device)
        print(f"| {problem} | {own / 2**20:.0f} | {peak / 2**20:.0f} | {peak / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
