"""Networks of MONAI against what MONAI builds and computes itself, with the same weights."""

import subprocess
import sys

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.mednext import MedNeXt, create_mednext
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from torch.nn import functional as F

from dlka_med.networks import build_network

from .small import EVERY, SMALL, image, network

ORIGINALS = {
    "unet": lambda dims: UNet(dims, 2, 3, (4, 6, 8), (2, 2), num_res_units=2),
    "dynunet": lambda dims: DynUNet(
        dims, 2, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 8], deep_supervision=True, deep_supr_num=1
    ),
    "segresnet": lambda dims: SegResNet(dims, 8, 2, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
    "swin_unetr": lambda dims: SwinUNETR(
        2, 3, feature_size=12, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=2, spatial_dims=dims
    ),
    "mednext": lambda dims: MedNeXt(
        dims,
        4,
        2,
        3,
        kernel_size=3,
        deep_supervision=True,
        use_residual_connection=True,
        blocks_down=(1, 1),
        blocks_bottleneck=1,
        blocks_up=(1, 1),
    ),
}


def pair(name, dims):
    """Ours and MONAI's, with equal weights; DynUNet of MONAI has a second name for each."""
    ours, theirs = network(name, dims), ORIGINALS[name](dims)
    state = ours.model.state_dict()
    unnamed = theirs.load_state_dict(state, strict=False)
    assert not unnamed.unexpected_keys
    assert all(key.startswith("skip_layers.") for key in unnamed.missing_keys)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    return ours, theirs


def test_all_are_compared():
    assert set(SMALL) == set(ORIGINALS)
    assert {name for name, _ in EVERY} - set(SMALL) == {"timm_unet"}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ORIGINALS)
@torch.no_grad()
def test_logits_are_those_of_monai(name, dims):
    ours, theirs = (net.eval() for net in pair(name, dims))
    x = image(*(64, 32, 32)[:dims])
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_the_scales_of_dynunet_are_those_that_monai_enlarges(dims):
    ours, theirs = (net.train() for net in pair("dynunet", dims))
    x = image(*(32, 16, 16)[:dims])
    enlarged = [F.interpolate(y, x.shape[2:]) for y in ours.forward_pyramid(x)]
    torch.testing.assert_close(torch.stack(enlarged, 1), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_the_scales_of_mednext_are_those_of_monai(dims):
    ours, theirs = (net.train() for net in pair("mednext", dims))
    x = image(*(32, 16, 16)[:dims])
    torch.testing.assert_close(tuple(ours.forward_pyramid(x)), theirs(x))


@torch.no_grad()
def test_fewer_scales_of_mednext_are_the_finest():
    full, fewer = network("mednext", 2), network("mednext", 2, supervised_scales=2)
    state = full.model.state_dict()
    kept = {key.replace("out_blocks.1", "out_blocks.0"): v for key, v in state.items() if "out_blocks.0" not in key}
    fewer.model.load_state_dict(kept)
    x = image(32, 16)
    torch.testing.assert_close(fewer.forward_pyramid(x), full.forward_pyramid(x)[:2])


@pytest.mark.parametrize(
    ("variant", "depths", "expansions"),
    [
        ("S", (2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
        ("B", (2, 2, 2, 2, 2), (2, 3, 4, 4, 4)),
        ("M", (3, 4, 4, 4, 4), (2, 3, 4, 4, 4)),
        ("L", (3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
    ],
)
def test_the_published_sizes_of_mednext(variant, depths, expansions):
    with torch.device("meta"):
        ours = build_network("mednext", depths=depths, expansions=expansions, supervised_scales=1)
        theirs = create_mednext(variant)
    assert {k: v.shape for k, v in ours.model.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@pytest.mark.parametrize("name", ["unet", "dynunet"])
@torch.no_grad()
def test_strides_differ_from_axis_to_axis(name):
    strides = {"unet": ((2, 2, 1), (2, 2, 2)), "dynunet": (1, (2, 2, 1), (2, 2, 2))}[name]
    net = network(name, 3, strides=strides).eval()
    assert net.size_unit == (4, 4, 2)
    assert net(image(9, 17, 3)).shape == (2, 3, 9, 17, 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_recomputing_changes_nothing(dims):
    gradients = []
    for checkpointing in (False, True):
        net = network("swin_unetr", dims, checkpointing=checkpointing)
        net(image(*(64, 32, 32)[:dims])).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "swin_unetr"])
def test_batch_norm_and_dropout(name):
    net, x = network(name, 2, norm="batch", dropout=0.2), image(64, 64)
    assert not torch.equal(net(x), net(x))
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_monai_is_imported_with_the_first_network_alone():
    code = "import sys, dlka_med.networks; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
