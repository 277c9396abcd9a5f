"""The example runs and learns, and its networks are what it says."""

import runpy
from pathlib import Path

import pytest
import torch
from monai.networks import eval_mode

from dlka_med.blocks import C3_DCNv3_DLKA, DLKABlock

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "blocks_in_networks.py"
NAMES = runpy.run_path(str(EXAMPLE))


def unet(spatial_dims):
    return NAMES["UNetWithDLKA"](spatial_dims, in_channels=1, out_channels=2, channels=(4, 8, 12), strides=(2, 2))


NETWORKS = {
    "unet 2d": (lambda: unet(2), 2, DLKABlock, [12]),
    "unet 3d": (lambda: unet(3), 3, DLKABlock, [12]),
    "segresnet 2d": (lambda: NAMES["segresnet_with_dlka"](2), 2, DLKABlock, [8, 16, 32]),
    "segresnet 3d": (lambda: NAMES["segresnet_with_dlka"](3), 3, DLKABlock, [8, 16, 32]),
    "csp 2d": (lambda: NAMES["CSPNet"](8), 2, C3_DCNv3_DLKA, [8, 16, 8]),
}


@pytest.mark.parametrize(("build", "spatial_dims", "block", "channels"), NETWORKS.values(), ids=NETWORKS)
def test_blocks_stand_where_the_example_says_and_keep_the_shape(build, spatial_dims, block, channels):
    torch.manual_seed(0)
    network = build()
    seen = []
    for part in network.modules():
        if isinstance(part, block):
            part.register_forward_hook(lambda _part, _inputs, y: seen.append(tuple(y.shape)))
    with eval_mode(network):
        y = network(torch.randn(2, 1, *(16, 8, 12)[:spatial_dims]))
    assert y.shape == (2, 2, *(16, 8, 12)[:spatial_dims])
    assert [shape[1] for shape in seen] == channels


def test_every_network_learns(capsys):
    NAMES["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["UNetWithDLKA", "SegResNet", "CSPNet"]
    for line in lines:
        losses = [float(loss) for loss in line.split()[3:]]
        assert losses[-1] < 0.8 * losses[0]
