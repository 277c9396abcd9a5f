"""From a 2D file of the authors to a run folder that predicts images."""

import numpy as np
import pytest
import torch
from PIL import Image

from dlka_med.config.schema import RunConfig
from dlka_med.import_weights import import_weights
from dlka_med.inference.predict import predict_images
from dlka_med.networks import DLKANet2d

ARGUMENTS = {"encoder": "test_convnext", "depths": (1, 1, 1), "deformation": "depthwise"}
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
    *((f"decoder.{i}.0.", f"decoder_{i}.layer_lka_1.") for i in range(3)),
)


def network():
    torch.manual_seed(0)
    net = DLKANet2d(in_channels=3, out_channels=3, img_size=32, **ARGUMENTS)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


@pytest.fixture
def checkpoint(tmp_path):
    state = {}
    for name, value in network().state_dict().items():
        linear = name.startswith(("expanders.", "projections.")) and value.ndim == 4
        for ours, theirs in TO_ORIGINAL:
            name = name.replace(ours, theirs)
        state[name] = value.flatten(1) if linear else value
    torch.save({"model": state}, tmp_path / "epoch_7.pth")
    return tmp_path / "epoch_7.pth"


def test_the_run_predicts_what_the_original_would(checkpoint, tmp_path):
    config = RunConfig.model_validate(
        {
            "name": "tiny",
            "dataset": {"root": "nowhere", "channels": ["R", "G", "B"], "labels": {"background": 0, "a": 3, "b": 5}},
            "preprocessing": {"spacing": None},
            "network": {"name": "dlka_net_2d", **ARGUMENTS},
            "training": {"patch_size": [32, 32], "workers": 0},
        }
    )
    run, report = import_weights(checkpoint, config, tmp_path / "run")
    assert report.complete
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(run.load_network()(image), network()(image))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (written,) = predict_images(run.path, tmp_path / "a.png", tmp_path / "out", device="cpu")
    values = pixels.transpose(2, 0, 1).astype(np.float32)
    normal = (values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True)
    with torch.no_grad():
        classes = network()(torch.from_numpy(normal)[None]).argmax(1)[0].numpy()
    assert len(np.unique(classes)) > 1
    assert (np.asarray(Image.open(written)) == np.array([0, 3, 5])[classes]).mean() > 0.99
