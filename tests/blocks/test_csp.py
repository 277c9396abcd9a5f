import pytest
import torch
from monai.networks import eval_mode
from torch import nn
from torch.nn import functional as F

from dlka_med.blocks import C3_DCNv3_DLKA, DeformableBottleneck
from dlka_med.layers import DCNv3, read_offsets

SIZES = {2: (7, 6), 3: (4, 5, 3)}


def block(*arguments, **keywords):
    torch.manual_seed(0)
    return C3_DCNv3_DLKA(*arguments, **keywords)


def image(spatial_dims, channels):
    return torch.randn(2, channels, *SIZES[spatial_dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("arguments", "hidden"),
    [((6, 8), 4), ((8, 8, 2), 4), ((3, 12, 1, False, 3), 6), ((4, 6, 2, True, 2, 1.0), 6), ((4, 5), 2)],
)
def test_shapes_in_evaluation(spatial_dims, arguments, hidden):
    module = block(*arguments, spatial_dims=spatial_dims)
    assert module.cv1[0].out_channels == hidden
    assert len(module.m) == (arguments[2] if len(arguments) > 2 else 1)
    with eval_mode(module):
        y = module(image(spatial_dims, arguments[0]))
    assert y.shape == (2, arguments[1], *SIZES[spatial_dims])
    assert y.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_is_the_formula(spatial_dims, shortcut, norm):
    module, x = block(6, 8, 2, shortcut, 2, spatial_dims=spatial_dims, norm=norm), image(spatial_dims, 6)

    def normed(y):
        """Fresh BatchNorm in training and InstanceNorm, without their own code."""
        axes = (0, *range(2, y.ndim)) if norm == "batch" else tuple(range(2, y.ndim))
        return (y - y.mean(axes, keepdim=True)) / (y.var(axes, keepdim=True, correction=0) + 1e-5).sqrt()

    def conv(layers, y):
        weight = layers[0].weight.flatten(1)
        return F.silu(normed(torch.einsum("oc,bc...->bo...", weight, y)))

    y = conv(module.cv1, x)
    for bottleneck in module.m:
        z = bottleneck.attention(F.silu(normed(bottleneck.deform[0](conv(bottleneck.conv, y)))))
        y = y + z if shortcut else z
    expected = conv(module.cv3, torch.cat([y, conv(module.cv2, x)], 1))
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_g_is_the_group_count_of_every_dcnv3_and_all_of_it_learns(spatial_dims):
    module, x = block(6, 16, 2, True, 4, spatial_dims=spatial_dims), image(spatial_dims, 6)
    layers = [layer for layer in module.modules() if isinstance(layer, DCNv3)]
    assert [layer.geometry.kernel_size[0] for layer in layers] == [3, 5, 7] * 2
    assert {layer.geometry.offset_groups for layer in layers} == {4}
    for layer in layers:
        nn.init.normal_(layer.offset.weight, std=0.1)
        nn.init.normal_(layer.mask.weight, std=0.1)
    assert len(read_offsets(module, x)) == 6
    (module(x) * image(spatial_dims, 16)).sum().backward()
    assert [name for name, parameter in module.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_bottleneck_adds_its_input_only_where_the_channels_agree(spatial_dims):
    x = image(spatial_dims, 4)
    for channels, shortcut, added in ((4, True, True), (4, False, False), (6, True, False)):
        module = DeformableBottleneck(4, channels, shortcut, spatial_dims=spatial_dims).eval()
        nn.init.zeros_(module.deform[1].weight)
        nn.init.zeros_(module.attention.project_out.weight)
        nn.init.zeros_(module.attention.project_out.bias)
        expected = x if added else torch.zeros(2, channels, *SIZES[spatial_dims])
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"g": 3}, r"g must divide the hidden channels int\(c2 \* e\) = 4, got 3"),
        ({"g": 0}, "g must be at least 1, got 0"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"c1": 0}, "c1 must be at least 1, got 0"),
        ({"e": 0.1}, r"hidden channels int\(c2 \* e\) must be at least 1, got 0"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"norm": "layer"}, "norm must be one of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        C3_DCNv3_DLKA(**{"c1": 4, "c2": 8} | arguments)
