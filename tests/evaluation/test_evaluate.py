import csv
import json
import logging
import math
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med import cli
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.measures import Protocol
from dlka_med.evaluation.tables import format_summary

SHAPE, SPACING = (20, 18, 10), (1.0, 0.5, 2.0)
AFFINE = np.diag([*SPACING, 1.0])
NAMES = {"background": 0, "kidney": 1, "tumour": 3}


def save(path, array, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array.astype(dtype)).save(path)
        return
    nib.save(nib.Nifti1Image(array.astype(dtype), affine), path)


def label_map(kidney=None, tumour=None):
    """Two 6x6x6 cubes at the given x, or none of them."""
    array = np.zeros(SHAPE)
    for value, start, row in ((1, kidney, 1), (3, tumour, 10)):
        if start is not None:
            array[start : start + 6, row : row + 6, 2:8] = value
    return array


@pytest.fixture
def folders(tmp_path):
    """Four cases: shifted by one voxel; tumour missed; tumour invented; a reference without prediction."""
    predictions, labels = tmp_path / "predictions", tmp_path / "labels"
    for case, predicted, expected in (
        ("a", label_map(5, 2), label_map(4, 2)),
        ("b_0001", label_map(4), label_map(4, 2)),
        ("c.v2", label_map(4, 2), label_map(4)),
        ("d", None, label_map(4, 2)),
    ):
        save(labels / f"{case}.nii.gz", expected)
        if predicted is not None:
            save(predictions / f"{case}.nii.gz", predicted)
    (predictions / "labels.json").write_text(json.dumps({"labels": NAMES}))
    return predictions, labels


def test_numbers_files_and_the_honest_count(folders, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO, "dlka_med"):
        result = evaluate(*folders, out)
    diagonal = math.hypot(20, 9, 20)
    kidney, tumour = result.labels["kidney"], result.labels["tumour"]
    assert list(result.labels) == ["kidney", "tumour"]
    assert (kidney.cases, kidney.missed, kidney.false_positive, kidney.both_empty) == (3, 0, 0, 0)
    assert (tumour.cases, tumour.missed, tumour.false_positive, tumour.both_empty) == (3, 1, 1, 0)
    assert kidney["dice"].mean == pytest.approx((5 / 6 + 2) / 3)
    assert kidney["dice"].median == 1
    assert kidney["dice"].std == pytest.approx(np.std([5 / 6, 1, 1]))
    assert kidney["hd95"].mean == pytest.approx(1 / 3)
    assert tumour["dice"].mean == pytest.approx(1 / 3)
    assert tumour["hd95"].mean == pytest.approx(2 * diagonal / 3)
    assert tumour["nsd"].mean == pytest.approx(1 / 3)
    assert result.mean["dice"].mean == pytest.approx((kidney["dice"].mean + tumour["dice"].mean) / 2)

    summary = json.loads((out / "summary.json").read_text())
    assert summary["mean"]["hd95_mm"]["mean"] == pytest.approx((kidney["hd95"].mean + tumour["hd95"].mean) / 2)
    assert summary["labels"]["tumour"]["missed"] == 1
    assert summary["cases"] == 3
    assert summary["tolerance_mm"] == 1
    assert summary["cases_without_prediction"] == ["d"]
    assert "both_empty" in summary["rule"]
    assert "background left out" in summary["rule"]
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"], row["status"]) for row in rows] == [
        ("a", "kidney", "ok"),
        ("a", "tumour", "ok"),
        ("b_0001", "kidney", "ok"),
        ("b_0001", "tumour", "missed"),
        ("c.v2", "kidney", "ok"),
        ("c.v2", "tumour", "false_positive"),
    ]
    assert float(rows[3]["reference_ml"]) == pytest.approx(0.216)
    assert (rows[3]["prediction_ml"], rows[3]["reference_voxels"]) == ("0.0", "216")
    assert "1 of 4 references have no prediction" in caplog.text
    assert "evaluate: 3 cases in" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels", "out", "predictions"]


def test_processes_give_the_same_and_pass_their_errors_on(folders):
    alone, together = evaluate(*folders), evaluate(*folders, workers=2)
    assert together == alone
    save(folders[0] / "a.nii.gz", np.full(SHAPE, 7))
    with pytest.raises(InputError, match=r"a\.nii\.gz holds the values 7"):
        evaluate(*folders, workers=2)


def test_both_empty_is_left_out_and_counted(tmp_path):
    for folder in ("p", "l"):
        save(tmp_path / folder / "a.nii", label_map(4, 2))
        save(tmp_path / folder / "b.nii", label_map(4))
        save(tmp_path / folder / "c.nii", label_map(4))
    result = evaluate(tmp_path / "p", tmp_path / "l", label_names={**NAMES, "cyst": 2})
    assert (result.labels["tumour"]["dice"].mean, result.labels["tumour"].cases) == (1, 1)
    assert result.labels["tumour"].both_empty == 2
    assert result.labels["cyst"]["dice"].mean is None
    assert result.labels["cyst"]["hd95"].std is None
    assert (result.mean["dice"].mean, result.mean["hd95"].mean, result.mean["nsd"].mean) == (1, 0, 1)
    assert result.scores[1].status == "both_empty"
    assert result.scores[1].values["dice"] is None
    text = format_summary(result)
    assert text.splitlines()[2].split() == ["cyst", "-", "-", "-", "-", "0", "0", "0", "3"]
    assert text.splitlines()[-2].split()[:5] == ["mean", "1.0000", "-", "0.00", "1.0000"]


def test_nothing_found_anywhere_is_none_in_all_places(tmp_path):
    for folder in ("p", "l"):
        save(tmp_path / folder / "a.nii", label_map())
    assert evaluate(tmp_path / "p", tmp_path / "l", tmp_path / "o", label_names=NAMES).mean["dice"].mean is None
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["mean"]["dice"]["mean"] is None
    assert evaluate(tmp_path / "p", tmp_path / "l").labels == {}


@pytest.mark.parametrize(
    ("place", "content", "names"),
    [
        ("labelsTr/dataset.json", {"0": "background", "1": "kidney", "3": "tumour"}, ["kidney", "tumour"]),
        ("dataset.json", {"background": 0, "tumour": 3, "kidney": 1}, ["kidney", "tumour"]),
        (None, None, ["label_1", "label_3"]),
    ],
)
def test_names_come_from_the_nearest_description(folders, tmp_path, place, content, names):
    predictions, labels = folders
    (predictions / "labels.json").unlink()
    labels = labels.rename(tmp_path / "labelsTr")
    if place:
        (tmp_path / place).write_text(json.dumps({"labels": content}))
    assert list(evaluate(predictions, labels).labels) == names
    assert list(evaluate(predictions, labels, label_names={"x": 1, "y": 3}).labels) == ["x", "y"]


def test_unnamed_labels_absent_from_a_case_are_both_empty(tmp_path):
    for case, array in (("a", label_map(4)), ("b", label_map(None, 2))):
        for folder in ("p", "l"):
            save(tmp_path / folder / f"{case}.nii", array)
    result = evaluate(tmp_path / "p", tmp_path / "l")
    assert [(s.case, s.label, s.status) for s in result.scores] == [
        ("a", "label_1", "ok"),
        ("a", "label_3", "both_empty"),
        ("b", "label_1", "both_empty"),
        ("b", "label_3", "ok"),
    ]


def test_the_root_of_a_dataset_serves_as_labels(folders, tmp_path):
    predictions, labels = folders
    root = tmp_path / "Dataset001_Test"
    for case in ("a", "b_0001", "c.v2", "d"):
        save(root / "imagesTr" / f"{case}_0000.nii.gz", np.ones(SHAPE))
    labels.rename(root / "labelsTr")
    (predictions / "labels.json").unlink()
    description = {"channel_names": {"0": "MRI"}, "labels": NAMES, "numTraining": 4, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    result = evaluate(predictions, root)
    assert list(result.labels) == ["kidney", "tumour"]
    assert result.cases_without_prediction == ("d",)


def test_two_files_are_a_pair_whatever_their_names(folders):
    predictions, labels = folders
    result = evaluate(predictions / "a.nii.gz", labels / "d.nii.gz")
    assert (result.cases, result.scores[0].case) == (1, "a")
    assert result.labels["kidney"]["dice"].mean == pytest.approx(5 / 6)
    assert evaluate(predictions / "a.nii.gz", labels).cases_without_prediction == ("b_0001", "c.v2", "d")


def test_hippocampus_labels_against_themselves(shared_data):
    root = shared_data / "Task04_Hippocampus"
    file = next(iter(sorted((root / "labelsTr").glob("*.nii.gz"))))
    result = evaluate(file, root)
    assert list(result.labels) == ["Anterior", "Posterior"]
    assert (result.mean["dice"].mean, result.mean["hd95"].mean, result.mean["nsd"].mean) == (1, 0, 1)
    assert len(result.cases_without_prediction) == 206


def spoil_shape(predictions, labels):
    save(predictions / "a.nii.gz", np.zeros((20, 18, 11)))


def spoil_affine(predictions, labels):
    save(predictions / "a.nii.gz", label_map(5, 2), np.diag([-1.0, 0.5, 2.0, 1.0]))


def spoil_pairs(predictions, labels):
    for file in labels.iterdir():
        file.rename(file.with_name(f"other_{file.name}"))


def spoil_values(predictions, labels):
    save(labels / "a.nii.gz", label_map(5, 2) * 2)


def spoil_bytes(predictions, labels):
    whole = (predictions / "a.nii.gz").read_bytes()
    (predictions / "a.nii.gz").write_bytes(whole[: len(whole) // 2])


def spoil_names(predictions, labels):
    (predictions / "labels.json").write_text('{"labels": {"kidney": "one"}}')


def spoil_folder(predictions, labels):
    for file in predictions.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shape, r"a\.nii\.gz has the shape \(20, 18, 11\)"),
        (spoil_affine, r"a\.nii\.gz .* up to 38 mm apart"),
        (spoil_pairs, r"none of 3 predictions has a reference.*a\.nii\.gz"),
        (spoil_values, r"labels.a\.nii\.gz holds the values 2, 6"),
        (spoil_bytes, r"a\.nii\.gz is no NIfTI file or has a broken header"),
        (spoil_names, r"labels\.json: expected"),
        (spoil_folder, "holds no label map"),
    ],
)
def test_spoilt_input_is_named_and_nothing_is_written(folders, tmp_path, spoil, message):
    spoil(*folders)
    with pytest.raises(InputError, match=message):
        evaluate(*folders, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels", "predictions"]


def test_wrong_options_are_refused_before_any_work(folders, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, message in (
        ({"out": tmp_path / "full"}, "not empty"),
        ({"out": tmp_path / "full" / "file" / "out"}, "cannot write"),
        ({"workers": 0}, "workers"),
        ({"label_names": {"a": 1, "b": 1}}, "share a value"),
        ({"label_names": {"background": 0}}, "no label but background"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(*folders, **arguments)
    with pytest.raises(InputError, match="nowhere does not exist"):
        evaluate(tmp_path / "nowhere", folders[1])


def test_all_bad_cases_are_named_together(folders, tmp_path):
    spoil_shape(*folders)
    save(folders[0] / "b_0001.nii.gz", np.full(SHAPE, 7))
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"(?s)2 of 3 cases.*a\.nii\.gz has the shape.*b_0001\.nii\.gz holds"):
            evaluate(*folders, workers=workers)


def test_names_of_the_predictions_replace_those_of_the_dataset(folders, tmp_path):
    predictions, labels = folders
    root = tmp_path / "Dataset001_Test"
    for case in ("a", "b_0001", "c.v2", "d"):
        save(root / "imagesTr" / f"{case}_0000.nii.gz", np.ones(SHAPE))
    labels.rename(root / "labelsTr")
    broken = {"background": 0, "whole": [0, 3], "tumour": 3}
    facts = {"channel_names": {"0": "MRI"}, "labels": broken, "numTraining": 4, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    assert list(evaluate(predictions, root).labels) == ["kidney", "tumour"]


def test_references_without_prediction_take_one_line(tmp_path, caplog):
    for index in range(5):
        save(tmp_path / "l" / f"case{index}.nii", label_map(4))
    save(tmp_path / "p" / "case0.nii", label_map(4))
    result = evaluate(tmp_path / "p", tmp_path / "l")
    assert len(result.cases_without_prediction) == 4
    assert caplog.messages[0] == "4 of 5 references have no prediction and are left out: case1, case2, case3, ..."


def test_2d_images_are_measured_in_pixels(tmp_path):
    """Two shifted squares, and a false positive: distances by hand, in columns that say pixels."""
    reference, prediction = np.zeros((30, 40)), np.zeros((30, 40))
    reference[5:15, 5:15], prediction[5:15, 8:18] = 1, 1
    save(tmp_path / "images" / "a.png", reference)
    for case, expected in (("a", reference), ("b", 0 * reference)):
        save(tmp_path / "predictions" / f"{case}.png", prediction)
        save(tmp_path / "labels" / f"{case}.png", expected)
    names = {"nucleus": 1}
    result = evaluate(tmp_path / "predictions", tmp_path, tmp_path / "out", label_names=names, protocol=Protocol(2))
    assert (result.unit, result.labels["nucleus"].false_positive) == ("px", 1)
    assert result.mean["dice"].mean == pytest.approx(0.7 / 2)
    assert result.mean["hd95"].mean == pytest.approx((3 + math.hypot(30, 40)) / 2)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    shares = {"dice", "iou", "precision", "recall", "nsd", "boundary_iou"}
    assert summary["mean"].keys() == shares | {"hd95_px", "hd_px", "assd_px", "volume_error_percent"}
    assert (summary["tolerance_px"], summary["unit"]) == (2, "px")
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["hd95_px"], row["hd_px"], row["reference_voxels"]) == ("3.0", "3.0", "100")
    assert not any(key.endswith(("_mm", "_ml")) for key in row)
    assert format_summary(result).splitlines()[0].startswith("label      Dice  95% interval  HD95 px  NSD 2 px  cases")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    save(tmp_path / "predictions" / "c.nii.gz", label_map(4))
    save(tmp_path / "labels" / "c.nii.gz", label_map(4))
    with pytest.raises(InputError, match=r"c\.nii\.gz is a volume and .*\.png a 2D image.*evaluate them apart"):
        evaluate(tmp_path / "predictions", tmp_path / "labels")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (np.zeros((30, 39)), r"predictions.a\.png has the shape \(30, 39\), but .*labels.a\.png has \(30, 40\)"),
        (np.full((30, 40), 7), r"a\.png holds the values 7"),
        (np.random.default_rng(0).integers(0, 2, (30, 40, 3)), r"a\.png is a colour image"),
    ],
)
def test_mistakes_in_2d_label_maps(tmp_path, spoilt, message):
    save(tmp_path / "labels" / "a.png", np.eye(30, 40))
    save(tmp_path / "predictions" / "a.png", spoilt)
    with pytest.raises(InputError, match=message):
        evaluate(tmp_path / "predictions", tmp_path / "labels", label_names={"nucleus": 1})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: this system has no /dev/full")
@pytest.mark.parametrize("name", ["cases.csv", "summary.json"])
def test_a_full_disk_is_named_and_leaves_nothing(folders, tmp_path, monkeypatch, capsys, name):
    mkdtemp = tempfile.mkdtemp

    def on_full_disk(**names):
        folder = mkdtemp(**names)
        os.symlink("/dev/full", Path(folder) / name)
        return folder

    monkeypatch.setattr("dlka_med.files.tempfile.mkdtemp", on_full_disk)
    assert cli.main(["evaluate", *map(str, folders), "-o", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out'} cannot be written, no space is left on its disk" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels", "predictions"]
