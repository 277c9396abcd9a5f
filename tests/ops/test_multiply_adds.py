"""Counts by hand of small layers."""

import pytest
import torch
from torch import nn

from dlka_med.layers import DCNv3, DeformConv
from dlka_med.ops import deform_conv
from dlka_med.ops.backends import BACKENDS
from dlka_med.ops.multiply_adds import multiply_adds, work_of_modules


def test_plain_layers():
    conv = nn.Conv3d(2, 6, 3, padding=1)
    assert multiply_adds(conv, 1, 2, 4, 5, 6) == 4 * 5 * 6 * 27 * 2 * 6
    assert multiply_adds(nn.Linear(7, 5), 3, 7) == 3 * 7 * 5
    depthwise = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    assert multiply_adds(depthwise, 2, 6, 8, 8) == 2 * 64 * 25 * 6


def test_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert multiply_adds(Attention(), 1, 2, 10, 4) == 2 * (10 * 10 * 4) * 2  # heads, two products


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_deformable_layers(dims, groups):
    """Offsets: a dense conv with K * d outputs; sampling: 2**d per value; the kernel: its channels per output."""
    layer = DeformConv(dims, 4, 8 if groups == 1 else 4, 3, groups=groups)
    positions, points = 6**dims, 3**dims
    offsets = positions * points * 4 * (points * dims)
    sampling = positions * points * 4 * 2**dims
    kernel = positions * points * (4 * 8 if groups == 1 else 4)
    assert multiply_adds(layer, 1, 4, *(6,) * dims) == offsets + sampling + kernel


def test_groups_that_share_offsets_are_sampled_once():
    """Grouped, neither dense nor depthwise, strided, modulated."""
    layer = DeformConv(2, 4, 6, 3, stride=2, groups=2, offset_groups=2, modulated=True)
    positions = 4 * 4
    offsets = positions * 9 * 4 * (2 * 9 * 3)
    assert multiply_adds(layer, 1, 4, 8, 8) == offsets + positions * 9 * (4 * 4 + 2 * 6)


def test_sampled_points_that_are_added_up():
    layer = DCNv3(channels=8, kernel_size=3, group=2, spatial_dims=2)
    positions = 25
    linear = positions * 8 * (8 + 8 + 2 * 9 * 2 + 2 * 9)  # input, output, offsets, modulation
    depthwise = positions * 9 * 8
    assert multiply_adds(layer, 1, 8, 5, 5) == linear + depthwise + positions * 9 * 8 * (4 + 1)


def test_the_backends_are_as_before():
    before = dict(BACKENDS)
    multiply_adds(DeformConv(2, 2, 2), 1, 2, 4, 4)
    with pytest.raises(RuntimeError):
        multiply_adds(DeformConv(2, 2, 2), 1, 3, 4, 4)
    assert list(BACKENDS.items()) == list(before.items())
    x = torch.ones(1, 1, 3, 3)
    assert deform_conv(x, torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 1, 1)).equal(x)


def test_each_module_has_its_own_work():
    """A layer that runs twice counts twice; a weight that another module uses counts there."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.deform, self.borrowed = nn.Conv2d(2, 2, 1), DeformConv(2, 2, 3), nn.Linear(3, 4)

        def forward(self, x):
            y = self.deform(self.conv(self.conv(x)))
            return nn.functional.linear(y.movedim(1, -1), self.borrowed.weight), x

    work = work_of_modules(Both(), 1, 2, 5, 6)
    assert {name: (part.plain, part.sampling, part.kernel) for name, part in work.items()} == {
        "": (30 * 3 * 4, 0, 0),
        "conv": (2 * 30 * 2 * 2, 0, 0),
        "deform": (0, 30 * 9 * 2 * 4, 30 * 9 * 2 * 3),
        "deform.offset_conv": (30 * 9 * 2 * 18, 0, 0),
        "borrowed": (0, 0, 0),
    }
    assert work[""].shapes == ((1, 5, 6, 4), (1, 2, 5, 6))
    assert (work["deform"].shapes, work["borrowed"].shapes) == (((1, 3, 5, 6),), ())
