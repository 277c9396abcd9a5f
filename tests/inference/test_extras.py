"""Probabilities and uncertainty beside label maps, against numpy on all probabilities at once."""

import errno
import hashlib
import io
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import entr
from torch import nn

from dlka_med.data.cases import Case
from dlka_med.data.prepare import prepare
from dlka_med.errors import InputError, WriteError
from dlka_med.inference import probabilities as module
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import RunFolder

from .test_predict import make_run, oblique_affine, read

SHAPE = (13, 10, 11)
CLASSES = {"nothing": 0, "bright": 3, "dark": 7}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
ORDER = (1, 2)
KINDS = {"classes": {"labels": CLASSES}, "regions": {"labels": REGIONS}}
GRIDS = {
    "own": {},
    "turned": {"orientation": "PIR", "crop_foreground": True},
    "resampled": {"spacing": (0.9, 1.0, 2.2)},
}


class Soft(nn.Module):
    """Smooth logits of what is around a voxel, by random weights."""

    def __init__(self, outputs, seed, dims=3):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = (nn.Conv3d if dims == 3 else nn.Conv2d)(1, outputs, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """`runs(kind, number, **preprocessing)`: runs with networks of their own; the second one is calibrated."""
    monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Soft(*networks[run.path.name]))
    networks = {}

    def make(kind, number=1, order=ORDER, **preprocessing) -> list:
        made = []
        for seed in range(number):
            run = make_run(tmp_path / f"run{seed}", labels=CLASSES, **preprocessing)
            if kind == "regions":
                text = run.config_file.read_text()
                labels = text.index("  labels:"), text.index("  ", text.index("dark: 7"))
                text = text[: labels[0]] + f"  labels: {json.dumps(REGIONS)}\n" + text[labels[1] :]
                text = text.replace("regions_class_order: null", f"regions_class_order: {list(order)}")
                run.config_file.write_text(text)
            run.weights_file.write_bytes(bytes([seed]))
            run = RunFolder.open(run.path)
            networks[run.path.name] = (run.config.dataset.scheme.outputs, seed)
            if seed == 1:
                digest = hashlib.sha256(run.weights_file.read_bytes()).hexdigest()
                run.calibration_file.write_text(json.dumps({"temperature": 1.8, "weights": {"run": digest}}))
            made.append(run.path)
        return made

    return make


@pytest.fixture
def scan(tmp_path):
    array = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)
    array[:2], array[..., -1] = 0, 0
    image = nib.Nifti1Image(array, oblique_affine("PIR", shape=SHAPE))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, "talairach")
    nib.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def by_hand(runs, scan) -> tuple[list[np.ndarray], np.ndarray]:
    """Probabilities (K, x, y, z) of each run by itself, and of all."""
    each = []
    for run in runs:
        predictor = Predictor.of_run(run)
        config = RunFolder.open(run).config
        prepared = prepare(Case("scan", (scan,)), config.preprocessing, ["T1"])
        each.append(predictor.probabilities(predictor.normalised(prepared)))
    return each, np.mean(each, axis=0)


def same_grid(path, scan):
    found, source = nib.load(path), nib.load(scan)
    np.testing.assert_array_equal(found.affine, source.affine)
    assert found.header["sform_code"] == source.header["sform_code"] == 3
    assert found.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(found.header.get_zooms()[:3], source.header.get_zooms())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("number", [1, 3])
def test_what_is_written_is_what_all_probabilities_give(runs, scan, tmp_path, kind, grid, number):
    paths = runs(kind, number, **GRIDS[grid])
    (label_map,) = predict_images(paths, scan, tmp_path / "out", probabilities="uint8", uncertainty=True)
    each, mean = by_hand(paths, scan)
    file = same_grid(tmp_path / "out/probabilities/scan.nii.gz", scan)
    found = np.moveaxis(file.get_fdata(), -1, 0)
    assert found.shape == (len(mean), *SHAPE)
    assert file.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found, mean, atol=0.5 / 255 + 1e-5)
    uncertainty = same_grid(tmp_path / "out/uncertainty/scan.nii.gz", scan).get_fdata()
    entropy = lambda p: (  # noqa: E731
        entr(p.clip(0, 1)).sum(0) / np.log(3)
        if kind == "classes"
        else (entr(p.clip(0, 1)) + entr((1 - p).clip(0, 1))).max(0) / np.log(2)
    )
    np.testing.assert_allclose(uncertainty, entropy(mean), atol=0.5 / 255 + 1e-4)
    assert 0.3 < uncertainty.max() <= 1
    between = tmp_path / "out/disagreement/scan.nii.gz"
    assert between.exists() == (number == 3)
    if number == 3:
        disagreement = same_grid(between, scan).get_fdata()
        assert 0.02 < disagreement.max() <= 1
        assert (disagreement <= uncertainty + 1 / 255).all()
        if grid != "resampled" and kind == "classes":
            expected = entropy(mean) - np.mean([entropy(p) for p in each], axis=0)
            np.testing.assert_allclose(disagreement, expected, atol=0.5 / 255 + 1e-4)
    decided, sure = decide(kind, found)
    np.testing.assert_array_equal(read(label_map)[sure], decided[sure])
    assert sure.mean() > 0.7
    files = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_file())
    assert files == ["cases.json", "labels.json", "scan.nii.gz"]


def decide(kind, found) -> tuple[np.ndarray, np.ndarray]:
    """Label values by probabilities, and where their rounding does not matter."""
    if kind == "classes":
        ranked = np.sort(found, axis=0)
        return np.array([0, 3, 7])[found.argmax(axis=0)], ranked[-1] - ranked[-2] > 2.1 / 255
    decided = np.zeros(SHAPE)
    for value, chance in zip(ORDER, found, strict=True):
        decided[chance > 0.5] = value
    return decided, (np.abs(found - 0.5) > 1.1 / 255).all(axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_float16_is_an_archive_of_numpy(runs, scan, tmp_path, kind):
    paths = runs(kind, **GRIDS["turned"])
    predict_images(paths, scan, tmp_path / "out", probabilities="float16")
    with np.load(tmp_path / "out/probabilities/scan.npz", allow_pickle=False) as found:
        assert found["probabilities"].dtype == np.float16
        np.testing.assert_allclose(found["probabilities"], by_hand(paths, scan)[1], atol=5e-4)
        names = ["nothing", "bright", "dark"] if kind == "classes" else ["whole", "core"]
        assert found["names"].tolist() == names
        np.testing.assert_allclose(found["affine"], nib.load(scan).affine)
    assert not (tmp_path / "out/uncertainty").exists()


@pytest.mark.parametrize("probabilities", ["uint8", "float16"])
def test_2d_images(tmp_path, monkeypatch, probabilities):
    from .test_predict_2d import RunConfig

    config = {
        "name": "run",
        "dataset": {"root": "data", "channels": ["grey"], "labels": CLASSES},
        "preprocessing": {"intensity": [{"kind": "zscore"}]},
        "network": {"name": "dlka_net_2d", "encoder": "test_convnext"},
        "training": {"patch_size": [8, 10]},
    }
    monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Soft(3, 0, dims=2))
    run = RunFolder.create(
        tmp_path / "run", RunConfig.model_validate(config), {"train": [], "validation": [], "test": []}
    )
    run.weights_file.touch()
    pixels = np.random.default_rng(0).integers(0, 256, (21, 17)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_images(run.path, tmp_path / "a.png", tmp_path / "out", probabilities=probabilities, uncertainty=True)
    predictor = Predictor.of_run(run.path)
    prepared = prepare(Case("a", (tmp_path / "a.png",)), run.config.preprocessing, ["grey"])
    expected = predictor.probabilities(predictor.normalised(prepared))
    with np.load(tmp_path / "out/probabilities/a.npz") as found:
        scale = 255 if probabilities == "uint8" else 1
        np.testing.assert_allclose(found["probabilities"] / scale, expected, atol=0.5 / 255 + 1e-5)
        assert found["probabilities"].dtype == probabilities
    with Image.open(tmp_path / "out/uncertainty/a.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 255, entr(expected).sum(0) / np.log(3), atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize("grid", ["own", "resampled"])
@pytest.mark.parametrize("number", [1, 3])
def test_regions_have_thresholds_of_their_own(runs, scan, tmp_path, grid, number):
    paths = runs("regions", number, **GRIDS[grid])
    (label_map,) = predict_images(paths, scan, tmp_path / "out", thresholds={"core": 0.3})
    chances = by_hand(paths, scan)[1]
    decided = np.zeros(SHAPE)
    for value, cut, chance in zip(ORDER, (0.5, 0.3), chances, strict=True):
        decided[chance > cut] = value
    sure = (np.abs(chances - np.array([0.5, 0.3])[:, None, None, None]) > 1e-4).all(axis=0)
    np.testing.assert_array_equal(read(label_map)[sure], decided[sure])
    (plain,) = predict_images(paths, scan, tmp_path / "plain")
    (half,) = predict_images(paths, scan, tmp_path / "half", thresholds={"core": 0.5})
    np.testing.assert_array_equal(read(plain), read(half))
    assert (read(plain) != read(label_map)).mean() > 0.02


def test_a_threshold_is_of_the_calibrated_probability(runs, scan, tmp_path):
    path = runs("regions", 2)[1]
    assert Predictor.of_run(path).temperature == 1.8
    (label_map,) = predict_images(path, scan, tmp_path / "out", thresholds={"whole": 0.7, "core": 0.2})
    chances = by_hand([path], scan)[1]
    decided = np.where(chances[1] > 0.2, 2, np.where(chances[0] > 0.7, 1, 0))
    assert (read(label_map) == decided).mean() > 0.999


def test_thresholds_that_cannot_be(runs, scan, tmp_path):
    (path,) = runs("regions")
    for given, said in (({"cor": 0.4}, "regions of the run are whole, core"), ({"core": 1.0}, "is 1, expected more")):
        with pytest.raises(InputError, match=said):
            predict_images(path, scan, tmp_path / "out", thresholds=given)
    run = make_run(tmp_path / "classes")
    with pytest.raises(InputError, match="a threshold for 'bright', but the labels of the run are classes"):
        predict_images(run.path, scan, tmp_path / "out", thresholds={"bright": 0.4})


def test_an_outdated_temperature_matters_where_probabilities_do(runs, scan, tmp_path):
    path = runs("classes", 2)[1]
    (path / "weights.safetensors").write_bytes(b"others")
    predict_images(path, scan, tmp_path / "out")
    with pytest.raises(InputError, match="fitted for other weights"):
        predict_images(path, scan, tmp_path / "new", uncertainty=True)


def test_nothing_is_left_of_a_case_that_fails(runs, scan, tmp_path, monkeypatch):
    (path,) = runs("classes")

    class Full(io.RawIOBase):
        readable = writable = seekable = lambda self: True
        seek = tell = lambda self, *_: 0

        def write(self, _content):
            raise OSError(errno.ENOSPC, "No space left on device")

    # What waits in the buffer is tried again when the file is closed.
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: io.BufferedRandom(Full()))
    with pytest.raises(WriteError, match=r"out/probabilities \(No space left on device\): make room"):
        predict_images(path, scan, tmp_path / "out", probabilities="uint8")
    left = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert left == {"labels.json", "cases.json"}
