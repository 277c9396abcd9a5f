"""Multiply-adds by type and stage against counts by hand; every network falls into parts that sum up."""

import pytest
from torch import nn

from dlka_med.inspection.parts import by_type, stages
from dlka_med.layers import DCNv3, DeformConv
from dlka_med.networks import DLKANet3d
from dlka_med.ops.multiply_adds import multiply_adds, work_of_modules
from tests.networks import small


def types_of(module, *shape):
    return by_type(module, work_of_modules(module, *shape))


def test_a_plain_convolution():
    """Positions, kernel points, channels in and out."""
    found = types_of(nn.Conv3d(2, 6, 3, padding=1), 1, 2, 4, 5, 6)
    assert found == {"convolution": (4 * 5 * 6) * 3**3 * 2 * 6}


def test_a_deformable_convolution_in_3d():
    """K = 27 points; offsets come from a dense convolution with 3 K outputs, each value of 8 voxels."""
    found = types_of(DeformConv(3, 4, 8, 3), 1, 4, 5, 6, 7)
    positions, points = 5 * 6 * 7, 3**3
    assert found == {
        "offsets and modulation": positions * points * 4 * (3 * points),
        "sampling": positions * points * 4 * 2**3,
        "deformable kernel": positions * points * 4 * 8,
    }


def test_a_dcnv3_in_2d():
    """G = 2 groups of K = 9 points; values and result are linear maps, the rest predicts."""
    found = types_of(DCNv3(channels=8, kernel_size=3, group=2, spatial_dims=2), 1, 8, 5, 6)
    positions, points = 5 * 6, 3**2
    assert found == {
        "linear map": positions * 8 * 8 + positions * 8 * 8,
        "offsets and modulation": positions * points * 8
        + positions * 8 * (2 * points * 2)
        + positions * 8 * 2 * points,
        "sampling": positions * points * 8 * 2**2,
        "deformable kernel": positions * points * 8,
    }


def test_a_whole_network():
    """D-LKA Net with two stages of 4 and 8 channels, strides 2 and 2, one block each, 2 channels and 3 classes."""
    network = DLKANet3d(
        2,
        3,
        (8, 8, 8),
        channels=(4, 8),
        depths=(1, 1),
        strides=(2, 2),
        full_resolution_channels=4,
        supervised_scales=1,
    )
    full, fine, coarse = 8**3, 4**3, 2**3  # voxels

    def block(voxels, c):
        """1x1 in and out, gate: 5 and dilated 7 depthwise, 3 dense, 1x1; feed-forward: 3, 3, 1x1."""
        return {
            "depthwise convolution": voxels * (5**3 + 7**3) * c,
            "1x1 convolution": voxels * c * c * (2 + 1 + 1),
            "offsets and modulation": voxels * 27 * c * (3 * 27),
            "sampling": voxels * 27 * c * 8,
            "deformable kernel": voxels * 27 * c * c,
            "convolution": 2 * voxels * 27 * c * c,
        }

    fine_block, coarse_block = block(fine, 4), block(coarse, 8)
    expected = {name: 2 * fine_block[name] + coarse_block[name] for name in fine_block}
    expected["convolution"] += fine * 8 * 2 * 4 + coarse * 8 * 4 * 8  # downsampling: kernels of 2
    expected["convolution"] += full * 27 * (2 * 4 + 4 * 4) + full * 27 * (4 * 4 + 4 * 4)  # residual convs at the end
    expected["1x1 convolution"] += full * 2 * 4 + full * 4 * 3  # their shortcut, and the head
    expected["transposed convolution"] = coarse * 8 * 8 * 4 + fine * 8 * 4 * 4
    found = types_of(network, 1, 2, 8, 8, 8)
    assert found == expected


@pytest.mark.parametrize(("name", "dims"), small.EVERY)
def test_stages_sum_up_to_the_network(name, dims):
    network = small.network(name, dims)
    parameters = sum(p.numel() for p in network.parameters())
    work = work_of_modules(network, 1, 2, *(64,) * dims)
    found = stages(network, work)
    assert sum(stage.parameters for stage in found) == parameters
    assert sum(stage.multiply_adds for stage in found) == sum(by_type(network, work).values())
    assert sum(stage.multiply_adds for stage in found) == multiply_adds(small.network(name, dims), 1, 2, *(64,) * dims)
    assert len({stage.shape[1:] for stage in found if stage.shape}) > 1
    assert all(len(stage.shape) == dims + 1 for stage in found if stage.shape)


def test_stages_by_name_size_and_gate():
    def build():
        sizes = {"channels": (4, 8), "depths": (2, 1), "strides": (2, 2), "supervised_scales": 2}
        return DLKANet3d(1, 2, (16, 16, 16), deformation=("absent", "dense"), **sizes)

    network = build()
    found = {stage.name: stage for stage in stages(network, work_of_modules(network, 1, 1, 16, 16, 16))}
    assert found["encoder.0.0"].shape == (4, 8, 8, 8)
    assert (found["encoder.0.0"].gates, found["encoder.1.0"].gates) == (("absent",), ("dense",))
    assert found["heads.1"].shape is None
    assert found["encoder.1.0"].parameters == sum(p.numel() for p in build().encoder[1].parameters())
