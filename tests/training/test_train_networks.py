"""The networks that the D-LKA nets can be compared with: trained, resumed, predicted with and read back."""

import pytest
import torch

from dlka_med.config.loading import load_config
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder
from dlka_med.training.train import train

from .conftest import CONFIG
from .runs import assert_same_weights, changed, rows_of

SMALL = {
    "unet": "channels: [4, 6, 8], strides: [2, 2]",
    "dynunet": "channels: [4, 6, 8], strides: [1, 2, 2], supervised_scales: 2",
    "segresnet": "channels: 8, depths: [1, 1], decoder_depths: [1]",
    "swin_unetr": "channels: 12, depths: [1, 1, 1, 1], window_size: 2",
    "mednext": "channels: 4, depths: [1, 1, 1], expansions: [2, 2, 2], supervised_scales: 2",
}
EVERY = [(name, kind) for name in SMALL for kind in ("volumes", "images")]
EVERY += [("unet", "slices"), ("timm_unet", "images")]
EVERY += [pytest.param(name, "slices", marks=pytest.mark.slow) for name in [*SMALL, "timm_unet"] if name != "unet"]


@pytest.fixture
def config_of(balls, disks, tmp_path):
    """The smallest run of a network by its name, on volumes, on RGB images or on slices of volumes."""

    def _config_of(name, kind):
        text = CONFIG.format(root=disks if kind == "images" else balls)
        before, after = text[: text.index("network:")], text[text.index("training:") :]
        dims = 3 if kind == "volumes" else 2
        chosen = SMALL[name] + f", spatial_dims: {dims}" if name in SMALL else "encoder: test_convnext"
        path = tmp_path / "run.yaml"
        path.write_text(f"{before}network: {{name: {name}, {chosen}}}\n{after}")
        patch = [12, 16, 12] if dims == 3 else [32, 40]
        if (name, kind) == ("swin_unetr", "volumes"):
            patch = [12, 40, 12]
        given = [f"training.patch_size={patch}", "training.epochs=2", "training.steps_per_epoch=1"]
        more = ["dataset.slices=coronal", "inference.batch_size=16"] if kind == "slices" else []
        return load_config(path, [*given, *more])

    return _config_of


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_run_from_its_name_to_its_predictions(config_of, tmp_path, name, kind):
    config = config_of(name, kind)
    run = train(changed(config, epochs=1), tmp_path / "run")
    row = rows_of(run)[-1]
    assert float(row["loss"]) > 0
    assert 0 <= float(row["dice"]) <= 1
    assert not [key for key in row if key.startswith(("displacement", "outside", "at limit"))]
    log = run.log_file.read_text()
    assert "deformation" not in log
    assert "effect on the logits" not in log

    network, again = RunFolder.open(run.path).load_network(), run.load_network()
    dims = config.network.spatial_dims
    image = torch.randn(1, 3 if kind == "images" else 1, *(9, 11, 13)[:dims])
    with torch.no_grad():
        assert network(image).shape == (1, 2, *image.shape[2:])
        assert torch.equal(network(image), again(image))
    written = predict_images(run.path, config.dataset.root, tmp_path / "out", split="validation")
    assert len(written) == len(run.split["validation"]) == 2


@pytest.mark.parametrize("name", [*SMALL, "timm_unet"])
def test_a_resumed_run_ends_as_an_unbroken_one(config_of, tmp_path, stop_after, name):
    config = config_of(name, "images")
    unbroken = train(config, tmp_path / "unbroken")
    with stop_after(1):
        train(config, tmp_path / "broken")
    resumed = train(config, tmp_path / "broken", resume=True)
    assert_same_weights(resumed, unbroken)
