"""What an evaluation says of cases that trained, validated, or are new."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.origins import format_origins, origins_of
from dlka_med.evaluation.tables import format_summary
from dlka_med.prediction_folder import Made, PredictionFolder


@pytest.fixture
def places(tmp_path):
    """Predictions and references of three cases."""
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
        for case in "abc":
            array = np.random.default_rng(len(folder)).integers(0, 2, (4, 5, 6)).astype(np.uint8)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"{case}.nii.gz")
    return tmp_path / "predictions", tmp_path / "labels"


def remember(predictions, **parts):
    folder = PredictionFolder(predictions)
    folder.begin("id", {}, [*parts])
    for case, part in parts.items():
        folder.finish(case, Made("id", part))


def test_all_validated_and_none_trained(places, tmp_path, caplog):
    remember(places[0], a="validation", b="validation", c="validation", elsewhere="train")
    result = evaluate(*places, tmp_path / "out")
    assert "\n3 of 3 cases validated the run; 0 trained it\n" in format_summary(result)
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert content["cases_by_origin"] == {"train": [], "validation": ["a", "b", "c"]}
    assert "trained the run" not in caplog.text


def test_of_cases_that_trained_it_is_warned(places, caplog):
    remember(places[0], a="train", b="new", c="validation")
    result = evaluate(*places)
    assert "\n1 of 3 cases validated the run; 1 are new to it; 1 trained it\n" in format_summary(result)
    assert "1 of 3 evaluated cases trained the run that predicted them, such as a" in caplog.text


def test_others_that_trained_on_the_cases_are_told(places, tmp_path, caplog):
    other = tmp_path / "other"
    shutil.copytree(places[0], other)
    remember(places[0], a="new", b="new", c="new")
    remember(other, a="train", b="train", c="new")
    result = evaluate(*places, tmp_path / "out", against=[other])
    assert result.comparisons[0].trained == ("a", "b")
    assert f"2 of 3 evaluated cases trained the run that predicted them, such as a in {other}" in caplog.text
    said = "2 of its cases trained the run that predicted them: other looks better than it is"
    assert said in format_summary(result)
    (written,) = json.loads((tmp_path / "out" / "summary.json").read_text())["comparisons"]
    assert written["trained"] == ["a", "b"]


def test_without_a_record_nothing_is_said(places, caplog):
    result = evaluate(*places)
    assert result.origins == {}
    assert "trained" not in format_summary(result)
    assert "cases_by_origin" not in result.summary()
    (places[0] / "cases.json").write_text("[]")
    assert origins_of(places[0], "abc") == {}
    assert "cases.json, which says which run made which label map" in caplog.text


def test_label_maps_that_nobody_finished_have_no_record(places):
    PredictionFolder(places[0]).begin("id", {}, ["a"])
    assert origins_of(places[0], "abc") == {}
    PredictionFolder(places[0]).finish("b", Made("id", "test"))
    origins = origins_of(places[0] / "b.nii.gz", "abc")
    assert origins == {"train": (), "test": ("b",), "unrecorded": ("a", "c")}
    said = "1 of 3 cases were its test cases; 2 have no record of who predicted them; 0 trained it"
    assert format_origins(origins, 3) == said
    assert format_origins({"train": ("a",)}, 1) == "1 of 1 cases trained the run"
