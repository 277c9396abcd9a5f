"""Time of the published networks, side by side with the same networks computed as they were published.

    python examples/benchmark_networks.py [--rounds 3] [--networks 3D 2D] [--profile] [--device cuda]

"As published" has the same weights, the default memory layout, torch's own convolutions and norms, and deformable
convolutions by `grid_sample` in 3D and by torchvision in 2D. Both ways are first compared, outputs and gradients;
then medians are printed as Markdown. A training step is forward, deep supervision, backward and SGD on one image.
`--profile` tells instead where the time of one forward pass and one training step goes.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from unittest import mock

import torch
from benchmark_deform_conv import grid_sampled
from benchmarking import header, timed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile

from dlka_med.blocks.norm import InstanceNorm
from dlka_med.layers import DeformConv
from dlka_med.layers.conv import FastConv
from dlka_med.losses import PyramidLoss
from dlka_med.networks import DLKANet2d, DLKANet3d

NETWORKS = {
    "3D": (partial(DLKANet3d, dropout=0.0), (1, 1, 64, 128, 128)),
    "2D": (partial(DLKANet2d, deformation="depthwise"), (1, 3, 224, 224)),
}


class ByGridSample(nn.Module):
    """A `DeformConv` of the 3D network."""

    def __init__(self, layer: DeformConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = grid_sampled(x, self.layer.predict_offsets(x)[0], self.layer.weight, self.layer.geometry)
        return y + self.layer.bias.view(-1, 1, 1, 1)


class ByTorchvision(nn.Module):
    """A `DeformConv` of the 2D network."""

    def __init__(self, layer: DeformConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        geometry = self.layer.geometry
        settings = {"padding": geometry.padding, "dilation": geometry.dilation}
        return deform_conv2d(x, self.layer.predict_offsets(x)[0], self.layer.weight, self.layer.bias, **settings)


class PlainInstanceNorm(nn.Module):
    """An `InstanceNorm` of the 3D network."""

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x)


def as_published(network: nn.Module) -> nn.Module:
    """The same network of torch's own layers; to be run within `default_layout`."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DeformConv):
                by = ByGridSample if child.geometry.spatial_dims == 3 else ByTorchvision
                parent.register_module(name, by(child))
            elif isinstance(child, InstanceNorm):
                parent.register_module(name, PlainInstanceNorm())
    for module in network.modules():
        if isinstance(module, FastConv):
            module.__class__ = {4: nn.Conv2d, 5: nn.Conv3d}[module.weight.ndim]
    return network


@contextmanager
def default_layout() -> Iterator[None]:
    """Nothing is made channels-last."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("dlka_med.") and hasattr(module, "channels_last"):
                stack.enter_context(mock.patch.object(module, "channels_last", Tensor.contiguous))
        yield


class Candidate:
    """A network that computes and learns."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], device: str, published: bool) -> None:
        self.network = (as_published(network) if published else copy.deepcopy(network)).to(device)
        self.layout = default_layout if published else nullcontext
        draw = torch.Generator().manual_seed(0)
        self.image = torch.randn(shape, generator=draw).to(device)
        label = torch.randint(network.out_channels, (shape[0], 1, *shape[2:]), generator=draw)
        self.label, self.loss = label.to(device), PyramidLoss(strides=network.scale_strides)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, 0.99, nesterov=True)

    def predict(self) -> Tensor:
        """Logits in evaluation mode."""
        self.network.eval()
        with torch.no_grad(), self.layout():
            return self.network(self.image)

    def learn(self) -> Tensor:
        """One training step; the loss before it."""
        self.network.train()
        with self.layout():
            self.optimizer.zero_grad()
            loss = self.loss(self.network.forward_pyramid(self.image), self.label)
            loss.backward()
            self.optimizer.step()
        return loss.detach()

    def gradient(self) -> Tensor:
        """That of all parameters, in one vector."""
        named = sorted(
            ((name.replace(".layer.", "."), p.grad) for name, p in self.network.named_parameters()),
            key=lambda pair: pair[0],
        )
        return torch.cat([gradient.flatten() for _, gradient in named])


def built(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A published network and the shape of its image; offsets of about a voxel, that the comparison may see them."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build()
    for layer in network.modules():
        if isinstance(layer, DeformConv):
            nn.init.normal_(layer.offset_conv.weight, std=layer.offset_conv.weight[0].numel() ** -0.5)
    return network, shape


def check(ours: Candidate, published: Candidate) -> None:
    """Refuse to measure what does not agree."""
    error = (ours.predict() - published.predict()).abs().max() / ours.predict().std()
    if not error < 1e-3:
        raise SystemExit(f"the outputs differ by {error:.1e} of their deviation")
    loss, other = ours.learn(), published.learn()
    if not abs(loss - other) < 1e-4 * loss:
        raise SystemExit(f"the losses differ: {loss:.6f} and {other:.6f}")
    gradient = published.gradient()
    error = (ours.gradient() - gradient).norm() / gradient.norm()
    if not error < 1e-2:
        raise SystemExit(f"the gradients differ by {error:.1e} of their length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead of times")
    arguments = parser.parse_args()
    print(header(arguments.device))
    if not arguments.profile:
        print("\n| network | pass | as published, s | dlka_med, s | ratio |\n|---|---|---|---|---|")
    for name in arguments.networks:
        network, shape = built(name)
        ours = Candidate(network, shape, arguments.device, published=False)
        if arguments.profile:
            print_profiles(name, ours)
        else:
            print_rows(name, ours, Candidate(network, shape, arguments.device, published=True), arguments)


def print_rows(name: str, ours: Candidate, published: Candidate, arguments: argparse.Namespace) -> None:
    """Medians of a forward pass and of a training step."""
    check(ours, published)
    for title in ("predict", "learn"):
        calls = {"published": getattr(published, title), "ours": getattr(ours, title)}
        times = timed(calls, arguments.device, arguments.rounds)
        ratio = times["published"] / times["ours"]
        what = {"predict": "forward, eval", "learn": "training step"}[title]
        size = "x".join(map(str, ours.image.shape))
        print(
            f"| {name}, {size} | {what} | {times['published']:.2f} | {times['ours']:.2f} | {ratio:.1f}x |", flush=True
        )


def print_profiles(name: str, ours: Candidate) -> None:
    """Shares of torch's operators."""
    for title, call in (("forward, eval", ours.predict), ("training step", ours.learn)):
        call()
        with profile() as recorded:
            call()
        events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        print(f"\n### {name}, {title}: share of {total / 1e6:.2f} s\n\n| operator | share | calls |\n|---|---|---|")
        for event in events[:12]:
            print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} | {event.count} |")


if __name__ == "__main__":
    main()
