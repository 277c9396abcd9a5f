"""Channels innermost, also where one channel leaves it open."""

import pytest
import torch

from dlka_med.ops.layout import channels_last


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(4, 5), (4, 5, 6)])
def test_values_stay_and_channels_come_last(channels, size):
    x = torch.randn(2, channels, *size)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride(1) == 1
    assert y.stride(-1) == channels
    assert channels_last(y) is y
