"""On a set made for it, deforming pays with the gates of the shipped recipes, and offsets are what the set asks for."""

from functools import cache

import pytest
import torch
from torch import nn

from dlka_med.blocks import DLKABlock
from dlka_med.config.network import DLKANet3dArguments
from dlka_med.config.training import Optimizer
from dlka_med.layers import measure_deformation, read_offsets, without_offsets
from dlka_med.layers.conv import CONV
from dlka_med.losses import DiceCELoss
from dlka_med.metrics import dice
from dlka_med.training.parameters import make_optimizer
from dlka_med.training.schedule import learning_rate_factor
from tests.distorted import distorted

STEPS, BATCH, CHANNELS = 250, 8, 8
KERNELS = {"kernel_size": 3, "dilated_kernel_size": 3, "dilation": 2}  # they reach 3 voxels, where up to 16 are needed
OPTIMIZER = Optimizer(name="adamw", learning_rate=5e-3, weight_decay=1e-2, schedule="cosine", warmup=0.05)
LIMIT = DLKANet3dArguments(name="dlka_net_3d").offset_limit


def trained(dims, deformation, seed):
    """Conv, one D-LKA block, classifier; by the optimiser, schedule, clipping and limit of the shipped recipes."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        CONV[dims](2, CHANNELS, 3, padding=1),
        DLKABlock(CHANNELS, dims, deformation, layer_scale=0.1, offset_limit=LIMIT, **KERNELS),
        CONV[dims](CHANNELS, 2, 1),
    )
    optimizer, loss = make_optimizer(network, OPTIMIZER), DiceCELoss()
    for step in range(STEPS):
        image, label, _ = distorted(BATCH, dims, seed=1000 * (seed + 1) + step)
        factor = learning_rate_factor(step / STEPS, OPTIMIZER.schedule, OPTIMIZER.warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * OPTIMIZER.learning_rate * factor
        optimizer.zero_grad()
        loss(network(image), label).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


@torch.no_grad()
def score(network, image, label):
    return dice((network(image).argmax(1) == 1).numpy(), (label[:, 0] == 1).numpy())


@pytest.fixture(scope="module")
def fixed():
    """(dims, seed) -> Dice of the same network whose kernel points do not move."""
    image = {dims: distorted(16, dims, seed=0) for dims in (2, 3)}
    return cache(lambda dims, seed: score(trained(dims, "none", seed), *image[dims][:2]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("dims", "deformation"), [(2, "depthwise"), (3, "dense")])
def test_deforming_beats_fixed_kernels_where_it_must(dims, deformation, seed, fixed):
    image, label, field = distorted(16, dims, seed=0)
    network = trained(dims, deformation, seed)
    moving = score(network, image, label)
    assert moving > fixed(dims, seed) + 0.01
    with without_offsets(network):
        assert score(network, image, label) < moving - 0.02
    for name, layer in measure_deformation(network, image).items():
        assert layer.outside <= layer.outside_undeformed
        along = read_offsets(network, image)[name].mean((1, 2))[:, 0]
        assert torch.corrcoef(torch.stack([along.flatten(), field.flatten()]))[0, 1] > 0.5
