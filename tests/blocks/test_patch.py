import pytest
import torch

from dlka_med.blocks import PatchDownsample, PatchUpsample


@pytest.mark.parametrize(("size", "stride"), [((7, 8), (2, 3)), ((5, 8, 9), (1, 2, 4)), ((4, 4, 6), 2)])
@pytest.mark.parametrize("channels", [(1, 6), (4, 6), (5, 7)])
def test_shapes_and_inverse_steps(size, stride, channels):
    dims = len(size)
    steps = (stride,) * dims if isinstance(stride, int) else stride
    down = PatchDownsample(dims, *channels, stride)
    y = down(torch.randn(2, channels[0], *size))
    small = tuple(n // s for n, s in zip(size, steps, strict=True))
    assert y.shape == (2, channels[1], *small)
    groups = y.reshape(2, down.norm.num_groups, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(groups.shape[:2]), atol=1e-5, rtol=0)
    up = PatchUpsample(dims, channels[1], channels[0], stride)(y)
    assert up.shape == (2, channels[0], *(n * s for n, s in zip(small, steps, strict=True)))


def test_groups_are_the_input_channels_where_they_divide():
    assert PatchDownsample(3, 32, 64, 2).norm.num_groups == 32
    assert PatchDownsample(3, 4, 6, 2).norm.num_groups == 2


@pytest.mark.parametrize("layer", [PatchDownsample, PatchUpsample])
def test_bad_arguments(layer):
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3"):
        layer(1, 2, 4, 2)
