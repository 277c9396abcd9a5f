"""The U-Net on timm: what of it differs from the networks of `test_any_size.py`."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from .small import image, network


@pytest.mark.parametrize("encoder", ["test_convnext", "resnet18", "mobilenetv4_conv_small", "maxvit_rmlp_pico_rw_256"])
@torch.no_grad()
def test_encoders_of_all_families(encoder):
    net = network("timm_unet", 2, encoder=encoder).eval()
    assert [tuple(y.shape[2:]) for y in net.forward_pyramid(image(70, 40))] == [(70, 40), (18, 10), (9, 5), (5, 3)]


@torch.no_grad()
def test_the_decoder_step_by_step():
    net, x = network("timm_unet", 2).eval(), image(64, 64)
    *skips, y = net.encoder(x)
    for stage, skip in zip((3, 2, 1), reversed(skips), strict=True):
        y = net.decoder[stage](torch.cat([F.interpolate(y, scale_factor=2, mode="bilinear"), skip], 1))
    y = net.decoder[0](F.interpolate(y, scale_factor=4, mode="bilinear"))
    torch.testing.assert_close(net(x), net.heads[0](y))


def test_pretrained_weights_of_a_file(tmp_path):
    torch.manual_seed(3)
    source = timm.create_model("test_convnext").state_dict()
    save_file(source, tmp_path / "w.safetensors")
    net = network("timm_unet", 2, in_channels=3, pretrained=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, source[key]) for key, value in net.encoder.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 0}, "img_size needs one or two positive sizes, got 0"),
        ({"img_size": (64, 64, 64)}, "img_size needs one or two positive sizes"),
        ({"channels": (4, 4, 8)}, "channels needs four entries"),
        ({"channels": (4, 4, 8, 0)}, "channels must be positive"),
        ({"supervised_scales": 5}, "supervised_scales must be 1 to 4, got 5"),
        ({"norm": "group"}, "norm must be one of"),
        ({"encoder": "resnet_18"}, "no model called 'resnet_18'; did you mean 'resnet18'"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        network("timm_unet", 2, **arguments)
