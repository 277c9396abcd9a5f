import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from dlka_med.layers.offsets import deformable_layers
from dlka_med.networks import NETWORKS, DLKANet2d, build_network

SMALL = {"in_channels": 1, "out_channels": 3, "img_size": 64, "encoder": "convnext_atto"}
PICO = {"encoder": "maxvit_rmlp_pico_rw_256"}


def network(**arguments):
    torch.manual_seed(0)
    return DLKANet2d(**SMALL | arguments)


def image(*size, channels=1, batch=2):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def randomised(net):
    """Some parameters start at zero, so that those before them get no gradient at first."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize(
    ("arguments", "size", "scales"),
    [
        ({}, (64, 64), [(64, 64)]),
        ({"supervised_scales": 4}, (33, 70), [(33, 70), (9, 18), (5, 9), (3, 5)]),
        ({"in_channels": 3, "deformation": "depthwise"}, (1, 5), [(1, 5)]),
        ({"in_channels": 5, "deformation": "none", "depths": (1, 2, 1)}, (31, 32), [(31, 32)]),
        ({"deformation": "dense", "supervised_scales": 2}, (40, 24), [(40, 24), (10, 6)]),
        ({"encoder": "resnet18", "supervised_scales": 3}, (50, 37), [(50, 37), (13, 10), (7, 5)]),
        ({"encoder": "mobilenetv4_conv_small"}, (45, 64), [(45, 64)]),
        (PICO | {"in_channels": 3, "supervised_scales": 2}, (65, 64), [(65, 64), (17, 16)]),
        (PICO | {"img_size": (50, 90)}, (50, 90), [(50, 90)]),
        ({"encoder": "swin_tiny_patch4_window7_224", "depths": (1, 1, 1)}, (40, 70), [(40, 70)]),
    ],
)
def test_shapes(arguments, size, scales):
    net = network(**arguments).eval()
    x = image(*size, channels=net.in_channels)
    with torch.no_grad():
        pyramid = net.forward_pyramid(x)
        logits = net(x)
    assert [tuple(y.shape) for y in pyramid] == [(2, 3, *scale) for scale in scales]
    assert scales == [tuple(-(-n // s) for n, s in zip(size, steps, strict=True)) for steps in net.scale_strides]
    assert torch.equal(logits, pyramid[0])
    assert all(y.isfinite().all() for y in pyramid)


def test_a_padded_image_gives_the_logits_of_the_image_with_zeros_at_the_far_end():
    net, x = network(supervised_scales=3).eval(), image(50, 33)
    padded = torch.zeros(2, 1, 64, 64)
    padded[..., :50, :33] = x
    with torch.no_grad():
        for got, want in zip(net.forward_pyramid(x), net.forward_pyramid(padded), strict=True):
            torch.testing.assert_close(got, want[..., : got.shape[2], : got.shape[3]])


@pytest.mark.parametrize("deformation", ["none", "depthwise", "dcnv3", "dense"])
@pytest.mark.parametrize("encoder", ["convnext_atto", "resnet18", "maxvit_rmlp_pico_rw_256", "mobilenetv4_conv_small"])
def test_every_parameter_gets_a_gradient(encoder, deformation):
    net = randomised(network(encoder=encoder, deformation=deformation, supervised_scales=4))
    sum(y.square().mean() for y in net.forward_pyramid(image(64, 64))).backward()
    # One number added to all logits of a softmax changes nothing: that bias of MaxViT gets rounding errors or zero.
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in silent if not name.endswith("rel_pos.mlp.fc2.bias")] == []


def test_each_decoder_stage_has_its_own_gate():
    net = network(encoder="convnext_atto", depths=(1, 1, 2), deformation=("absent", "none", "depthwise"))
    names = [f"decoder.2.{block}.attention.gate.{conv}" for block in (0, 1) for conv in ("depthwise", "dilated")]
    assert list(deformable_layers(net)) == names
    assert [block.attention is None for stage in net.decoder for block in stage] == [True, False, False, False]
    with pytest.raises(ValueError, match="deformation needs one choice for all stages or 3"):
        network(deformation=("none", "depthwise"))


def test_forward_runs_the_finest_head_only():
    net = network(supervised_scales=2)
    net(image(32, 32)).sum().backward()
    assert net.heads[0].weight.grad is not None
    assert net.heads[1].weight.grad is None


def test_evaluation_is_deterministic_and_training_is_not():
    net, x = network(dropout=0.5, drop_path=0.3), image(32, 32)
    assert not torch.equal(net(x), net(x))
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoder", ["convnext_atto", "maxvit_rmlp_pico_rw_256"])
def test_maps_stay_channels_last_between_blocks(channels, encoder):
    net = network(in_channels=channels, encoder=encoder)
    layouts = []
    for name, module in net.named_modules():
        if name.startswith(("expanders", "projections", "decoder")) and name.count(".") <= 2:
            module.register_forward_hook(
                lambda _module, _inputs, y, name=name: layouts.append((name, y.stride(1) == 1))
            )
    net(image(64, 64, channels=channels))
    assert len(layouts) > 10
    # The norm of a patch expanding works on the channels of each pixel, which stand last.
    assert [name for name, last in layouts if not last and not name.endswith("norm")] == []


@pytest.mark.parametrize("deformation", ["none", "dcnv3"])
def test_checkpointing_changes_nothing(deformation):
    results = []
    for checkpointing in (False, True):
        net = randomised(network(dropout=0.3, drop_path=0.2, deformation=deformation, checkpointing=checkpointing))
        torch.manual_seed(1)
        logits = net(image(32, 32))
        logits.square().mean().backward()
        results.append((logits, {name: parameter.grad for name, parameter in net.named_parameters()}))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ["convnext_atto", pytest.param(PICO["encoder"], marks=pytest.mark.slow)])
def test_export(encoder):
    net, x = network(encoder=encoder, depths=(1, 1, 1)).eval(), image(50, 64, batch=1)
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


def test_weights_survive_safetensors():
    net, other = network(), network()
    nn.init.normal_(net.heads[0].weight)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in net.state_dict().items()})))
    x = image(32, 32)
    assert torch.equal(net.eval()(x), other.eval()(x))


def test_arguments_of_the_attention_are_passed_on():
    net = network(deformation="depthwise", kernel_size=3, dilated_kernel_size=5, dilation=2)
    gate = net.decoder[0][0].attention.gate
    assert gate.depthwise.weight.shape == (40, 1, 3, 3)
    assert gate.dilated.weight.shape == (40, 1, 5, 5)
    assert gate.depthwise.bias is None
    assert network(deformation="depthwise", bias=True).decoder[0][0].attention.gate.depthwise.bias is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"img_size": (64, 64, 64)}, "img_size needs one or two positive sizes"),
        ({"img_size": 0}, "img_size needs one or two positive sizes, got 0"),
        ({"depths": (1, 1)}, "depths needs three positive numbers"),
        ({"depths": (1, 0, 1)}, r"depths needs three positive numbers, one per decoder stage, got \(1, 0, 1\)"),
        ({"supervised_scales": 0}, "supervised_scales must be 1 to 4, got 0"),
        ({"supervised_scales": 5}, "supervised_scales must be 1 to 4, got 5"),
        ({"deformation": "sparse"}, "deformation must be one of"),
        ({"encoder": "resnet_18"}, "no model called 'resnet_18'; did you mean 'resnet18'"),
        ({"drop_path": 1.0}, "drop_path must be"),
        ({"dropout": 1.5}, "dropout"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 3, 64, 64), (1, 64, 64, 1), (1, 1, 64, 64, 64)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match=r"expected an image of shape \(batch, 1, height, width\), got \("):
        network()(torch.zeros(shape))


def test_the_published_size():
    with torch.device("meta"):
        published = DLKANet2d(deformation="depthwise")
    assert sum(parameter.numel() for parameter in published.parameters()) == 78_583_005


def test_build_network_knows_it():
    assert isinstance(build_network("dlka_net_2d", **SMALL), NETWORKS["dlka_net_2d"])
