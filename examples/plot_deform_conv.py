"""Times of deformable convolutions against the size of the kernel and of the image, as a PNG.

    python examples/plot_deform_conv.py [--out examples/deform_conv_times.png] [--device cuda]

Depthwise convolutions of 32 channels, forward and backward; all ways are first compared with the reference backend.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from benchmark_deform_conv import FUSED, Problem, candidates, measure
from benchmarking import header

CHANNELS = 32
STYLES = {
    "torchvision": "C0^--",
    "grid_sample": "C1v--",
    "reference": "C2x--",
    FUSED: "C3o-",
    "plain conv": "C7s:",
}
Series = tuple[str, str, dict[int, Problem]]
PANELS: tuple[Series, ...] = (
    ("2D, 64x64", "kernel size", {k: Problem(2, CHANNELS, 64, k) for k in (3, 5, 7, 9, 11)}),
    ("2D, 7x7 kernel", "side of the image, pixels", {s: Problem(2, CHANNELS, s, 7) for s in (16, 32, 64, 128, 192)}),
    ("3D, 16x16x16", "kernel size", {k: Problem(3, CHANNELS, 16, k) for k in (3, 5, 7)}),
    ("3D, 3x3x3 kernel", "side of the image, voxels", {s: Problem(3, CHANNELS, s, 3) for s in (8, 16, 24, 32, 48)}),
)


def curves(problems: dict[int, Problem], device: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds, forward and backward, of every way to compute and every problem."""
    times = [measure(problem, device, torch.float32, rounds) for problem in problems.values()]
    names = candidates(next(iter(problems.values())))
    return {name: [1000 * time[name][1] for time in times] for name in names}


def plot(panels: tuple[Series, ...], device: str, rounds: int, out: Path) -> None:
    """Measure all panels and draw them side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False, layout="constrained")
    for ax, (title, label, problems) in zip(axes[0], panels, strict=True):
        for name, milliseconds in curves(problems, device, rounds).items():
            ax.plot(list(problems), milliseconds, STYLES[name], label=name)
        ax.set(title=title, xlabel=label, xscale="log", yscale="log", xticks=list(problems))
        ax.set_xticks(list(problems), labels=list(map(str, problems)))
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms, forward and backward")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.suptitle(f"Depthwise deformable convolution, {CHANNELS} channels; {header(device)}", fontsize="medium")
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("deform_conv_times.png"))
    arguments = parser.parse_args()
    plot(PANELS, arguments.device, arguments.rounds, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
