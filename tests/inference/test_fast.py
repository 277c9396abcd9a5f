"""The quick way, and what it is said to cost."""

import json
import logging
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference import fast as module
from dlka_med.inference import predict as predicting
from dlka_med.inference.fast import fast_predictor
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.prediction_folder import PredictionFolder
from dlka_med.run_folder import RunFolder

from .test_predict import Threshold, make_run, write_dataset, write_image

FIGURES = {"cases": 1, "figures": {way: {"dice": 0.5, "seconds": 1} for way in ("usual", "fast")}}


class Drifting(Threshold):
    """Its answer depends on where in the window a voxel is, and so on the overlap."""

    passed = 0

    def forward(self, x):
        Drifting.passed += len(x)
        return super().forward(x) + torch.tensor([0.0, 1.5, 0]).reshape(1, 3, 1, 1, 1) * torch.linspace(
            -1, 1, x.shape[-1]
        )


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A run in the working folder beside its dataset, of which two cases validated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Drifting())
    monkeypatch.setattr(module, "_has_bf16", lambda device: False)
    write_dataset(tmp_path / "data")
    for number in range(3):
        array = np.random.default_rng(number).choice([0, 3, 7], (11, 8, 9)).astype(np.uint8)
        write_image(tmp_path / "data" / "imagesTr" / f"scan{number}.nii.gz", number)
        like = nib.load(tmp_path / "data" / "imagesTr" / f"scan{number}.nii.gz")
        nib.save(nib.Nifti1Image(array, like.affine), tmp_path / "data" / "labelsTr" / f"scan{number}.nii.gz")
    run = make_run(tmp_path / "run")
    run.split_file.write_text(json.dumps({"train": ["scan0"], "validation": ["scan1", "scan2"], "test": []}))
    return RunFolder.open(run.path)


def usual(run, **options) -> Predictor:
    return Predictor.of_config(Drifting(), run.config, **options)


def test_what_it_costs_is_what_evaluations_of_both_ways_say(run, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        predict_images(run.path, "data", "quick", split="validation", fast=True)
    predict_images(run.path, "data", "slow", split="validation")
    content = json.loads((run.path / "fast.json").read_text())
    quick, slow = (evaluate(name, "data").mean["dice"].mean for name in ("quick", "slow"))
    assert content["figures"]["fast"]["dice"] == pytest.approx(quick)
    assert content["figures"]["usual"]["dice"] == pytest.approx(slow)
    assert quick != pytest.approx(slow, abs=1e-6)
    told = (
        f"the fast way (overlap 0.25, no mirroring, float32) on 2 validation cases: mean Dice {quick:.4f} instead of "
        f"{slow:.4f} ({quick - slow:+.4f}), "
    )
    assert any(message.startswith(told) for message in caplog.messages)
    (facts,) = PredictionFolder(run.path.parent / "quick").runs.values()
    assert (facts["overlap"], facts["mirror_axes"]) == (0.25, [])


def test_it_is_measured_once_for_weights_and_settings(run, monkeypatch, caplog):
    fast_predictor(run, usual(run))
    before = (run.path / "fast.json").read_bytes()
    monkeypatch.setattr(module, "_measured", lambda *_: pytest.fail("measured again"))
    quick = fast_predictor(run, usual(run))
    assert (quick.overlap, quick.mirror_axes, quick.dtype) == (0.25, (), torch.float32)
    monkeypatch.setattr(module, "_measured", lambda *_: {"unknown": "asked again"})
    for change in (lambda: run.weights_file.write_bytes(b"other"), lambda: (run.path / "fast.json").write_text("{")):
        (run.path / "fast.json").write_bytes(before)
        change()
        fast_predictor(run, usual(run))
        assert "asked again" in (run.path / "fast.json").read_text()
    run.weights_file.write_bytes(b"")
    (run.path / "fast.json").write_bytes(before)
    fast_predictor(run, usual(run, mirror_axes=(1,)))
    assert "asked again" in (run.path / "fast.json").read_text()


def test_what_regions_cost_is_measured_for_their_thresholds(run, monkeypatch):
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    painting = run.config.dataset.model_copy(update={"labels": regions, "regions_class_order": (1, 2)})
    monkeypatch.setitem(run.__dict__, "config", run.config.model_copy(update={"dataset": painting}))
    asked = []
    monkeypatch.setattr(module, "_measured", lambda *_: asked.append(1) or FIGURES)
    for thresholds, times in ((None, 1), (None, 1), ((0.3, 0.5), 2), ((0.3, 0.5), 2), ((0.3, 0.6), 3)):
        assert fast_predictor(run, usual(run, thresholds=thresholds)).decision.thresholds == thresholds
        assert len(asked) == times


def test_mirroring_and_half_of_the_steps_are_spared(run):
    predictor = usual(run, mirror_axes=(0, 1), overlap=0.5)
    quick = fast_predictor(run, predictor)
    layouts = [each.layout((40, 40, 40), np.eye(4)).count for each in (predictor, quick)]
    assert layouts[1] < layouts[0] / 2
    assert quick.mirror_axes == ()
    assert fast_predictor(run, usual(run, overlap=0.1)).overlap == 0.1, "never slower"


@pytest.mark.parametrize("quicker", [False, True])
def test_bf16_is_taken_where_the_device_has_it_and_is_quicker_by_it(run, monkeypatch, quicker):
    monkeypatch.setattr(module, "_has_bf16", lambda device: True)
    plain = module.measure_window

    def timed(predictor, channels):
        seconds = 2.0 if (predictor.dtype == torch.bfloat16) is quicker else 3.0
        return replace(plain(predictor, channels), seconds=seconds)

    monkeypatch.setattr(module, "measure_window", timed)
    for _ in range(2):
        assert (fast_predictor(run, usual(run)).dtype == torch.bfloat16) is quicker
        monkeypatch.setattr(module, "measure_window", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(module, "_has_bf16", lambda device: False)
    assert fast_predictor(run, usual(run)).dtype == torch.float32, "on another machine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root, run: root.rename("moved"), r"its dataset is no longer in data"),
        (
            lambda root, run: run.split_file.write_text(json.dumps({"train": [], "validation": [], "test": []})),
            "no case",
        ),
        (lambda root, run: [(root / "labelsTr" / f"scan{i}.nii.gz").write_bytes(b"") for i in (1, 2)], "is empty"),
    ],
    ids=["moved", "nothing validated", "damaged"],
)
def test_without_the_cases_the_cost_is_not_known(run, tmp_path, caplog, change, reason):
    images = tmp_path / "images"
    write_image(images / "new.nii.gz", 5)
    change(tmp_path / "data", run)
    with caplog.at_level(logging.INFO, "dlka_med"):
        assert len(predict_images(run.path, images, tmp_path / "out", fast=True)) == 1
    told = [message for message in caplog.messages if "what it costs in Dice is not known, since" in message]
    assert len(told) == 1
    assert re.search(reason, told[0])


def test_the_weights_that_predicted_are_remembered_where_a_training_replaces_them_meanwhile(run, monkeypatch):
    def measured(_run, predictor, _limit):
        run.weights_file.write_bytes(b"better ones")
        return predictor

    monkeypatch.setattr(predicting, "fast_predictor", measured)
    before = digest_of_weights(run)
    predict_images(run.path, "data", "out", fast=True, only=["scan0"])
    (facts,) = PredictionFolder(run.path.parent / "out").runs.values()
    assert facts["weights"] == [before] != [digest_of_weights(run)]


def test_options_that_contradict_it_are_refused(run):
    for options in ({"mirror": True}, {"overlap": 0.5}, {"mirror": (0,)}):
        with pytest.raises(InputError, match="the fast way chooses overlap and mirroring itself"):
            predict_images(run.path, "data", "out", fast=True, **options)


@pytest.fixture
def spaced(run, tmp_path) -> RunFolder:
    """The run with a spacing of its own, and cases of several windows: first a bright ball, then a dark one."""
    spacing = (1.0, 1.1, 1.2)
    preprocessing = run.config.preprocessing.model_copy(update={"spacing": spacing})
    run.__dict__["config"] = run.config.model_copy(update={"preprocessing": preprocessing})
    for number, value in ((1, 2.0), (2, -2.0)):
        places = np.indices((40, 36, 38)).reshape(3, -1).T - (20.3, 17.1, 18.6)
        shown = np.linalg.norm(places * spacing, axis=1).reshape(40, 36, 38) < 12
        affine = np.diag([*spacing, 1])
        for folder, array in (("imagesTr", shown * value), ("labelsTr", shown * (3 if value > 0 else 7))):
            kind = np.float32 if folder == "imagesTr" else np.uint8
            file = tmp_path / "data" / folder / f"scan{number}.nii.gz"
            nib.save(nib.Nifti1Image(array.astype(kind), affine), file)
    return run


def plain(run, **options) -> Predictor:
    return Predictor.of_config(Threshold(), run.config, **options)


@pytest.mark.parametrize(("tolerance", "taken", "tried"), [(0.2, 1.5, ["1.25", "1.5"]), (-0.1, 1, ["1.25"])])
def test_a_coarser_spacing_is_taken_where_no_label_loses_more(spaced, monkeypatch, caplog, tolerance, taken, tried):
    monkeypatch.setattr(module, "TOLERANCE", tolerance)
    with caplog.at_level(logging.INFO, "dlka_med"):
        quick = fast_predictor(spaced, plain(spaced))
    content = json.loads((spaced.path / "fast.json").read_text())
    assert content["fast"]["coarser"] == taken
    assert quick.config.preprocessing.spacing == pytest.approx([taken * step for step in (1.0, 1.1, 1.2)])
    assert list(content["tried"]) == tried
    assert (f", {taken:g} times the spacing) on 2" in caplog.text) is (taken != 1)
    figures, usual = content["tried"][tried[-1]], content["figures"]["usual"]
    assert (figures == content["figures"]["fast"]) is (taken != 1)
    assert all(0.8 < figures["labels"][name] < usual["labels"][name] for name in ("bright", "dark"))
    monkeypatch.setattr(module, "_figures", lambda *_: pytest.fail("measured again"))
    again = fast_predictor(spaced, plain(spaced))
    assert again.config.preprocessing.spacing == quick.config.preprocessing.spacing


@pytest.mark.parametrize(
    ("usual", "coarse", "taken"),
    [
        ({"bright": 1.0, "dark": 0.6}, {"bright": 1.0, "dark": 0.0}, 1),
        ({"bright": 0.9}, {"bright": 0.9, "dark": 0.0}, 1),
        ({"bright": 0.9, "dark": 0.0}, {"bright": 0.9}, 1.5),
    ],
    ids=["one is lost", "one is invented", "one is no longer invented"],
)
def test_one_label_that_loses_is_enough(spaced, monkeypatch, usual, coarse, taken):
    """Whatever the mean over labels; neither the references nor the other way need to show it."""
    real = module._figures

    def figures(run, cases, ways, limit):
        found = real(run, cases, ways, limit)
        for name, way in ways.items():
            is_coarse = way.config.preprocessing.spacing != run.config.preprocessing.spacing
            found[name]["labels"] = coarse if is_coarse else usual
        return found

    monkeypatch.setattr(module, "_figures", figures)
    monkeypatch.setattr(module, "TOLERANCE", 0.5)
    found = fast_predictor(spaced, plain(spaced)).config.preprocessing.spacing
    assert found == pytest.approx([taken * step for step in (1.0, 1.1, 1.2)])


@pytest.mark.parametrize("patch", [(48, 48, 48), (10, 10, 10)])
def test_a_coarser_spacing_that_spares_no_windows_is_not_tried(spaced, monkeypatch, patch):
    monkeypatch.setattr(module, "TOLERANCE", 1)
    training = spaced.config.training.model_copy(update={"patch_size": patch})
    spaced.__dict__["config"] = spaced.config.model_copy(update={"training": training})
    fast_predictor(spaced, plain(spaced))
    assert ("tried" in json.loads((spaced.path / "fast.json").read_text())) is (patch[0] < 40)


def test_label_maps_of_a_coarser_spacing_lie_on_the_grid_of_the_image(spaced, tmp_path, monkeypatch):
    """They are those of a config of that spacing, and are told apart from others."""
    monkeypatch.setattr(module, "TOLERANCE", 0.2)
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())
    text = spaced.config_file.read_text()
    spaced.config_file.write_text(text.replace("  spacing: null", "  spacing: [1.0, 1.1, 1.2]"))
    predict_images(spaced.path, "data", "quick", split="validation", fast=True)
    preprocessing = spaced.config.preprocessing.model_copy(update={"spacing": (1.5, 1.1 * 1.5, 1.2 * 1.5)})
    config = spaced.config.model_copy(update={"preprocessing": preprocessing})
    coarse = Predictor.of_config(Threshold(), config, overlap=0.25)
    for name in ("scan1", "scan2"):
        image, found = (nib.load(tmp_path / place / f"{name}.nii.gz") for place in ("data/imagesTr", "quick"))
        np.testing.assert_array_equal(found.affine, image.affine)
        np.testing.assert_array_equal(found.dataobj, coarse(image).dataobj)
        assert (np.asarray(found.dataobj) != np.asarray(plain(spaced)(image).dataobj)).any()
    (facts,) = PredictionFolder(tmp_path / "quick").runs.values()
    assert facts["spacing"] == pytest.approx([1.5, 1.65, 1.8])
    with pytest.raises(InputError, match=r"spacing \[1\.5, .*\] there, None now"):
        predict_images(spaced.path, "data", "quick", split="validation", overlap=0.25, skip_existing=True)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (None, None),
        ((1.0, 1.0, 2.0), (1.5, 1.5, 3.0)),
        ((1.0, 1.0, 5.0), (1.5, 1.5, 5.0)),
        ((None, 1.0, 5.0), (None, 1.5, 7.5)),
        ((2.0, 3.0), (3.0, 4.5)),
    ],
)
def test_thick_slices_and_what_images_keep_stay(spacing, expected):
    assert module._times(spacing, 1.5) == expected
