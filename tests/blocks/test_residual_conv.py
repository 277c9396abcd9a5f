import pytest
import torch
from monai.networks.blocks import UnetResBlock

from dlka_med.blocks import ResidualConv

SIZES = {2: (6, 7), 3: (5, 4, 6)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [(3, 3), (1, 5)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_agrees_with_monai(spatial_dims, channels, norm):
    torch.manual_seed(0)
    theirs = UnetResBlock(spatial_dims, *channels, kernel_size=3, stride=1, norm_name=norm)
    ours = ResidualConv(spatial_dims, *channels, norm=norm)
    names = {"conv1.conv": "conv1", "conv2.conv": "conv2", "conv3.conv": "shortcut.0", "norm3": "shortcut.1"}
    state = theirs.state_dict()
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    ours.load_state_dict(state)

    x = torch.randn(2, channels[0], *SIZES[spatial_dims], requires_grad=True)
    got, want = ours(x), theirs(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(want)
    got, want = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, want))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="norm must be one of"):
        ResidualConv(3, 4, 4, norm="group")
