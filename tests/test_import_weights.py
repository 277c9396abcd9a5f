"""From a file of the authors to a run folder that predicts."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from dlka_med import cli
from dlka_med.config.loading import save_config
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.import_weights import import_weights
from dlka_med.inference.predict import predict_images
from dlka_med.networks import DLKANet3d
from dlka_med.run_folder import RunFolder

TO_ORIGINAL = (
    ("encoder.", "d_lka_former_encoder.stages."),
    ("attention_scale", "gamma"),
    (".position", ".pos_embed"),
    (".attention_norm.", ".norm."),
    (".attention.project_in.", ".epa_block.proj_1."),
    (".attention.project_out.", ".epa_block.proj_2."),
    (".attention.gate.depthwise.", ".epa_block.spatial_gating_unit.conv0."),
    (".attention.gate.dilated.", ".epa_block.spatial_gating_unit.conv_spatial."),
    (".attention.gate.dense.offset_conv.", ".epa_block.spatial_gating_unit.deform_conv.conv_offset."),
    (".attention.gate.dense.", ".epa_block.spatial_gating_unit.deform_conv."),
    (".attention.gate.pointwise.", ".epa_block.spatial_gating_unit.conv1."),
    (".feed_forward.0.conv1.", ".conv51.conv1.conv."),
    (".feed_forward.0.conv2.", ".conv51.conv2.conv."),
    (".feed_forward.0.", ".conv51."),
    (".feed_forward.2.", ".conv8.1."),
)
STRIDES = {"first": [[1, 2, 2], [2, 2, 2]], "last": [[2, 2, 1], [2, 2, 2]]}


def original_name(name):
    """The authors' name of a tensor of a DLKANet3d with two stages."""
    parts = name.split(".")
    if parts[0] == "downsamplers":
        layer = {"conv": "0.conv", "norm": "1"}[parts[2]]
        return f"d_lka_former_encoder.downsample_layers.{parts[1]}.{layer}.{parts[3]}"
    if parts[0] == "upsamplers":
        return f"decoder{int(parts[1]) + 2}.transp_conv.{'.'.join(parts[2:])}"
    if parts[0] == "heads":
        return f"out{int(parts[1]) + 1}.conv.conv.{parts[2]}"
    if parts[0] in ("image_block", "full_block"):
        place = {"image_block": "encoder1", "full_block": "decoder2.decoder_block.0"}[parts[0]]
        layer = {"shortcut": "conv3.conv", "conv1": "conv1.conv", "conv2": "conv2.conv"}[parts[1]]
        return f"{place}.{layer}.weight"
    if parts[0] == "decoder":
        name = f"decoder{int(parts[1]) + 3}.decoder_block.0.{'.'.join(parts[2:])}"
    for ours, theirs in TO_ORIGINAL:
        name = name.replace(ours, theirs)
    return name


def config(**changes) -> RunConfig:
    content = {
        "name": "tiny",
        "dataset": {"root": "nowhere", "channels": ["MRI"], "labels": {"background": 0, "organ": 3}},
        "preprocessing": {"spacing": None},
        "network": {
            "name": "dlka_net_3d",
            "channels": [4, 6],
            "depths": [1, 1],
            "strides": STRIDES["first"],
            "full_resolution_channels": 4,
            "supervised_scales": 2,
        },
        "training": {"patch_size": [4, 8, 12], "workers": 0},
    }
    for key, value in changes.items():
        content[key] = content[key] | value
    return RunConfig.model_validate(content)


def network():
    torch.manual_seed(0)
    net = DLKANet3d(
        in_channels=1,
        out_channels=2,
        img_size=(4, 8, 12),
        channels=(4, 6),
        depths=(1, 1),
        strides=STRIDES["first"],
        full_resolution_channels=4,
        supervised_scales=2,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


@pytest.fixture
def checkpoint(tmp_path):
    state = {}
    for name, value in network().state_dict().items():
        value = value.flatten(0, 2)[None] if name.endswith(".position") else value
        state[f"module.{original_name(name)}"] = value
    file = tmp_path / "model_final.model"
    losses = [np.float64(0.5), np.float64(0.25)]
    torch.save({"epoch": 7, "state_dict": state, "optimizer_state_dict": {"lr": 0.1}, "plot_stuff": losses}, file)
    return file


def test_the_run_predicts_what_the_original_would(checkpoint, tmp_path):
    run, report = import_weights(checkpoint, config(), tmp_path / "run")
    assert report.complete
    assert run == RunFolder.open(tmp_path / "run")
    assert run.weights_metadata == {"imported": "model_final.model", "complete": "True"}
    assert run.split == {"train": (), "validation": (), "test": ()}
    assert config().network.offset_limit is not None
    assert run.config.network.offset_limit is None
    volume = torch.randn(1, 1, 4, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(run.load_network()(volume), network()(volume))
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).normal(3, 1, (5, 9, 11)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "images" / "a.nii.gz")
    (written,) = predict_images(run.path, tmp_path / "images", tmp_path / "out", device="cpu")
    found = np.asarray(nib.load(written).dataobj)
    assert found.shape == image.shape
    assert set(np.unique(found)) == {0, 3}


def test_a_config_with_the_slices_last_turns_the_kernels(checkpoint, tmp_path):
    turned = config(network={"strides": STRIDES["last"]}, training={"patch_size": [12, 8, 4]})
    run, _ = import_weights(checkpoint, turned, tmp_path / "run")
    volume = torch.randn(1, 1, 4, 8, 12)
    with torch.no_grad():
        wanted, found = network()(volume), run.load_network()(volume.permute(0, 1, 4, 3, 2))
    torch.testing.assert_close(found.permute(0, 1, 4, 3, 2), wanted, rtol=1e-4, atol=1e-4)


def write_dataset(root):
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4] = 3
    for case in range(4):
        values = np.where(label, 100 + case + np.arange(6), -1000).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.eye(4)), root / "imagesTr" / f"c{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labelsTr" / f"c{case}.nii.gz")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 3}, "numTraining": 4}
    (root / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz"}))


def test_what_the_config_leaves_open_comes_from_the_dataset(checkpoint, tmp_path):
    write_dataset(tmp_path / "data")
    open_config = config(
        dataset={"root": str(tmp_path / "data"), "channels": None, "labels": None, "folds": 2, "test_cases": ["c3"]}
    )
    run, _ = import_weights(checkpoint, open_config, tmp_path / "run")
    assert run.config.dataset.channels == ("CT",)
    assert run.config.dataset.labels == {"background": 0, "organ": 3}
    (intensity,) = run.config.preprocessing.intensity
    assert intensity.kind == "ct"
    assert 100 <= intensity.lower < intensity.mean < intensity.upper <= 107


def test_groups_of_the_config_are_read(checkpoint, tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "mine.csv").write_text("c0,p\nc1,p\nc2,p\nc3,p\n")
    asked = {"root": str(tmp_path / "data"), "channels": None, "folds": 2, "groups": str(tmp_path / "mine.csv")}
    with pytest.raises(InputError, match="has 1 groups of cases outside the test, too few for 2 folds"):
        import_weights(checkpoint, config(dataset=asked), tmp_path / "run")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "a": 1, "b": 1}, "two labels share a value"),
        ({"a": 1, "b": 2}, "one of them 0 for the background"),
        ({"background": 0, "b": 2, "a": 1}, "not in ascending order, .* number them 0, 1, 2 ... in the order of"),
    ],
)
@pytest.mark.parametrize("channels", [["MRI"], None])
def test_labels_of_the_config_are_checked(checkpoint, tmp_path, labels, message, channels):
    write_dataset(tmp_path / "data")
    asked = {"root": str(tmp_path / "data"), "channels": channels, "labels": labels}
    with pytest.raises(InputError, match=f"^dataset.labels: .*{message}"):
        import_weights(checkpoint, config(dataset=asked), tmp_path / "run", partial=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"channels": None}, "dataset.channels or dataset.labels"),
        ({"labels": None}, "dataset.channels or dataset.labels"),
        ({"channels": ["CT"]}, "preprocessing.intensity of a CT channel"),
    ],
)
def test_an_open_config_without_dataset_says_what_is_missing(checkpoint, tmp_path, changes, what):
    with pytest.raises(InputError, match=f"the config leaves {what} to the dataset, which cannot be read: .*nowhere"):
        import_weights(checkpoint, config(dataset=changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_part_of_a_checkpoint(checkpoint, tmp_path):
    other = config(dataset={"labels": {"background": 0, "a": 1, "b": 2}}, training={"patch_size": [8, 8, 8]})
    with pytest.raises(InputError, match=r"(?s)does not fit the network of the config tiny: .*--partial") as error:
        import_weights(checkpoint, other, tmp_path / "run")
    assert "heads.0.weight: (2, 4, 1, 1, 1) instead of (3, 4, 1, 1, 1)" in str(error.value)
    run, report = import_weights(checkpoint, other, tmp_path / "run", partial=True)
    assert run.weights_metadata["complete"] == "False"
    positions = {f"{side}.{i}.0.position" for side, i in (("encoder", 0), ("encoder", 1), ("decoder", 0))}
    assert set(report.misshapen) == positions | {f"heads.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")}
    loaded = run.load_network().state_dict()
    assert all(torch.equal(loaded[name], network().state_dict()[name]) for name in report.loaded)


def spoil(file, how):
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "text":
        file.write_text("404: not found\n")
    elif how == "code":
        torch.save({"state_dict": torch.nn.Linear(2, 2)}, file)
    elif how == "other":
        torch.save({"layer1.weight": torch.zeros(2)}, file)
    elif how == "gone":
        file.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "is no readable file of weights"),
        ("text", "is no readable file of weights"),
        ("code", "reading it could run code, so it is refused: if you trust it"),
        ("other", "not one of this DLKANet3d .*unexpected: layer1.weight"),
        ("gone", "does not exist: give the authors' file"),
    ],
)
def test_a_bad_file_is_one_message_and_exit_code_2(checkpoint, tmp_path, capsys, how, message):
    spoil(checkpoint, how)
    save_config(config(), tmp_path / "c.yaml")
    arguments = ["import-weights", checkpoint, "--config", tmp_path / "c.yaml", "--out", tmp_path / "run"]
    assert cli.main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err
    assert re.search(message, shown.err, re.DOTALL)
    assert str(checkpoint) in shown.err
    assert not (tmp_path / "run").exists()


def test_the_verb_reports(checkpoint, tmp_path, capsys):
    save_config(config(), tmp_path / "c.yaml")
    arguments = [
        "import-weights",
        str(checkpoint),
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main([*arguments, "-s", "dataset.labels={background: 0, b: 1, c: 2}", "--partial"]) == 0
    out = capsys.readouterr().out
    assert "4 of wrong shape: " in out
    assert "heads.1.bias: (2,) instead of (3,)" in out
    assert RunFolder.open(tmp_path / "run").config.dataset.labels == {"background": 0, "b": 1, "c": 2}
    assert cli.main(arguments) == 2
    assert "exists already and is not empty" in capsys.readouterr().err
