import numpy as np
import pytest
import torch

from dlka_med.networks import DLKANet2d, DLKANet3d, load_original

DEAD = ("decoder_3.x1_linear.", "decoder_3.layer_lka_", "backbone.conv.")
PARAMETERS = ("weight", "bias", "layer_scale_1", "layer_scale_2")
TO_ORIGINAL = (
    ("encoder.model.", "backbone.backbone."),
    ("heads.0.", "decoder_0.last_layer."),
    (".feed_forward.0.", ".norm2."),
    (".feed_forward.1.", ".mlp.fc1."),
    (".feed_forward.2.", ".mlp.dwconv.dwconv."),
    (".feed_forward.5.", ".mlp.fc2."),
    (".attention_norm.", ".norm1."),
    (".attention_scale", ".layer_scale_1"),
    (".mlp_scale", ".layer_scale_2"),
    (".attention.project_in.", ".attn.proj_1."),
    (".attention.project_out.", ".attn.proj_2."),
    (".attention.gate.pointwise.", ".attn.spatial_gating_unit.conv1."),
    (".attention.gate.depthwise.weight", ".attn.spatial_gating_unit.conv0.deform_conv.weight"),
    (".attention.gate.dilated.weight", ".attn.spatial_gating_unit.conv_spatial.deform_conv.weight"),
    (".attention.gate.depthwise.offset_conv.", ".attn.spatial_gating_unit.conv0.offset_net."),
    (".attention.gate.dilated.offset_conv.", ".attn.spatial_gating_unit.conv_spatial.offset_net."),
    *((f"expanders.{i}.conv.", f"decoder_{i}.layer_up.expand.") for i in range(4)),
    *((f"expanders.{i}.norm.", f"decoder_{i}.layer_up.norm.") for i in range(4)),
    *((f"projections.{i}.", f"decoder_{i}.x1_linear.") for i in range(3)),
    *((f"decoder.{i}.{j}.", f"decoder_{i}.layer_lka_{j + 1}.") for i in range(3) for j in range(2)),
)


def small(**arguments):
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "out_channels": 2, "img_size": 32, "deformation": "depthwise"} | arguments
    return DLKANet2d(**{"encoder": "convnext_atto"} | arguments)


def original_of(network):
    """The state of a network as the authors' code would have saved it."""
    state = {}
    for name, value in network.state_dict().items():
        linear = name.startswith(("expanders.", "projections.")) and value.ndim == 4
        for ours, theirs in TO_ORIGINAL:
            name = name.replace(ours, theirs)
        state[name] = value.flatten(1) if linear else value.clone()
    return state


def test_golden_output(fill, published, shared_reference):
    spec = published("d_lka_net_2d")
    alive = {name: shape for name, shape in spec.items() if not name.startswith(DEAD)}
    dead = {name: np.zeros(shape, np.float32) for name, shape in spec.items() if name not in alive}
    network = DLKANet2d(deformation="depthwise").eval()
    report = load_original(network, fill.fake_state_dict(alive) | dead)
    assert set(report.unused) == set(dead)
    assert sorted(report.loaded) == sorted(network.state_dict())
    assert len(report.loaded) + len(report.unused) == len(spec)
    assert report.complete
    assert f"{len(dead)} left out, as they never run: " in report.summary
    ours = sum(parameter.numel() for parameter in network.parameters())
    unused = sum(value.size for name, value in dead.items() if name.endswith(PARAMETERS))
    assert (ours, ours + unused) == (78_583_005, 101_642_513)
    image = torch.from_numpy(fill.normal_image((1, 3, 224, 224), seed=0))
    golden = np.load(shared_reference / "d_lka_net_2d.npz", allow_pickle=False)
    with torch.no_grad():
        logits = network(image)
    std = golden["std0"].item()
    assert np.abs(logits[:, :, ::4, ::4].numpy() - golden["out0"]).max() < 1e-3 * std
    assert logits.mean().item() == pytest.approx(golden["mean0"].item(), abs=1e-3 * std)
    assert logits.std().item() == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_tensor_finds_its_place(prefix):
    network, source = small(), small()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    state = {prefix + name: value for name, value in original_of(source).items()}
    report = load_original(network, {"model": state, "epoch": 2})
    assert report.complete
    assert sorted(report.loaded) == sorted(network.state_dict())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


def test_one_channel_sees_what_three_equal_channels_see():
    source, grey = small(), small(in_channels=1)
    report = load_original(grey, original_of(source))
    assert report.summed == ("encoder.model.stem.0.weight",)
    assert report.complete
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        wanted, found = source.eval()(image.expand(-1, 3, -1, -1)), grey.eval()(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_part_of_a_checkpoint():
    network = small(in_channels=5, out_channels=4, deformation="none", supervised_scales=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = original_of(small())
    with pytest.raises(ValueError, match=r'not one of this DLKANet2d \(check encoder, deformation="depthwise"'):
        load_original(network, state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    report = load_original(network, state, partial=True)
    assert set(report.misshapen) == {"encoder.model.stem.0.weight", "heads.0.weight", "heads.0.bias"}
    assert report.missing == ("heads.1.weight", "heads.1.bias")
    assert len(report.unexpected) == 6 * 4
    assert all("offset_net" in name for name in report.unexpected)
    assert set(report.loaded) == set(before) - set(report.missing) - set(report.misshapen)


def test_the_other_network_is_named(published):
    two, three = ({name: np.zeros(1) for name in published(f"d_lka_net_{dims}d")} for dims in (2, 3))
    with pytest.raises(ValueError, match=r"not one of this DLKANet2d but of DLKANet3d\n.*missing: encoder.model"):
        load_original(small(), three)
    with torch.device("meta"):
        network = DLKANet3d()
    with pytest.raises(ValueError, match=r"not one of this DLKANet3d but of DLKANet2d\n.*missing: "):
        load_original(network, two)


def test_axes_are_of_3d():
    with pytest.raises(ValueError, match=r"axes: .* this one in 2D"):
        load_original(small(), original_of(small()), axes=(2, 1, 0))
