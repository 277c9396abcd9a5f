"""The record of the geometry, against torch's own convolutions."""

import dataclasses

import pytest
import torch

from dlka_med.ops.geometry import Geometry


@pytest.mark.parametrize("kernel", [1, 2, 3, (2, 5)])
@pytest.mark.parametrize("stride", [1, (3, 2)])
@pytest.mark.parametrize("padding", [0, (2, 1)])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
def test_output_size_is_that_of_a_convolution(kernel, stride, padding, dilation):
    geometry = Geometry.of(2, kernel, stride, padding, dilation)
    conv = torch.nn.Conv2d(1, 1, kernel, stride, padding, dilation, device="meta")
    assert geometry.output_size((11, 14)) == conv(torch.zeros(1, 1, 11, 14, device="meta")).shape[2:]


def test_kernel_points_run_along_the_last_axis_first():
    geometry = Geometry.of(2, (2, 3), dilation=(4, 2))
    assert geometry.kernel_points == ((0, 0), (0, 2), (0, 4), (4, 0), (4, 2), (4, 4))
    assert (geometry.points, geometry.spatial_dims) == (6, 2)


def test_the_record_is_frozen():
    geometry = Geometry.of(3, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        geometry.groups = 2
    assert hash(geometry) == hash(Geometry.of(3, (3, 3, 3)))
