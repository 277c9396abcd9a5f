import pytest
import torch
from torch.nn import functional as F

from dlka_med.blocks import LargeKernelAttention

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
@pytest.mark.parametrize("deformation", ["none", "depthwise", "dense"])
def test_gradients_reach_all_parameters(spatial_dims, deformation):
    module = attention(spatial_dims, deformation, kernel_size=3, dilated_kernel_size=3)
    module(image(spatial_dims)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"deformation": "full"}, "deformation must be one of 'none', 'depthwise', 'dcnv3', 'dense', got 'full'"),
        ({"dilated_kernel_size": 4}, "dilated_kernel_size must be odd"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LargeKernelAttention(**({"channels": 4, "spatial_dims": 3} | arguments))
