import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlka_med.blocks import LargeKernelAttention
from dlka_med.layers import DCNv3, DeformConv, read_offsets

SIZES = {2: (9, 7), 3: (7, 5, 6)}
CONV = {2: F.conv2d, 3: F.conv3d}


def attention(spatial_dims, deformation, **arguments):
    torch.manual_seed(0)
    return LargeKernelAttention(4, spatial_dims, deformation, **arguments).double()


def image(spatial_dims):
    return torch.randn(2, 4, *SIZES[spatial_dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_plain_attention_is_the_formula(spatial_dims, bias):
    module = attention(spatial_dims, "none", bias=bias, kernel_size=3, dilated_kernel_size=5, dilation=2)
    x, conv, gate = image(spatial_dims), CONV[spatial_dims], module.gate
    y = F.gelu(conv(x, module.project_in.weight, module.project_in.bias))
    kernel = conv(y, gate.depthwise.weight, gate.depthwise.bias, padding=1, groups=4)
    kernel = conv(kernel, gate.dilated.weight, gate.dilated.bias, padding=4, dilation=2, groups=4)
    y = y * conv(kernel, gate.pointwise.weight, gate.pointwise.bias)
    expected = x + conv(y, module.project_out.weight, module.project_out.bias)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
    assert (gate.depthwise.bias is not None) == bias


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_deformation_without_offsets_is_the_plain_gate(spatial_dims, bias):
    plain = attention(spatial_dims, "none", bias=bias, dilated_kernel_size=3)
    deformable = attention(spatial_dims, "depthwise", bias=bias, dilated_kernel_size=3)
    keys = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(".offset_conv." in key for key in keys.missing_keys)
    x = image(spatial_dims)
    torch.testing.assert_close(deformable(x), plain(x), rtol=1e-12, atol=1e-12)
    torch.nn.init.constant_(deformable.gate.dilated.offset_conv.bias, 0.5)
    assert not torch.allclose(deformable(x), plain(x), atol=1e-3)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_dense_deformation_without_offsets_is_a_dense_convolution(spatial_dims):
    plain = attention(spatial_dims, "none")
    deformable = attention(spatial_dims, "dense")
    deformable.load_state_dict(plain.state_dict(), strict=False)
    x, gate = image(spatial_dims), deformable.gate
    convolved = CONV[spatial_dims](x, gate.dense.weight, gate.dense.bias, padding=1)
    torch.testing.assert_close(gate.dense(x), convolved, rtol=1e-12, atol=1e-12)
    torch.nn.init.dirac_(gate.dense.weight)
    torch.nn.init.zeros_(gate.dense.bias)
    torch.testing.assert_close(deformable(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_dcnv3_deformation_starts_as_averages_over_its_kernels(spatial_dims):
    """Both layers have the kernels and dilations of the plain gate."""
    module, conv = (
        attention(spatial_dims, "dcnv3", kernel_size=3, dilated_kernel_size=5, dilation=2),
        CONV[spatial_dims],
    )

    def linear(layer, x):
        return layer(x.movedim(1, -1)).movedim(-1, 1)

    def averaged(layer, x, size, dilation):
        box = x.new_full((4, 1, *[size] * spatial_dims), size**-spatial_dims)
        sums = conv(linear(layer.input_proj, x), box, padding=dilation * (size // 2), dilation=dilation, groups=4)
        return linear(layer.output_proj, sums)

    x, gate = image(spatial_dims), module.gate
    kernel = averaged(gate.dilated, averaged(gate.depthwise, x, 3, 1), 5, 2)
    torch.testing.assert_close(gate(x), x * gate.pointwise(kernel), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spatial_dims", "deformation"), [(2, "dcnv3"), (3, "dense")])
def test_the_default_deformation_and_kernels(spatial_dims, deformation):
    module = LargeKernelAttention(8, spatial_dims)
    assert str(module) == str(LargeKernelAttention(8, spatial_dims, deformation))
    moving = [(name, part.geometry) for name, part in module.named_modules() if isinstance(part, DCNv3 | DeformConv)]
    found = {name: (g.kernel_size[0], g.dilation[0], g.padding[0], g.offset_groups) for name, g in moving}
    if deformation == "dense":
        assert found == {"gate.dense": (3, 1, 1, 1)}
    else:
        assert found == {"gate.depthwise": (5, 1, 2, 4), "gate.dilated": (7, 3, 9, 4)}


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 4), (5, 1), (6, 3), (96, 4)])
def test_dcnv3_has_up_to_four_groups(channels, groups):
    assert LargeKernelAttention(channels, 2, "dcnv3").gate.dilated.geometry.offset_groups == groups


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("deformation", "twin"), [("dense", "wide_dense"), ("depthwise", "wide_depthwise")])
def test_the_wide_twin_has_as_many_parameters(spatial_dims, deformation, twin):
    counts = [
        sum(p.numel() for p in attention(spatial_dims, name, offset_groups=2).parameters())
        for name in (deformation, twin)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_still_twin_is_the_deformable_gate_before_it_moves(spatial_dims):
    still, deformable = attention(spatial_dims, "still_dense"), attention(spatial_dims, "dense")
    keys = deformable.load_state_dict(still.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(".offset_conv." in key for key in keys.missing_keys)
    x = image(spatial_dims)
    torch.testing.assert_close(deformable(x), still(x), rtol=1e-12, atol=1e-12)


MOVING = {
    "none": [],
    "depthwise": ["depthwise", "dilated"],
    "dcnv3": ["depthwise", "dilated"],
    "dense": ["dense"],
    "still_dense": [],
    "wide_dense": [],
    "wide_depthwise": [],
}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("deformation", MOVING)
def test_learned_offsets_can_be_read_and_limited(spatial_dims, deformation):
    settings = {"kernel_size": 3, "dilated_kernel_size": 3, "offset_groups": 2, "offset_limit": 1.5}
    module, x = attention(spatial_dims, deformation, **settings), image(spatial_dims)
    start = read_offsets(module, x)
    assert list(start) == [f"gate.{name}" for name in MOVING[deformation]]
    assert all(offsets.shape == (2, 2, 3**spatial_dims, spatial_dims, *x.shape[2:]) for offsets in start.values())
    assert not any(offsets.any() for offsets in start.values())
    disturb(module, 5.0)
    moved = read_offsets(module, x)
    assert all(1.4 < offsets.abs().max() <= 1.5 for offsets in moved.values())


def disturb(module, std=0.1):
    """Let offsets and modulation, which start constant, depend on the image."""
    for name, parameter in module.named_parameters():
        if name.rsplit(".", 2)[-2] in ("offset", "mask", "offset_conv"):
            nn.init.normal_(parameter, std=std)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("deformation", MOVING)
def test_gradients_reach_all_parameters(spatial_dims, deformation):
    module = attention(spatial_dims, deformation, kernel_size=3, dilated_kernel_size=3)
    disturb(module)
    module(image(spatial_dims)).square().sum().backward()
    assert [name for name, parameter in module.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"deformation": "full"}, "deformation must be one of 'none', 'depthwise', 'dcnv3', 'dense', .* got 'full'"),
        ({"dilated_kernel_size": 4}, "dilated_kernel_size must be odd"),
        ({"deformation": "dcnv3", "offset_groups": 3}, "channels: expected a multiple of group=3, got 4; nearest: 3"),
        ({"deformation": "dense", "offset_groups": 3}, "expected a multiple of offset_groups=3, got 4"),
        ({"deformation": "dcnv3", "offset_limit": 0.0}, "offset_limit: expected a positive number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LargeKernelAttention(**({"channels": 4, "spatial_dims": 3} | arguments))
