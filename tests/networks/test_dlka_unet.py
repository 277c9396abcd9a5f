import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from safetensors.torch import load, save
from torch import nn

from dlka_med.blocks import LargeKernelAttention
from dlka_med.layers.offsets import deformable_layers
from dlka_med.networks import DLKAUNet

SMALL = {
    "in_channels": 2,
    "out_channels": 3,
    "channels": (4, 6),
    "depths": (1, 2),
    "strides": (2, 2),
    "full_resolution_channels": 4,
    "full_resolution": "residual",
    "deformation": "dense",
    "position_embedding": True,
    "norm": "batch",
    "dropout": 0.1,
}
both = pytest.mark.parametrize("dims", [2, 3])


def network(dims=3, **arguments):
    torch.manual_seed(0)
    return DLKAUNet(**(SMALL | {"img_size": (8, 12, 8)[:dims], "spatial_dims": dims} | arguments))


def image(*size, channels=2, batch=2):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arguments", "size", "scales"),
    [
        ({}, (8, 12, 8), [(8, 12, 8), (4, 6, 4)]),
        ({}, (7, 5, 9), [(7, 5, 9), (4, 3, 5)]),
        ({"in_channels": 1, "deformation": "none"}, (4, 4, 4), [(4, 4, 4), (2, 2, 2)]),
        ({"position_embedding": False, "deformation": "depthwise"}, (8, 4, 8), [(8, 4, 8), (4, 2, 4)]),
        ({"strides": ((1, 1, 1), (1, 2, 2))}, (3, 5, 6), [(3, 5, 6), (3, 5, 6)]),
        ({"strides": ((1, 2, 2), (2, 2, 3))}, (3, 10, 13), [(3, 10, 13), (3, 5, 7)]),
        ({"supervised_scales": 1, "norm": "instance"}, (5, 6, 7), [(5, 6, 7)]),
        (
            {"channels": (4, 5, 7), "depths": (1, 1, 1), "strides": ((2, 2, 2),) * 3, "supervised_scales": 3},
            (9, 8, 17),
            [(9, 8, 17), (5, 4, 9), (3, 2, 5)],
        ),
        ({"deformation": ("absent", "wide_dense"), "full_resolution": "light"}, (7, 5, 9), [(7, 5, 9), (4, 3, 5)]),
        ({"deformation": ("still_dense", "dense"), "full_resolution": "none"}, (7, 5, 9), [(7, 5, 9), (4, 3, 5)]),
        ({"position_embedding": False, "img_size": None, "deformation": "dcnv3"}, (7, 9), [(7, 9), (4, 5)]),
        ({"full_resolution": "stem", "norm": "instance", "strides": ((1, 2), (3, 2))}, (7, 9), [(7, 9), (7, 5)]),
    ],
)
def test_shapes(arguments, size, scales):
    net = network(len(size), **arguments).eval()
    x = image(*size, channels=net.in_channels)
    with torch.no_grad():
        pyramid = net.forward_pyramid(x)
        logits = net(x)
    assert [tuple(y.shape) for y in pyramid] == [(2, 3, *scale) for scale in scales]
    assert scales == [tuple(-(-n // s) for n, s in zip(size, steps, strict=True)) for steps in net.scale_strides]
    assert torch.equal(logits, pyramid[0])
    assert all(y.isfinite().all() for y in pyramid)


@both
def test_a_padded_image_gives_the_logits_of_the_image_with_zeros_at_the_far_end(dims):
    net, x = network(dims).eval(), image(*(7, 10, 5)[:dims])
    padded = torch.zeros(2, 2, *(8, 12, 8)[:dims])
    padded[(..., *map(slice, x.shape[2:]))] = x
    for got, want in zip(net.forward_pyramid(x), net.forward_pyramid(padded), strict=True):
        crop = tuple(slice(n) for n in got.shape[2:])
        torch.testing.assert_close(got, want[(..., *crop)])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"deformation": "depthwise"},
        {"norm": "instance"},
        {"full_resolution": "light", "deformation": ("absent", "dense")},
        {"full_resolution": "none", "deformation": ("wide_dense", "still_dense")},
        {"full_resolution": "stem", "norm": "instance"},
    ],
)
@both
def test_every_parameter_gets_a_gradient(dims, arguments):
    net = network(dims, **arguments)
    sum(y.square().mean() for y in net.forward_pyramid(image(*(16, 12, 16)[:dims]))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", ["stem", "light"])
@both
def test_images_as_monai_loads_them(dims, kind):
    net, x = network(dims, norm="instance", full_resolution=kind, dropout=0.0), image(*(8, 12, 8)[:dims])
    gradients = []
    for given in (MetaTensor(x), x):
        loss = sum(y.square().mean() for y in net.forward_pyramid(given))
        gradients.append([g.as_subclass(torch.Tensor) for g in torch.autograd.grad(loss, list(net.parameters()))])
    torch.testing.assert_close(*gradients)


def test_each_stage_has_its_own_gate_in_encoder_and_decoder():
    net = network(
        channels=(4, 5, 6),
        depths=(1, 2, 1),
        strides=(2, 2, 2),
        deformation=("absent", "none", "dense"),
    )
    deforming = {"encoder.2.0.attention.gate.dense"}
    assert set(deformable_layers(net)) == deforming
    with_attention = {name for name, part in net.named_modules() if isinstance(part, LargeKernelAttention)}
    assert with_attention == {f"{part}.attention" for part in ("encoder.1.0", "encoder.1.1", "encoder.2.0")} | {
        f"decoder.1.{block}.attention" for block in (0, 1)
    }
    listed = network(deformation=("dense", "dense"))
    assert str(listed) == str(network(deformation="dense"))


@pytest.mark.parametrize(("kind", "sees"), [("residual", True), ("stem", True), ("light", True), ("none", False)])
def test_whether_the_image_is_seen_at_full_resolution(kind, sees):
    """The way through the stages is closed, by weights of zero."""
    net = network(full_resolution=kind).eval()
    nn.init.zeros_(net.downsamplers[0].conv.weight)
    one, other = image(8, 8, 8), image(8, 8, 8)
    other[:, :, 3, 3, 3] += 1
    with torch.no_grad():
        assert torch.equal(net(one), net(other)) != sees


@pytest.mark.parametrize(("kind", "goes_on"), [("residual", False), ("stem", True), ("light", False)])
def test_the_encoder_goes_on_from_the_block_of_the_image_or_from_the_image(kind, goes_on):
    net, seen = network(full_resolution=kind, full_resolution_channels=4).eval(), []
    net.downsamplers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = image(8, 8, 8)
    with torch.no_grad():
        net(x)
        want = net.image_block(x) if goes_on else x
    assert torch.equal(seen[0], want)


def test_forward_runs_the_finest_head_only():
    net = network(supervised_scales=2)
    net(image(8, 8, 8)).sum().backward()
    assert net.heads[0].weight.grad is not None
    assert net.heads[1].weight.grad is None


def test_evaluation_is_deterministic_and_training_is_not():
    net, x = network(dropout=0.5), image(8, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-4)


def test_maps_stay_channels_last_between_blocks():
    net = network(in_channels=1)
    layouts = []
    for name, module in net.named_modules():
        if name.startswith(("downsamplers", "upsamplers", "encoder", "decoder")) and name.count(".") <= 2:
            module.register_forward_hook(
                lambda _module, _inputs, y, name=name: layouts.append((name, y.stride(1) == 1))
            )
    net(image(8, 12, 8, channels=1))
    assert layouts
    assert [name for name, channels_last in layouts if not channels_last] == []


@pytest.mark.parametrize("deformation", ["none", "dense"])
def test_checkpointing_changes_nothing(deformation):
    x, results = image(8, 12, 8), []
    for checkpointing in (False, True):
        net = network(dropout=0.3, deformation=deformation, checkpointing=checkpointing)
        torch.manual_seed(1)
        pyramid = net.forward_pyramid(x)
        sum(y.square().mean() for y in pyramid).backward()
        grads = {name: parameter.grad for name, parameter in net.named_parameters()}
        results.append((pyramid, grads, dict(net.named_buffers())))
        momenta = {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm3d)}
        assert momenta == {0.1}
    buffers = results[0][2]
    assert any(name.endswith("num_batches_tracked") and value == 1 for name, value in buffers.items())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@both
@pytest.mark.parametrize("deformation", [pytest.param("none", marks=pytest.mark.slow), "dense"])
def test_export(dims, deformation):
    net, x = network(dims, deformation=deformation).eval(), image(*(7, 12, 8)[:dims], batch=1)
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


def test_weights_survive_safetensors():
    net, other = network(), network()
    nn.init.normal_(net.heads[0].weight)
    other.load_state_dict(load(save(net.state_dict())))
    x = image(8, 8, 8)
    assert torch.equal(net.eval()(x), other.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (4, 6, 8)}, "one entry per stage each, got {'channels': 3, 'depths': 2, 'strides': 2}"),
        ({"channels": (4,), "depths": (1,), "strides": ((2, 2, 2),)}, "at least two stages"),
        ({"channels": (4, 0)}, r"channels must be positive, got \(4, 0\)"),
        ({"depths": (0, 1)}, "depths must be positive"),
        ({"strides": ((2, 2), (2, 2, 2))}, r"three positive steps, got \(2, 2\)"),
        ({"strides": 2}, "strides needs one or three whole numbers for each stage, got 2"),
        ({"strides": (2, None)}, r"strides needs one or three whole numbers for each stage, got \(2, None\)"),
        ({"strides": ((2, 2, 1.5), 2)}, "strides needs one or three whole numbers"),
        ({"strides": (0, 2)}, r"each entry of strides needs three positive steps, got \(0, 0, 0\)"),
        ({"strides": (2, 2, 2)}, "one entry per stage each"),
        ({"channels": 4}, "channels needs one whole number for each stage, got 4"),
        ({"depths": 1}, "depths needs one whole number for each stage, got 1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"full_resolution_channels": 0}, "full_resolution_channels must be at least 1"),
        ({"img_size": (8, 8)}, "img_size needs 3 positive sizes"),
        ({"img_size": None}, "position_embedding needs img_size"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"supervised_scales": 3}, "supervised_scales must be 1 to 2"),
        ({"deformation": "sparse"}, "deformation must be one of"),
        ({"deformation": ("dense",)}, r"deformation needs one choice for all stages or 2, .* got \('dense',\)"),
        (
            {"full_resolution": "heavy"},
            "full_resolution must be one of 'residual', 'stem', 'light', 'none', got 'heavy'",
        ),
        ({"norm": "layer"}, "norm must be one of"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)


def test_one_stride_is_that_of_all_axes():
    one, three = network(strides=[2, np.int64(2)]), network(strides=[[2, 2, 2], [2, 2, 2]])
    assert one.strides == three.strides == ((2, 2, 2), (2, 2, 2))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in three.state_dict().items()}
    mixed = network(strides=[(1, 2, 2), 2])
    assert mixed.strides == ((1, 2, 2), (2, 2, 2))
    assert mixed.scale_strides == [(1, 1, 1), (1, 2, 2)]


@pytest.mark.parametrize("shape", [(2, 8, 8, 8), (1, 3, 8, 8, 8), (1, 8, 8, 8, 2)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match=r"expected an image of shape \(batch, 2, x, y, z\), got \("):
        network()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"expected an image of shape \(batch, 2, x, y\), got \("):
        network(2)(torch.zeros(shape[:-1]))


@pytest.mark.parametrize("kind", ["residual", "stem", "light", "none"])
def test_images_are_volumes_of_one_slice(kind):
    """Kernels over three slices have the weights of the image's in the middle; the slices around are zeros."""
    alike = {"deformation": "none", "position_embedding": False, "full_resolution": kind, "norm": "instance"}
    flat, deep = network(2, **alike).eval(), network(3, strides=((2, 2, 1),) * 2, **alike).eval()
    weights = {}
    for name, there in deep.state_dict().items():
        here = flat.state_dict()[name]
        weights[name] = there.clone()
        if there.ndim == 5:
            weights[name] = torch.zeros_like(there)
            weights[name][..., there.shape[-1] // 2] = here
        else:
            weights[name] = here
    deep.load_state_dict(weights)
    x = image(7, 10)
    torch.testing.assert_close(deep(x[..., None])[..., 0], flat(x), rtol=1e-4, atol=1e-5)
