"""Receptive fields of layers whose field is known."""

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.blocks import DLKABlock
from dlka_med.inspection.receptive import gradient, radius, reach_of_offsets, theoretical_field, widths
from dlka_med.layers import DCNv3, DeformConv


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, (5, 1), padding=(2, 0))], [3 + 4, 3]),
        ([nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.InstanceNorm2d(4), nn.ReLU()], [5, 5]),
        ([DeformConv(2, 1, 4, 3), nn.GELU(), DCNv3(4, 5, pad=2)], [7, 7]),
        ([nn.Conv2d(1, 4, 1), DLKABlock(4, 2, "depthwise", feed_forward="conv_mlp")], [1 + 4 + 18 + 2] * 2),
        ([nn.Conv2d(1, 4, 1), DLKABlock(4, 2, "dcnv3", feed_forward="conv_mlp", kernel_size=3)], [1 + 2 + 18 + 2] * 2),
        pytest.param(
            [nn.Conv2d(1, 4, 1), *(DLKABlock(4, 2, "none") for _ in range(12))],
            [1 + 12 * (4 + 18 + 4)] * 2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_fields_of_layers(layers, field):
    torch.manual_seed(0)
    assert theoretical_field(nn.Sequential(*layers), 1, (1, 1)) == field


def test_a_field_without_end():
    class Mean(nn.Module):
        def forward(self, x):
            return x + x.mean((2, 3), keepdim=True)

    assert theoretical_field(Mean(), 1, (4, 256)) == [None, None]


def test_strided_layers_see_whole_units():
    network = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Conv2d(2, 2, 3, padding=1), nn.ConvTranspose2d(2, 1, 4, 4))
    assert theoretical_field(network, 1, (4, 4)) == [12, 12]


def test_offsets_reach_as_far_as_their_limits():
    network = nn.Sequential(DeformConv(2, 1, 1, offset_limit=3.0), DeformConv(2, 1, 1, offset_limit=1.5))
    strides = {"0": (1.0, 2.0), "1": (4.0, 4.0)}
    assert reach_of_offsets(network, strides, 2) == [2 * 3 + 2 * 1.5 * 4, 2 * 3 * 2 + 2 * 1.5 * 4]
    assert reach_of_offsets(nn.Sequential(DeformConv(2, 1, 1)), {"0": (1.0, 1.0)}, 2) == [None, None]
    assert reach_of_offsets(nn.ReLU(), {}, 3) == [0, 0, 0]


def test_the_gradient_of_a_convolution_is_its_kernel():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    found = gradient(conv, torch.randn(2, 7, 8), (2, 5), 1)
    expected = np.zeros((7, 8))
    expected[1:4, 4:7] = conv.weight[1].abs().sum(0).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert conv.training


def test_radius_and_widths():
    """A plus of ones: 5 voxels, of which 3 lie on the second axis."""
    field = np.zeros((9, 9))
    field[3:6, 4] = field[4, 3:6] = 1
    assert radius(field, (4, 4), (2.0, 1.0), share=0.5) == 1
    assert radius(field, (4, 4), (2.0, 1.0)) == 2
    assert widths(field, (4, 4), share=0.6) == [1, 1]
    assert widths(field, (4, 4)) == [3, 3]
    assert np.isnan(radius(0 * field, (4, 4), (1, 1)))
    assert widths(0 * field, (4, 4)) == [0, 0]
