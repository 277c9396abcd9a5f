import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.networks import DLKANet3d, load_original

BLOCK = "d_lka_former_encoder.stages.0.0"


@pytest.fixture(scope="module")
def original(fill, published):
    return fill.fake_state_dict(published("d_lka_net_3d"))


@pytest.fixture(scope="module")
def network():
    return DLKANet3d()


def test_golden_output(network, original, fill, shared_reference):
    report = load_original(network, original)
    assert len(report.loaded) == len(original)
    x = torch.from_numpy(fill.normal_image((1, 1, 64, 128, 128), seed=0))
    golden = np.load(shared_reference / "d_lka_net_3d.npz", allow_pickle=False)
    with torch.no_grad():
        pyramid = network.eval().forward_pyramid(x)
    assert len(pyramid) == 3
    for scale, logits in enumerate(pyramid):
        std = golden[f"std{scale}"].item()
        assert np.abs(logits[:, :, ::4, ::8, ::8].numpy() - golden[f"out{scale}"]).max() < 1e-3 * std
        assert logits.mean().item() == pytest.approx(golden[f"mean{scale}"].item(), abs=1e-3 * std)
        assert logits.std().item() == pytest.approx(std, rel=1e-3)


def test_loads_every_tensor_and_reports(network, original):
    report = load_original(network, original)
    assert sorted(report.loaded) == sorted(network.state_dict())
    assert report.renamed[f"{BLOCK}.gamma"] == "encoder.0.0.attention_scale"
    lines = str(report).splitlines()
    assert lines[0] == "699 tensors loaded, 699 renamed"
    assert "  out1.conv.conv.weight -> heads.0.weight" in lines
    position = original[f"{BLOCK}.pos_embed"].reshape(32, 32, 32, 32)
    np.testing.assert_array_equal(network.encoder[0][0].position.detach().numpy(), position)
    upsample = original["decoder5.transp_conv.conv.weight"]
    np.testing.assert_array_equal(network.upsamplers[3].conv.weight.detach().numpy(), upsample)


@pytest.mark.parametrize("nest", [lambda d: {"state_dict": d, "epoch": 3}, lambda d: {"model": {"state_dict": d}}])
def test_unwraps_nested_checkpoints(network, original, nest):
    state = nest({f"module.{name}": torch.from_numpy(value) for name, value in original.items()})
    assert len(load_original(network, state).loaded) == 699


def test_refuses_what_does_not_fit_and_changes_nothing(network, original):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    broken = {name: 0 * value for name, value in original.items()}
    del broken["out1.conv.conv.bias"]
    broken["extra.weight"] = np.zeros(3)
    broken[f"{BLOCK}.gamma"] = np.zeros(16)
    with pytest.raises(ValueError, match="not one of this DLKANet3d") as error:
        load_original(network, broken)
    assert "1 missing: heads.0.bias" in str(error.value)
    assert "1 unexpected: extra.weight" in str(error.value)
    assert "1 of wrong shape: encoder.0.0.attention_scale: (16,) instead of (32,)" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("twin", ["heads.0.bias", "module.out1.conv.conv.bias"])
def test_refuses_two_names_of_one_tensor(network, original, twin):
    doubled = original | {twin: original["out1.conv.conv.bias"] + 1}
    with pytest.raises(ValueError, match=r"2 for one place: out1\.conv\.conv\.bias -> heads\.0\.bias") as error:
        load_original(network, doubled)
    assert f"{twin} -> heads.0.bias" in str(error.value)


def test_refuses_a_network_of_another_size(original):
    with torch.device("meta"):
        network = DLKANet3d(position_embedding=False)
    with pytest.raises(ValueError, match=rf"21 unexpected: {BLOCK}.pos_embed;.* and 16 more"):
        load_original(network, original)


def test_refuses_other_networks():
    with pytest.raises(ValueError, match="are known for Linear, only for DLKANet2d and DLKANet3d"):
        load_original(nn.Linear(1, 1), {})


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_refuses_what_holds_no_tensors(network, content):
    with pytest.raises(ValueError, match="the checkpoint holds no named tensors: expected a state dict"):
        load_original(network, content)


def test_other_axes_turn_the_kernels(network, original, fill):
    """On an image with the slices last, the turned network gives the turned logits."""
    size, turn = (16, 32, 32), (0, 1, 4, 3, 2)
    load_original(network, original)
    turned = DLKANet3d(img_size=(128, 128, 64), strides=((4, 4, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
    load_original(turned, original, axes=(2, 1, 0))
    image = torch.from_numpy(fill.normal_image((1, 1, *size), seed=1))
    with torch.no_grad():
        wanted = network.eval()(image)
        found = turned.eval()(image.permute(turn)).permute(turn)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.std().item())


def test_part_of_a_checkpoint(original):
    """Other classes, channels and size: what fits is loaded, the rest is named and left as it was."""
    network = DLKANet3d(in_channels=2, out_channels=3, img_size=(32, 64, 64))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_original(network, original | {"extra.weight": np.zeros(3)}, partial=True)
    left = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    misshapen = {name for name in before if name.endswith(".position") or name.startswith("heads.")}
    misshapen |= {name for name in before if name.startswith(("image_block.conv1", "image_block.shortcut.0"))}
    misshapen |= {"downsamplers.0.conv.weight"}
    assert set(report.misshapen) == misshapen
    assert misshapen <= left
    assert report.misshapen["heads.0.weight"] == ((14, 16, 1, 1, 1), (3, 16, 1, 1, 1))
    assert set(report.loaded) == set(before) - misshapen
    assert report.unexpected == ("extra.weight",)
    assert report.missing == ()
    assert not report.complete
    assert "1 unexpected: extra.weight" in str(report)
    assert "heads.0.weight: (14, 16, 1, 1, 1) instead of (3, 16, 1, 1, 1)" in report.summary
    name = "encoder.3.2.attention.gate.dense.weight"
    source = "d_lka_former_encoder.stages.3.2.epa_block.spatial_gating_unit.deform_conv.weight"
    np.testing.assert_array_equal(network.state_dict()[name], original[source].astype(np.float32))


def test_a_part_of_nothing_is_refused(network):
    with pytest.raises(ValueError, match="not one of this DLKANet3d"):
        load_original(network, {"layer1.weight": np.zeros(3)}, partial=True)


@pytest.mark.parametrize("axes", [(0, 1), (1, 2, 3), (0, 0, 1)])
def test_bad_axes(network, axes):
    with pytest.raises(ValueError, match="axes: expected an order of 0, 1 and 2"):
        load_original(network, {}, axes=axes)
