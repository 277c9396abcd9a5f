import json
import logging
import shutil

import pytest
import torch

from dlka_med.inference.temperature import digest_of_weights
from dlka_med.prediction_folder import Made, PredictionFolder
from dlka_med.report.makers import makers_of
from dlka_med.report.subject import open_subject

from .conftest import make_run
from .test_subject import NAMES, compared, folds


def recorded(folder, weights, cases=NAMES, part="validation", name="run", made="1"):
    """A record of cases that weights of these digests made."""
    record = PredictionFolder(folder)
    folder.mkdir(exist_ok=True)
    record.begin(made, {"run": name} if weights is None else {"run": name, "weights": weights}, cases)
    for case in cases:
        record.finish(case, Made(made, part))
    return folder


@pytest.fixture
def run(tmp_path, volumes):
    return make_run(tmp_path / "run", volumes, validation=["case_1", "case_2"], everybody=NAMES)


def test_own_weights_say_nothing_but_what_the_cases_were(tmp_path, run, caplog):
    folder = recorded(tmp_path / "made", [digest_of_weights(run)], NAMES[:4], name="moved since")
    found = makers_of(open_subject(run.path), folder, NAMES)
    assert (found.parts, found.others) == (dict.fromkeys(NAMES[:4], "validation"), "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "ours", "told"),
    [
        ("other", False, "names other (6)"),
        ("run", False, "names a run run with other weights (6)"),
        ("run", True, "names run together with others (6)"),
    ],
)
def test_other_weights_are_named_and_warned_of(tmp_path, run, caplog, name, ours, told):
    folder = recorded(tmp_path / "made", ["f00"] + [digest_of_weights(run)] * ours, name=name)
    found = makers_of(open_subject(run.path), folder, NAMES)
    assert "6 of 6 label maps were not made by the weights that run has now: cases.json in made" in found.others
    assert told in found.others
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [(logging.WARNING, found.others)]


def test_weights_that_changed_since_are_others(tmp_path, run):
    folder = recorded(tmp_path / "made", [digest_of_weights(run)])
    run.save_weights({"w": torch.ones(2)}, {"epoch": 3})
    assert "a run run with other weights (6)" in makers_of(open_subject(run.path), folder, NAMES).others


def test_a_folder_of_several_makers_tells_each(tmp_path, run):
    folder = recorded(tmp_path / "made", [digest_of_weights(run)], NAMES[:2])
    recorded(folder, ["f00"], NAMES[2:4], name="first", made="2")
    recorded(folder, ["f01"], NAMES[4:5], name="second", made="3")
    found = makers_of(open_subject(run.path), folder, NAMES)
    assert "3 of 6 label maps" in found.others
    assert "first (2), second (1)." in found.others


@pytest.mark.parametrize("record", [None, "damaged", "unfinished", "without weights"])
def test_where_nothing_is_recorded_nothing_is_said(tmp_path, run, caplog, record):
    folder = tmp_path / "made"
    if record == "without weights":
        recorded(folder, None, name="other")
    else:
        folder.mkdir()
    if record == "damaged":
        (folder / "cases.json").write_text("{")
    if record == "unfinished":
        PredictionFolder(folder).begin("1", {"run": "other", "weights": ["f00"]}, NAMES)
    assert makers_of(open_subject(run.path), folder, NAMES).others == ""
    assert [one.levelname for one in caplog.records] == ["WARNING"] * (record == "damaged")


def test_all_trainings_of_folds_and_comparisons_are_own(tmp_path, volumes):
    for path in (folds(tmp_path / "folds", volumes), compared(tmp_path / "compared", volumes)):
        subject = open_subject(path)
        for place, part in enumerate(part for part in subject.parts if part.run.weights_file.is_file()):
            part.run.save_weights({"w": torch.full((2,), float(place))}, {"epoch": 3})
            folder = recorded(tmp_path / "made", [digest_of_weights(part.run)], name=part.run.path.name)
            assert makers_of(subject, folder, NAMES).others == ""
        shutil.rmtree(folder)
        assert makers_of(subject, recorded(folder, ["f00"], name="other"), NAMES).others


def test_weights_that_are_gone_are_not_called_others(tmp_path, run):
    folder = recorded(tmp_path / "made", [digest_of_weights(run)])
    run.weights_file.unlink()
    assert makers_of(open_subject(run.path), folder, NAMES).others == ""
    content = json.loads((folder / "cases.json").read_text())
    content["runs"]["1"]["run"] = "other"
    (folder / "cases.json").write_text(json.dumps(content))
    assert "names other (6)" in makers_of(open_subject(run.path), folder, NAMES).others
