"""Inspecting images from end to end: what is written, what it says, what is refused."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from dlka_med.config.loading import checked_config
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.inspection import inspect_image as inspect_module
from dlka_med.inspection.aims import aims_at
from dlka_med.inspection.inspect_image import inspect_image
from dlka_med.inspection.inspect_table import format_inspection
from dlka_med.inspection.view import read_view
from dlka_med.layers import DeformConv, deformable_layers
from dlka_med.run_folder import RunFolder, build_run_network
from tests.distorted import REACH, distorted
from tests.training.test_deformation_pays import trained

from .runs import config_of, make_run, noise, picture, volume


@pytest.mark.parametrize(
    ("dims", "network"),
    [
        pytest.param(2, {"deformation": "depthwise"}, marks=pytest.mark.slow),
        (2, {"deformation": ["none", "dcnv3", "none"]}),
        (3, {"deformation": ["absent", "dense"]}),
        pytest.param(3, {"deformation": ["dcnv3", "none"], "offset_limit": None}, marks=pytest.mark.slow),
    ],
)
def test_pictures_and_figures_of_every_gate(tmp_path, dims, network):
    """An image that is smaller than the window along an axis and larger along another, with uneven spacing."""
    patch = [32, 64] if dims == 2 else [8, 8, 8]
    run = make_run(tmp_path / "run", config_of(dims, patch, network))
    if dims == 2:
        image = picture(tmp_path / "c.png", np.clip(128 + 60 * noise(40, 50), 0, 255))
    else:
        image = volume(tmp_path / "c.nii.gz", noise(14, 5, 7), (0.5, 0.8, 3.0))
    content = inspect_image(run.path, image, tmp_path / "out", device="cpu", windows=2)
    layers = deformable_layers(run.load_network())
    stored = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert stored == {key: value for key, value in content.items() if key != "out"}
    assert list(stored["layers"]) == list(layers)
    assert (stored["unit"], stored["windows"]) == ("pixels" if dims == 2 else "mm", {"counted": 2, "all": 2})
    stages = {".".join(name.split(".")[:2]) for name in layers}
    pictures = {f"points_{stage}.png" for stage in stages} | {"offsets.png", "receptive_field.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == pictures | {"inspect.json"}
    for name in pictures:
        assert np.ptp(imread(tmp_path / "out" / name)[..., :3]) > 0.5
    for layer in stored["layers"].values():
        figures = layer["offsets"]["all"]
        assert figures["by_image"] > 0
        assert figures["moved"] <= figures["largest"]
        assert sum(layer["offsets"][label]["positions"] for label in ("background", "a", "b")) == figures["positions"]
        assert layer["effect"]["silent"]["logits"] > 0
    table = format_inspection(stored)
    assert all(name in table for name in layers)


@pytest.mark.slow
def test_a_constant_image_moves_nothing_that_a_bias_does_not(tmp_path):
    run = make_run(tmp_path / "run", config_of(3, [8, 12, 8], {"deformation": "dense"}))
    image = volume(tmp_path / "c.nii.gz", np.full((14, 9, 11), 3, np.float32))
    content = inspect_image(run.path, image, tmp_path / "out", device="cpu")
    for layer in content["layers"].values():
        assert layer["offsets"]["all"]["moved"] > 0
        assert layer["offsets"]["all"]["by_image"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_labels_of_a_file_and_slices_of_volumes(tmp_path):
    sections = {"dataset": {"slices": "axial"}}
    run = make_run(tmp_path / "run", config_of(2, [32, 32], {"deformation": "dcnv3"}, **sections))
    image = volume(tmp_path / "c.nii.gz", noise(33, 34, 5), (0.5, 0.8, 3.0))
    labels = np.zeros((33, 34, 5), np.uint8)
    labels[5:20, 5:20, 3] = 7
    file = volume(tmp_path / "label.nii.gz", labels, (0.5, 0.8, 3.0))
    content = inspect_image(run.path, image, tmp_path / "out", label=file, device="cpu", windows=9)
    assert (content["slice"], content["spacing"]) == (3, pytest.approx([0.5, 0.8]))
    for layer in content["layers"].values():
        assert layer["offsets"]["b"]["positions"] > 0
        assert layer["offsets"]["a"] == {"positions": 0}
    assert f"slice 3: 4 of 4 windows, labels of {file}" in format_inspection(content)


def test_labels_may_be_called_as_anybody_likes(tmp_path):
    """Also like what stands beside them: all voxels, and the background."""
    sections = {"dataset": {"labels": {"nothing": 0, "all": 1, "background": 7}}}
    run = make_run(tmp_path / "run", config_of(3, [8, 8, 8], {"deformation": ["absent", "dense"]}, **sections))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4], labels[:2] = 1, 7
    files = volume(tmp_path / "c.nii.gz", noise(8, 8, 8)), volume(tmp_path / "label.nii.gz", labels)
    content = inspect_image(run.path, files[0], tmp_path / "out", label=files[1], device="cpu")
    ((_, layer),) = content["layers"].items()
    # A map of 4 x 2 x 2 over strides 2, 4, 4: a row of 4 positions for each label.
    found = {label: figures["positions"] for label, figures in layer["offsets"].items()}
    assert found == {"all": 16, "background": 8, "all (1)": 4, "background (7)": 4}


@pytest.mark.parametrize(("slices", "unseen"), [(1, 3), pytest.param(2, 2, marks=pytest.mark.slow), (9, 0)])
def test_layers_without_a_kernel_in_a_thin_image_are_told_with_the_reason(tmp_path, slices, unseen):
    """The maps of the stages have voxels of 4, 8 and 4 slices; a thin image lies in the middle of the window."""
    run = make_run(
        tmp_path / "run", config_of(3, [8, 8, 8], {"deformation": "dense", "strides": [[4, 2, 2], [2, 2, 2]]})
    )
    image = volume(tmp_path / "c.nii.gz", noise(slices, 9, 9))
    content = inspect_image(run.path, image, tmp_path / "out", device="cpu", windows=1)
    empty = [name for name, layer in content["layers"].items() if layer["offsets"]["all"] == {"positions": 0}]
    assert len(empty) == unseen
    table = format_inspection(content)
    first, *_ = table.partition("without it")
    told = [line.split() for line in first.splitlines()]
    assert [words[0] for words in told if words[1:] == ["all", *"-------"]] == empty
    assert ("no kernel of the layer has its centre in the image" in first) is bool(empty)


def test_a_folder_that_is_taken_is_told_before_anything_is_counted(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", config_of(3, [8, 8, 8]))
    image = volume(tmp_path / "c.nii.gz", noise(9, 9, 9))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inspect" / "c").mkdir(parents=True)
    (tmp_path / "inspect" / "c" / "inspect.json").touch()
    monkeypatch.setattr(inspect_module, "_counted", lambda *_: pytest.fail("counted"))
    with pytest.raises(InputError, match=r"inspect/c exists already"):
        inspect_image(run.path, image, device="cpu")


@pytest.mark.parametrize("network", [{"deformation": "none"}, {"name": "unet", "channels": [4, 8], "strides": [2]}])
def test_nothing_deforms(tmp_path, network):
    config = config_of(3, [16, 16, 16])
    if "name" in network:
        config = checked_config(config.model_dump() | {"network": network}, "x")
        run = RunFolder.create(tmp_path / "run", config, {"train": [], "validation": [], "test": []})
        run.save_weights(build_run_network(config).state_dict())
    else:
        run = make_run(tmp_path / "run", config_of(3, [16, 16, 16], network))
    with pytest.raises(InputError, match="nothing deforms in its network"):
        inspect_image(run.path, tmp_path / "missing.nii.gz", tmp_path / "out")


def test_wrong_images_leave_nothing_behind(tmp_path):
    run = make_run(tmp_path / "run", config_of(3, [8, 12, 8]))
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        volume(tmp_path / "two" / f"{name}.nii.gz", noise(9, 9, 9))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    flat = picture(tmp_path / "flat.png", np.zeros((9, 9)))
    other = volume(tmp_path / "other.nii.gz", np.zeros((4, 4, 4), np.uint8))
    right = tmp_path / "two" / "a.nii.gz"
    for image, label, told in [
        (tmp_path / "two", None, "holds 2 cases"),
        (flat, None, "is one of 2D images"),
        (tmp_path / "broken.nii.gz", None, "broken.nii.gz"),
        (right, other, "other.nii.gz"),
    ]:
        with pytest.raises(InputError, match=told):
            inspect_image(run.path, image, tmp_path / "out", label=label, device="cpu")
    assert not (tmp_path / "out").exists()


class Follower(nn.Module):
    """A layer whose points move along the first axis as far as the second channel says, before two logits."""

    def __init__(self, dims):
        super().__init__()
        self.layer = DeformConv(dims, 2, 2)
        points = self.layer.geometry.points
        with torch.no_grad():
            self.layer.offset_conv.weight[(slice(0, points * dims, dims), 1, *(1,) * dims)] = REACH / 1.5

    def forward(self, x):
        return self.layer(x)


def bent_view(tmp_path, network, dims, monkeypatch):
    """A view of an image of `distorted`, the field in it, and the predictor."""
    image, _, field = distorted(1, dims, seed=0)
    size = tuple(image.shape[2:])
    sections = {"dataset": {"channels": ["structure", "field"], "labels": {"background": 0, "a": 1}}}
    sections["preprocessing"] = {"intensity": [{"kind": "none"}] * 2, "orientation": None}
    config = config_of(3, list(size), **sections)
    run = make_run(tmp_path / "run", config)
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": network)
    file = volume(tmp_path / "c.nii.gz", image[0].movedim(0, -1).numpy())
    constant = volume(tmp_path / "flat.nii.gz", np.ones((*size, 2), np.float32))
    view = read_view(run, Predictor.of_config(network, config), file)
    return run, file, constant, view, field[0].numpy()


def test_arrows_lie_where_the_points_went(tmp_path, monkeypatch):
    network = Follower(3)
    _, _, _, view, field = bent_view(tmp_path, network, 3, monkeypatch)
    (aim,) = aims_at(network, view, [(20, 3, 4)])["layer"]
    np.testing.assert_allclose(aim.drift[0], field - field.mean(), atol=1e-4)
    np.testing.assert_allclose(aim.drift[1:], 0, atol=1e-6)
    np.testing.assert_array_equal(aim.homes, np.indices(field.shape))
    np.testing.assert_allclose(aim.start[0].mean(0), (20, 3, 4))
    np.testing.assert_allclose((aim.moved - aim.start)[0, :, 0], field[20, 3, 4], atol=1e-4)


@pytest.mark.slow
def test_offsets_follow_bent_structures_and_nothing_on_a_constant_image(tmp_path, monkeypatch):
    network = trained(3, "dense", seed=0)
    run, file, constant, view, field = bent_view(tmp_path, network, 3, monkeypatch)
    (name,) = deformable_layers(network)
    bent = inspect_image(run.path, file, tmp_path / "bent", device="cpu")
    flat = inspect_image(run.path, constant, tmp_path / "flat", device="cpu")
    (aim,) = aims_at(network, view, [(32, 4, 4)])[name]
    along, across = aim.drift[0].ravel(), aim.drift[1:].reshape(2, -1)
    assert np.corrcoef(along, field.ravel())[0, 1] > 0.5
    assert np.abs(along).mean() > 2 * np.abs(across).mean()
    figures = bent["layers"][name]["offsets"]["all"]
    assert figures["by_image"] > 1
    assert bent["effect_of_all"]["share_of_labelled"] > 0.02
    assert flat["layers"][name]["offsets"]["all"]["by_image"] == pytest.approx(0, abs=1e-4)
