"""What holds for each network that can be compared with the D-LKA nets."""

import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from dlka_med.losses import PyramidLoss
from dlka_med.networks import NETWORKS, build_network
from dlka_med.networks.any_size import steps_per_axis, strides_up_to

from .small import EVERY, image, network

SIZES = {2: [(64, 64), (33, 70), (1, 5), (64, 7)], 3: [(32, 32, 32), (33, 21, 40), (1, 2, 5), (1, 1, 1)]}
DEEPLY_SUPERVISED = ("dynunet", "mednext", "timm_unet")
every = pytest.mark.parametrize(("name", "dims"), EVERY)


def size_of(name, dims):
    """Of an image with more than one voxel in the deepest map."""
    return ((64, 32, 32) if name in ("swin_unetr", "timm_unet") else (16, 16, 16))[:dims]


def test_all_names_are_tried():
    assert {name for name, _ in EVERY} | {"dlka_net_2d", "dlka_net_3d", "dlka_unet"} == set(NETWORKS)


@every
@torch.no_grad()
def test_shapes(name, dims):
    net = network(name, dims).eval()
    for size in SIZES[dims]:
        x = image(*size)
        logits, pyramid = net(x), net.forward_pyramid(x)
        scales = [tuple(-(-n // s) for n, s in zip(size, steps, strict=True)) for steps in net.scale_strides]
        assert logits.shape == (2, 3, *size)
        assert [tuple(y.shape) for y in pyramid] == [(2, 3, *scale) for scale in scales]
        assert torch.equal(logits, pyramid[0])
        assert all(y.isfinite().all() for y in pyramid)


@pytest.mark.parametrize(
    ("name", "dims", "scales"),
    [
        ("dynunet", 2, 2),
        ("dynunet", 3, 1),
        ("mednext", 2, 1),
        ("mednext", 3, 2),
        ("mednext", 2, 3),
        ("timm_unet", 2, 3),
    ],
)
def test_as_many_scales_as_asked_for(name, dims, scales):
    net = network(name, dims, supervised_scales=scales)
    pyramid = net.forward_pyramid(image(*[64] * dims, batch=1))
    assert len(pyramid) == len(net.scale_strides) == scales
    assert net.scale_strides[0] == (1,) * dims


@pytest.mark.parametrize(("name", "dims"), [case for case in EVERY if case[0] not in DEEPLY_SUPERVISED])
def test_networks_without_deep_supervision_have_one_scale(name, dims):
    assert network(name, dims).scale_strides == [(1,) * dims]


@every
@torch.no_grad()
def test_zeros_at_the_far_end_are_what_an_image_is_padded_with(name, dims):
    net = network(name, dims).eval()
    x = image(*[37] * dims, batch=1)
    size = [-(-37 // unit) * unit for unit in net.size_unit]
    padded = torch.zeros(1, 2, *size)
    inside = (..., *[slice(37)] * dims)
    padded[inside] = x
    torch.testing.assert_close(net(x), net(padded)[inside])


@every
def test_every_parameter_gets_a_gradient(name, dims):
    net = network(name, dims)
    x = image(*size_of(name, dims))
    label = torch.randint(3, (2, 1, *x.shape[2:]))
    PyramidLoss(strides=net.scale_strides)(net.forward_pyramid(x), label).backward()
    silent = {key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert silent == set()


@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(*case, marks=pytest.mark.slow if case == ("swin_unetr", 3) else ()) for case in EVERY],
)
def test_a_batch_of_one_learns_what_a_batch_of_its_copies_does(name, dims):
    """Torch's instance norm has wrong gradients for one image in some layouts; here they never occur."""
    net = network(name, dims, **({} if name in ("segresnet", "mednext") else {"norm": "instance"})).double()
    one = image(*size_of(name, dims), batch=1).double()
    memory = torch.channels_last if dims == 2 else torch.channels_last_3d
    gradients = []
    for x in (one, one.to(memory_format=memory), torch.cat([one, one])):
        net.zero_grad()
        weights = [torch.linspace(-1, 1, math.prod(y.shape[1:])).view(y.shape[1:]) for y in net.forward_pyramid(x)]
        sum((y * w).sum(1).sigmoid().mean() for y, w in zip(net.forward_pyramid(x), weights, strict=True)).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-6, atol=1e-8)


@every
def test_a_seed_gives_the_same_network(name, dims):
    one, two = network(name, dims).state_dict(), network(name, dims).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@every
def test_weights_survive_safetensors_and_none_is_stored_twice(name, dims):
    net, other = network(name, dims), network(name, dims)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    assert len({value.data_ptr() for value in net.state_dict().values() if value.numel()}) == len(state)
    other.load_state_dict(load(save(state)))
    x = image(*[40] * dims, batch=1)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), other.eval()(x))


@every
def test_a_network_that_has_run_can_be_copied(name, dims):
    net = network(name, dims)
    net.forward_pyramid(image(*[40] * dims))
    twin, x = copy.deepcopy(net).eval(), image(*[40] * dims)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), twin(x))


@every
def test_bad_images(name, dims):
    net = network(name, dims)
    for shape in ((1, 1, *[32] * dims), (2, *[32] * dims), (1, 2, *[32] * (5 - dims))):
        with pytest.raises(ValueError, match=r"expected an image of shape \(batch, 2, .*, got \("):
            net(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "dims", "arguments", "message"),
    [
        ("unet", 3, {"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ("unet", 4, {}, "spatial_dims must be 2 or 3, got 4"),
        ("unet", 3, {"strides": (2,)}, "strides one entry fewer, got 3 and 1"),
        ("unet", 2, {"strides": (2, (2, 2, 2))}, "each entry of strides needs two positive steps"),
        ("unet", 2, {"strides": (2, "x")}, "strides needs one or two whole numbers"),
        ("unet", 2, {"kernel_size": 2}, "kernel_size has to be odd, got 2"),
        ("unet", 2, {"norm": "group"}, "norm must be one of"),
        ("dynunet", 3, {"strides": (2, 2, 2)}, r"the first of strides has to be 1, got \(2, 2, 2\)"),
        ("dynunet", 3, {"strides": (1, 5, 2)}, "strides may be 4 at most"),
        ("dynunet", 3, {"strides": (1, 2)}, "three stages or more, got 3 and 2"),
        ("dynunet", 3, {"supervised_scales": 3}, "supervised_scales must be 1 to 2, got 3"),
        ("segresnet", 3, {"channels": 12}, "channels has to be a multiple of 8"),
        ("segresnet", 3, {"decoder_depths": (1,)}, "decoder_depths needs one entry fewer"),
        ("segresnet", 3, {"depths": (1, 0, 1)}, "depths must be positive"),
        ("segresnet", 3, {"upsampling": "linear"}, "upsampling must be one of"),
        ("swin_unetr", 3, {"channels": 16}, "channels has to be a multiple of 12, got 16"),
        ("swin_unetr", 3, {"heads": (5, 1, 1, 1)}, "heads have to share the channels"),
        ("swin_unetr", 3, {"depths": (1, 1, 1)}, "depths and heads need four entries each"),
        ("mednext", 3, {"expansions": (1, 1)}, "depths and expansions need an entry for each stage"),
        ("mednext", 3, {"supervised_scales": 4}, "supervised_scales must be 1 to 3, got 4"),
        ("mednext", 3, {"kernel_size": 4}, "kernel_size has to be odd, got 4"),
    ],
)
def test_bad_arguments(name, dims, arguments, message):
    with pytest.raises(ValueError, match=message):
        network(name, dims, **arguments)


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match="no network called 'dyn_unet'; did you mean 'dynunet'"):
        build_network("dyn_unet")


def test_steps_and_their_products():
    steps = steps_per_axis((1, (2, 3), 2), 2)
    assert steps == ((1, 1), (2, 3), (2, 2))
    assert strides_up_to(steps, 2) == [(1, 1), (1, 1), (2, 3), (4, 6)]
