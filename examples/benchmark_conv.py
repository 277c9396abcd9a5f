"""Time of plain convolutions: torch in both memory layouts, the deformable kernel without offsets, and `ops.conv`.

    python examples/benchmark_conv.py [--rounds 3] [--device cuda]

The problems are those of the networks: depthwise convolutions of the gate, and dense ones of single images. Outputs
and gradients are first compared with torch's; then medians are printed as Markdown.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from benchmarking import geometric_mean, header, timed
from torch import Tensor
from torch.nn import functional as F

from dlka_med.ops import deform_conv
from dlka_med.ops.conv import conv
from dlka_med.ops.layout import channels_last

TORCH = {2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Problem:
    """A convolution that keeps the size of its image; depthwise if `outputs` is None."""

    batch: int
    channels: int
    size: tuple[int, ...]
    kernel: int
    dilation: int = 1
    outputs: int | None = None

    @property
    def settings(self) -> dict[str, object]:
        """The keyword arguments of a convolution."""
        dims, padding = len(self.size), self.dilation * (self.kernel // 2)
        groups = self.channels if self.outputs is None else 1
        axes = {"stride": 1, "padding": padding, "dilation": self.dilation}
        return {name: (value,) * dims for name, value in axes.items()} | {"groups": groups}

    def tensors(self, device: str) -> list[Tensor]:
        """x and weight."""
        draw = torch.Generator().manual_seed(0)
        inputs, outputs = (1, self.channels) if self.outputs is None else (self.channels, self.outputs)
        shapes = (self.batch, self.channels, *self.size), (outputs, inputs, *(self.kernel,) * len(self.size))
        return [torch.randn(shape, generator=draw).to(device) for shape in shapes]

    def __str__(self) -> str:
        kind = f"{self.channels} ch" if self.outputs is None else f"{self.channels} to {self.outputs} ch"
        return f"{self.batch}x{'x'.join(map(str, self.size))}, {kind}, k{self.kernel} d{self.dilation}"


TABLES = {
    "depthwise": [
        Problem(1, 32, (32, 32, 32), 5),
        Problem(1, 32, (32, 32, 32), 7, 3),
        Problem(1, 64, (16, 16, 16), 7, 3),
        Problem(2, 32, (20, 28, 20), 7, 3),
        Problem(1, 96, (56, 56), 5),
        Problem(1, 96, (56, 56), 7, 3),
        Problem(1, 192, (28, 28), 7, 3),
    ],
    "dense, one image": [
        Problem(1, 1, (64, 128, 128), 3, outputs=16),
        Problem(1, 16, (64, 128, 128), 3, outputs=16),
        Problem(1, 32, (32, 32, 32), 3, outputs=81),
        Problem(1, 64, (16, 16, 16), 3, outputs=64),
        Problem(1, 128, (8, 8, 8), 3, outputs=128),
        Problem(1, 64, (16, 16, 16), 1, outputs=64),
    ],
}


def by_torch(problem: Problem, x: Tensor, weight: Tensor) -> Tensor:
    """torch's own convolution, in the layout of x."""
    return TORCH[x.ndim - 2](x, weight, **problem.settings)


def by_conv(problem: Problem, x: Tensor, weight: Tensor) -> Tensor:
    """`dlka_med.ops.conv`."""
    return conv(x, weight, **problem.settings)


def by_deform_conv(problem: Problem, x: Tensor, weight: Tensor) -> Tensor:
    """The fused deformable kernel, its points where a plain convolution has them."""
    points = weight[0, 0].numel()
    offset = x.new_zeros(x.shape[0], points * (x.ndim - 2), *x.shape[2:])
    return deform_conv(x, offset, weight, **problem.settings)


OURS = "dlka_med"
WAYS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "torch": (by_torch, Tensor.contiguous),
    "torch, channels-last": (by_torch, channels_last),
    "deform_conv, no offsets": (by_deform_conv, channels_last),
    OURS: (by_conv, channels_last),
}


def calls(problem: Problem, device: str) -> dict[str, tuple[Callable[[], Tensor], Callable[[], list[Tensor]]]]:
    """For every way a forward pass, and one with the gradients of x and weight after it."""
    made = {}
    for name, (run, layout) in WAYS.items():
        x, weight = problem.tensors(device)
        x, weight = layout(x).requires_grad_(), weight.requires_grad_()

        def forward(run=run, x=x, weight=weight) -> Tensor:
            with torch.no_grad():
                return run(problem, x, weight)

        grad = layout(torch.ones_like(forward()))

        def both(run=run, x=x, weight=weight, grad=grad) -> list[Tensor]:
            y = run(problem, x, weight)
            return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]

        made[name] = (forward, both)
    return made


def check(made: dict[str, tuple[Callable[[], Tensor], Callable[[], list[Tensor]]]], problem: Problem) -> None:
    """Refuse to measure what does not agree."""
    expected = made["torch"][1]()
    for name, (_, both) in made.items():
        for ours, theirs in zip(both(), expected, strict=True):
            error = (ours - theirs).abs().max() / theirs.abs().max()
            if not error < 1e-3:
                raise SystemExit(f"{name} differs from torch by {error:.1e} of the maximum: {problem}")


def print_table(title: str, device: str, rounds: int) -> None:
    """Milliseconds of every way, and how many times as fast as torch ours is."""
    print(f"\n### {title}: milliseconds forward / forward and backward\n")
    print(f"| problem | {' | '.join(WAYS)} | {OURS} over torch, channels-last |")
    print("|---" * (len(WAYS) + 2) + "|")
    ratios = []
    for problem in TABLES[title]:
        made = calls(problem, device)
        check(made, problem)
        times = [timed({name: steps[n] for name, steps in made.items()}, device, rounds) for n in (0, 1)]
        ratios.append([by["torch, channels-last"] / by[OURS] for by in times])
        cells = [" / ".join(f"{1000 * by[name]:.2f}" for by in times) for name in WAYS]
        print(f"| {problem} | {' | '.join(cells)} | {ratios[-1][0]:.1f}x / {ratios[-1][1]:.1f}x |", flush=True)
    means = [geometric_mean(list(column)) for column in zip(*ratios, strict=True)]
    print(f"| geometric mean |{' |' * len(WAYS)} {means[0]:.1f}x / {means[1]:.1f}x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(header(arguments.device))
    for title in TABLES:
        print_table(title, arguments.device, arguments.rounds)


if __name__ == "__main__":
    main()
