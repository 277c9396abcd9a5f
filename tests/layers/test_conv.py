"""Convolutions as layers are those of torch."""

import pytest
import torch
from torch import nn

from dlka_med.layers.conv import CONV, Conv2d, Conv3d

ARGUMENTS = [
    {"padding": 1},
    {"padding": 2, "dilation": 2, "groups": 4},
    {"stride": 2, "bias": False},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_as_torch(dims, arguments, batch):
    ours, plain = CONV[dims](4, 4, 3, **arguments), {2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 4, 3, **arguments)
    assert isinstance(ours, type(plain))
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(batch, 4, *(17, 16, 9)[:dims])
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "size"), [(Conv2d, (20, 20)), (Conv3d, (8, 8, 8))])
def test_an_image_without_a_batch(ours, size):
    conv = ours(3, 4, 3, padding=1)
    x = torch.randn(3, *size)
    torch.testing.assert_close(conv(x), conv(x[None])[0], rtol=1e-5, atol=1e-5)
