import pytest
import torch
from monai.networks import eval_mode
from torch import nn
from torch.nn import functional as F

from dlka_med.blocks import DLKABlock
from dlka_med.blocks.dlka_block import DropPath

SIZES = {2: (6, 7), 3: (4, 5, 6)}
SMALL = {"kernel_size": 3, "dilated_kernel_size": 3, "dilation": 2}


def block(spatial_dims, **arguments):
    torch.manual_seed(0)
    return DLKABlock(4, spatial_dims, **(SMALL | arguments))


def image(spatial_dims, channels=4):
    return torch.randn(2, channels, *SIZES[spatial_dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("deformation", ["none", "depthwise", "dcnv3", "dense"])
@pytest.mark.parametrize("feed_forward", ["residual_conv", "conv_mlp"])
def test_shape_layout_and_gradients(spatial_dims, deformation, feed_forward):
    module = block(spatial_dims, deformation=deformation, feed_forward=feed_forward, position_size=SIZES[spatial_dims])
    for name, parameter in module.named_parameters():
        if ".offset." in name or ".mask." in name:
            nn.init.normal_(parameter, std=0.1)
    x = image(spatial_dims).requires_grad_()
    y = module(x)
    assert y.shape == x.shape
    assert y.movedim(1, -1).is_contiguous()
    y.square().sum().backward()
    assert x.grad is not None
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("deformation", ["none", "depthwise", "dcnv3", "dense", None])
@pytest.mark.parametrize("channels", [1, 5, 8])
def test_shapes_in_evaluation_as_monai_tests_its_blocks(spatial_dims, deformation, channels):
    module = DLKABlock(channels, spatial_dims, deformation, **SMALL)
    for size in (SIZES[spatial_dims], (1,) * spatial_dims):
        with eval_mode(module):
            x = torch.randn(1, channels, *size)
            y = module(x)
        assert not y.requires_grad
        assert y.shape == x.shape
        assert y.isfinite().all()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_default_deformation_is_dcnv3_in_2d_and_dense_in_3d(spatial_dims):
    default, named = block(spatial_dims), block(spatial_dims, deformation={2: "dcnv3", 3: "dense"}[spatial_dims])
    assert str(default) == str(named)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_residual_conv_block_is_the_formula(spatial_dims):
    module = block(spatial_dims, deformation="none", layer_scale=0.3, dropout=0.5).eval()
    x = image(spatial_dims)
    per_channel = (-1, *[1] * spatial_dims)
    normed = F.layer_norm(x.movedim(1, -1), (4,), module.attention_norm.weight, module.attention_norm.bias)
    x1 = x + 0.3 * torch.ones(4).view(per_channel) * module.attention(normed.movedim(-1, 1))
    conv, _, pointwise = module.feed_forward
    y = F.leaky_relu(conv.norm1(conv.conv1(x1)), 0.01)
    y = F.leaky_relu(conv.norm2(conv.conv2(y)) + x1, 0.01)
    torch.testing.assert_close(module(x), x1 + pointwise(y))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_conv_mlp_block_is_the_formula(spatial_dims):
    module = block(spatial_dims, deformation="none", feed_forward="conv_mlp", layer_scale=0.3, mlp_ratio=2)
    x = image(spatial_dims)
    x1 = x + 0.3 * module.attention(module.attention_norm(x))
    norm, conv1, depthwise, _, _, conv2, _ = module.feed_forward
    assert depthwise.groups == depthwise.in_channels == 8
    expected = x1 + 0.3 * conv2(F.gelu(depthwise(conv1(norm(x1)))))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_position_is_added_and_interpolated(spatial_dims):
    size = SIZES[spatial_dims]
    module = block(spatial_dims, deformation="none", position_size=size).eval()
    plain = block(spatial_dims, deformation="none").eval()
    plain.load_state_dict(module.state_dict(), strict=False)
    nn.init.normal_(module.position)
    assert module.position.shape == (*size, 4)
    x = image(spatial_dims)
    torch.testing.assert_close(module(x), plain(x + module.position.movedim(-1, 0)))

    ramp = torch.arange(size[0]).float().view(-1, *[1] * spatial_dims).expand(*size, 4)
    module.position.data.copy_(ramp)
    big = torch.zeros(1, 4, 2 * size[0], *size[1:])
    steps = (torch.arange(2 * size[0]) / 2 - 0.25).clamp(0, size[0] - 1).view(-1, *[1] * (spatial_dims - 1))
    torch.testing.assert_close(module(big), plain(big + steps))


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    assert (y == y[:, :1, :1]).all()
    assert set(y.unique().tolist()) <= {0.0, y.max().item()}
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x


def test_drop_path_of_a_block_skips_both_branches():
    module = block(3, deformation="none", drop_path=0.999)
    x = image(3)
    torch.testing.assert_close(module(x), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims"),
        ({"feed_forward": "mlp"}, "feed_forward must be one of 'residual_conv', 'conv_mlp', got 'mlp'"),
        ({"position_size": (4, 4)}, "position_size needs 3 sizes"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
        ({"norm": "group"}, "norm must be one of"),
        ({"deformation": "dcn"}, "deformation must be one of 'none', 'depthwise', 'dcnv3', 'dense', .* got 'dcn'"),
        ({"deformation": "dcnv3", "offset_groups": 3}, "channels: expected a multiple of group=3, got 4"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DLKABlock(**({"channels": 4, "spatial_dims": 3} | arguments))
