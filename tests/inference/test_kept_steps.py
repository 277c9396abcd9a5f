"""The post-processing of a run: read with care, and done to label maps by predict."""

import hashlib
import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from dlka_med import machine
from dlka_med.cli import main
from dlka_med.errors import InputError
from dlka_med.inference import predict as module
from dlka_med.inference.budget import FALLOW, Budget
from dlka_med.inference.kept_steps import postprocessing_of
from dlka_med.inference.postprocess import Step
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import RunFolder

from .test_predict import LABELS, SHAPE, Threshold, make_run, oblique_affine

SMALL = {"step": "minimum", "label": "bright", "mm3": 5.0}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())
    run = make_run(tmp_path / "run")
    run.save_weights({"w": torch.ones(3)})
    return run


def write(run, *steps, **content):
    digest = hashlib.sha256(run.weights_file.read_bytes()).hexdigest()
    run.postprocessing_file.write_text(json.dumps({"steps": steps, "weights": {"fold_1": digest}} | content))


def write_image(path):
    """A large and a small bright piece, of 12 and of 2 voxels of 2.52 mm^3, and one dark voxel."""
    image = np.zeros(SHAPE, np.float32)
    image[2:5, 2:4, 3:5], image[8, 5:7, 3], image[6, 1, 1] = 2, 2, -2
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(image, oblique_affine()), path)
    return np.where(image > 1, 3, np.where(image < -1, 7, 0))


def labels_in(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_run_that_never_learned_has_none(run):
    assert postprocessing_of(run) is None


def test_the_steps_of_these_weights_are_read(run):
    write(run, {"step": "largest", "label": None}, SMALL, {"step": "holes", "label": "dark"})
    found = postprocessing_of(run)
    assert found.steps == (Step("largest"), Step("minimum", "bright", 5.0), Step("holes", "dark"))
    told = "only the largest component of all foreground, no components of bright below 5 mm3, holes of dark filled"
    assert str(found) == told


def test_other_weights_have_other_steps(run, tmp_path):
    write(run, SMALL)
    run.save_weights({"w": torch.zeros(3)})
    with pytest.raises(InputError, match=r"postprocessing\.json was learned for other weights.*dlka postprocess"):
        postprocessing_of(run)
    write_image(tmp_path / "images" / "scan9.nii.gz")
    with pytest.raises(InputError, match="or predict with --no-postprocess"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert predict_images(run.path, tmp_path / "images", tmp_path / "out", postprocess=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps"', '{"steps": 3, "weights": {}}'])
def test_half_a_file_is_named(run, text):
    run.postprocessing_file.write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*postprocessing\.json.*again, remove the file"):
        postprocessing_of(run)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (3, r"steps\[1\] is 3, expected a step such as"),
        (
            {"step": "smallest", "label": None},
            r"steps\[1\]\.step is 'smallest', expected one of largest, minimum, holes",
        ),
        ({"step": [], "label": None}, r"steps\[1\]\.step is \[\]"),
        ({"step": "largest", "label": "brigth"}, r"steps\[1\]\.label is 'brigth', expected one of bright, dark"),
        ({"step": "largest"}, r"steps\[1\] has no label: name one, or null for all foreground"),
        ({"step": "holes", "label": None}, r"steps\[1\]\.label is None"),
        ({"step": "minimum", "label": "dark"}, r"steps\[1\]\.mm3 is None, expected a positive number"),
        (SMALL | {"mm3": -1}, r"steps\[1\]\.mm3 is -1"),
        (SMALL | {"mm3": True}, r"steps\[1\]\.mm3 is True"),
        (SMALL | {"mm3": float("nan")}, r"steps\[1\]\.mm3 is nan"),
        ({"step": "minimum", "label": "dark", "pixels": 4}, r"steps\[1\] has the unknown key pixels"),
    ],
)
def test_a_damaged_step_is_named(run, step, told):
    write(run, SMALL, step)
    with pytest.raises(InputError, match=rf"postprocessing\.json: {told}.*: run dlka postprocess"):
        postprocessing_of(run)


def test_predict_does_what_was_learned_and_says_so_once(run, tmp_path, caplog):
    expected = write_image(tmp_path / "images" / "scan2.nii.gz")
    write_image(tmp_path / "images" / "scan9.nii.gz")
    write(run, SMALL | {"mm3": 5.1})
    with caplog.at_level(logging.INFO, "dlka_med"):
        written = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert caplog.text.count("post-processing by") == 1
    assert "postprocessing.json: no components of bright below 5.1 mm3" in caplog.text
    assert "learned on 1 of these cases" in caplog.text
    expected[8] = 0
    assert (expected == 7).sum() == 1
    for path in written:
        assert np.array_equal(labels_in(path), expected)


@pytest.mark.parametrize("kind", ["array", "nibabel", "MetaTensor"])
def test_an_image_in_memory_gets_the_label_map_of_its_file(run, tmp_path, kind):
    raw = write_image(tmp_path / "images" / "scan9.nii.gz")
    write(run, SMALL | {"mm3": 5.1})
    (path,) = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert not np.array_equal(labels_in(path), raw)
    scan = nib.load(tmp_path / "images" / "scan9.nii.gz")
    voxels = scan.get_fdata(dtype=np.float32)
    given = {
        "array": lambda predictor: predictor(voxels, scan.affine),
        "nibabel": lambda predictor: np.asarray(predictor(scan).dataobj),
        "MetaTensor": lambda predictor: predictor(
            MetaTensor(torch.from_numpy(voxels[None]), affine=torch.from_numpy(scan.affine))
        ).numpy()[0],
    }[kind]
    np.testing.assert_array_equal(given(Predictor.of_run(run.path)), labels_in(path))
    np.testing.assert_array_equal(given(Predictor.of_run(run.path, postprocess=False)), raw)
    run.postprocessing_file.unlink()
    np.testing.assert_array_equal(given(Predictor.of_run(run.path)), raw)


def test_a_predictor_of_runs_is_refused_as_predict_refuses_it(run, tmp_path):
    other = make_run(tmp_path / "other")
    write(run, SMALL)
    with pytest.raises(InputError, match=r"learned different steps: predict with .*\(in Python postprocess=False\)"):
        Predictor.of_run([run.path, other.path])
    assert Predictor.of_run([run.path, other.path], postprocess=False).postprocessing is None


@pytest.mark.slow
def test_what_the_steps_hold_is_known_before(run, tmp_path, monkeypatch):
    """Against what they do hold, of a map that one label fills."""
    kinds = ("largest", "bright"), ("holes", "bright"), ("largest", None)
    write(run, *({"step": kind, "label": label} for kind, label in kinds))
    steps, classes = postprocessing_of(run), np.ones((256, 256, 256), np.uint8)
    classes[3:-3, 3:-3, 3:-3:2] = 0
    held = machine.held_memory() - classes.size
    _, peak = machine.peak_while(lambda: steps(classes, np.eye(4)))
    told = classes.size * steps.bytes_per_voxel
    assert 0.6 * told < peak - held < told + FALLOW
    seen = []
    monkeypatch.setattr(module, "Budget", lambda *a: seen.append(a[-1]) or Budget(*a))
    write_image(tmp_path / "images" / "scan9.nii.gz")
    for postprocess in (True, False):
        predict_images(run.path, tmp_path / "images", tmp_path / f"out{postprocess}", postprocess=postprocess)
    assert seen == [steps.bytes_per_voxel, 3]


def test_two_voxels_of_a_little_more_stay(run, tmp_path):
    expected = write_image(tmp_path / "images" / "scan9.nii.gz")
    write(run, SMALL)
    (path,) = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert np.array_equal(labels_in(path), expected)


def test_that_no_step_helped_is_what_a_run_does_that_never_learned(run, tmp_path, monkeypatch):
    """In an ensemble, and when a folder of label maps is gone on with."""
    other = make_run(tmp_path / "other")
    other.save_weights({"w": torch.zeros(3)})
    write_image(tmp_path / "images" / "scan9.nii.gz")
    write_image(tmp_path / "images" / "scan8.nii.gz")
    predict_images(run.path, tmp_path / "images", tmp_path / "out", only=["scan8"])
    write(run)
    (path,) = predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True)
    assert path.name == "scan9.nii.gz"
    for runs in ([run.path, other.path], [other.path, run.path]):
        assert predict_images(runs, tmp_path / "images", tmp_path / f"out_{runs[0].name}")
    write(run, SMALL)
    with pytest.raises(InputError, match=r"postprocessing None there, no components of bright below 5 mm3 now"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True)
    for runs in ([run.path, other.path], [other.path, run.path]):
        with pytest.raises(InputError, match="have learned different steps: predict with --no-postprocess"):
            predict_images(runs, tmp_path / "images", tmp_path / "out2")


def test_the_command_line_can_leave_it_out(run, tmp_path, capsys):
    expected = write_image(tmp_path / "images" / "scan9.nii.gz")
    write(run, {"step": "largest", "label": None})
    words = ["predict", str(run.path), str(tmp_path / "images"), "-o"]
    assert main([*words, str(tmp_path / "raw"), "--no-postprocess"]) == 0
    assert "post-processing" not in capsys.readouterr().err
    assert main([*words, str(tmp_path / "clean")]) == 0
    assert "only the largest component of all foreground" in capsys.readouterr().err
    assert np.array_equal(labels_in(tmp_path / "raw" / "scan9.nii.gz"), expected)
    clean = labels_in(tmp_path / "clean" / "scan9.nii.gz")
    assert np.array_equal(clean, np.where(np.indices(SHAPE)[0] < 6, expected, 0))
    assert set(LABELS.values()) > set(np.unique(clean))
