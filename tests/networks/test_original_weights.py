import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.networks import DLKANet3d, load_original

BLOCK = "d_lka_former_encoder.stages.0.0"


@pytest.fixture(scope="module")
def fill(shared_reference):
    spec = importlib.util.spec_from_file_location("fill", shared_reference / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def original(fill, shared_reference):
    spec = json.loads((shared_reference / "d_lka_net_3d.json").read_text())
    return fill.fake_state_dict(spec)


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
    with pytest.raises(ValueError, match="no original checkpoints are known for Linear, only for DLKANet3d"):
        load_original(nn.Linear(1, 1), {})
