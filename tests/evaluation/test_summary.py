"""Intervals over patients, other predictions, conventions, lesions: from label maps to summary.json."""

import csv
import json
import sys

import nibabel as nib
import numpy as np
import pytest

from dlka_med import cli
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.measures import Protocol
from dlka_med.evaluation.tables import format_summary
from dlka_med.statistics import difference, interval

NAMES = {"background": 0, "organ": 1, "tumour": 2}
CASES = [f"case{number:02}" for number in range(24)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])), path)


def write(folder, rng, wrong):
    """Predictions that lack a share of the organ, which differs from case to case."""
    for case in CASES:
        array = reference(case)
        organ = array == 1
        array[organ & (rng.random(array.shape) < rng.uniform(0, 2 * wrong))] = 0
        save(folder / f"{case}.nii.gz", array)
    (folder / "labels.json").write_text(json.dumps({"labels": NAMES}))
    return folder


def reference(case):
    array = np.zeros((12, 10, 6))
    array[2:9, 2:8, 1:5] = 1
    array[3:5, 3:5, 2] = 2
    array[6:8, 4:6, 3] = 2 * (case != CASES[0])
    return array


@pytest.fixture
def labels(tmp_path):
    for case in CASES:
        save(tmp_path / "data" / "labelsTr" / f"{case}.nii.gz", reference(case))
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": NAMES}))
    return tmp_path / "data" / "labelsTr"


@pytest.fixture
def good(tmp_path, labels):
    return write(tmp_path / "good", np.random.default_rng(0), 0.1)


def patients(labels, size):
    """A table that makes `size` cases in a row one patient."""
    rows = [f"{case},p{number // size}" for number, case in enumerate(CASES)]
    (labels.parent / "groups.csv").write_text("\n".join(["case,group", *rows, "another,px"]))


def values(result, name="dice"):
    return np.array([score.values[name] for score in result.scores], float).reshape(len(CASES), 2)


def test_intervals_are_over_patients(labels, good):
    alone = evaluate(good, labels)
    assert (alone.cases, alone.patients) == (24, 24)
    assert alone.labels["organ"]["dice"].interval == interval(values(alone)[:, 0], CASES, (0, 1))
    assert alone.mean["dice"].interval == interval(values(alone), CASES, (0, 1))
    patients(labels, 2)
    grouped = evaluate(good, labels)
    assert (grouped.patients, grouped.labels["organ"].patients) == (12, 12)
    pairs = [f"p{number // 2}" for number in range(24)]
    assert grouped.mean["dice"].interval == interval(values(grouped), pairs, (0, 1))
    assert grouped.mean["dice"].interval != alone.mean["dice"].interval
    assert "24 cases of 12 patients" in format_summary(grouped)
    patients(labels, 3)
    few = evaluate(good, labels)
    assert few.mean["dice"].interval is None
    assert "no interval below 10 patients" in format_summary(few)


def test_a_table_of_patients_can_be_named_and_has_to_know_the_cases(labels, good, tmp_path):
    (tmp_path / "other.csv").write_text("\n".join(f"{case},{case[-1]}" for case in CASES))
    assert evaluate(good, labels, groups=tmp_path / "other.csv").patients == 10
    (tmp_path / "other.csv").write_text("case00,a")
    with pytest.raises(InputError, match=r"other.csv does not name 23 of the cases, the first being 'case01'"):
        evaluate(good, labels, groups=tmp_path / "other.csv")


def test_test_cases_that_the_dataset_groups_lack_are_patients_of_their_own(labels, good, caplog):
    """As training, which asks groups.csv for the cases that train alone."""
    (labels.parent / "groups.csv").write_text("case,group\nother,a\n" + "\n".join(f"{case},b" for case in CASES[:4]))
    with caplog.at_level("INFO", "dlka_med"):
        assert evaluate(good, labels).patients == 21
    assert "groups.csv names no group of case04, case05, case06, ...: each counts as a patient" in caplog.text


def test_better_predictions_are_called_better(labels, good, tmp_path):
    bad = write(tmp_path / "bad", np.random.default_rng(1), 0.3)
    (bad / f"{CASES[-1]}.nii.gz").unlink()
    result = evaluate(good, labels, tmp_path / "out", against=[bad])
    (comparison,) = result.comparisons
    assert (comparison.other, comparison.cases, comparison.only_ours) == ("bad", 23, (CASES[-1],))
    theirs = np.array([score.values["dice"] for score in evaluate(bad, labels).scores]).reshape(23, 2)
    expected = difference(values(result)[:23], theirs, CASES[:23])
    assert comparison.differences["dice"]["mean"] == expected
    assert comparison.differences["dice"]["organ"].mean == pytest.approx(2 * expected.mean)
    assert comparison.differences["dice"]["tumour"].mean == 0
    assert "good is better than bad" in comparison.claims[0]
    assert "Dice: " in comparison.claims[0]
    assert "1 cases that one of them alone predicted are not compared" in format_summary(result)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())["comparisons"][0]
    assert written["differences"]["dice"]["mean"]["mean"] == pytest.approx(expected.mean)
    assert written["differences"].keys() == {"dice", "hd95_mm", "nsd"}
    assert written["claims"] == list(comparison.claims)


def test_equally_good_predictions_are_not(labels, good, tmp_path):
    twin = write(tmp_path / "twin", np.random.default_rng(2), 0.1)
    result = evaluate(good, labels, against=[twin])
    assert all("neither may be called better" in claim for claim in result.comparisons[0].claims)


def test_several_others_are_ranked_and_their_p_corrected(labels, good, tmp_path):
    others = [write(tmp_path / str(wrong), np.random.default_rng(3), wrong) for wrong in (0.3, 0.2)]
    result = evaluate(good, labels, against=others)
    ranks = result.ranks["dice"]
    assert [ranks[folder.name][0] for folder in (good, *others)] == [1, 3, 2]
    assert ranks["good"][1] == (1, 1)
    assert "rank by mean" in format_summary(result)
    (alone,) = evaluate(good, labels, against=others[1:]).comparisons
    p_of = [claim.split("p ")[-1].split(")")[0] for claim in (alone.claims[0], result.comparisons[1].claims[0])]
    assert float(p_of[1]) > float(p_of[0])
    assert result.comparisons[1].differences == alone.differences


def test_ranks_of_few_patients_do_not_say_how_sure_they_are(labels, good, tmp_path):
    others = [write(tmp_path / str(wrong), np.random.default_rng(3), wrong) for wrong in (0.3, 0.2)]
    patients(labels, 3)
    result = evaluate(good, labels, tmp_path / "out", against=others)
    assert result.ranks["dice"]["good"] == (1, None)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["ranks"]["dice"]["good"]
    assert told == {"rank": 1, "interval": None}
    (line,) = [line for line in format_summary(result).splitlines() if line.startswith("good  ")]
    assert line.split()[1] == "1"
    assert " to " not in line


def test_folders_of_one_name_are_told_apart(labels, good, tmp_path):
    other = write(tmp_path / "more" / "good", np.random.default_rng(5), 0.1)
    assert evaluate(good, labels, against=[other]).comparisons[0].other == "more/good"


def test_references_in_place_of_predictions_are_told(labels, good, caplog):
    evaluate(good, labels)
    assert "themselves" not in caplog.text
    evaluate(good, labels, against=[labels])
    assert f"{labels} are the references themselves: nothing was predicted there" in caplog.text


def test_others_that_cannot_be_compared_are_named(labels, good, tmp_path, capsys):
    with pytest.raises(InputError, match="have to differ"):
        evaluate(good, labels, against=[good])
    other = write(tmp_path / "other", np.random.default_rng(4), 0.1)
    (other / "labels.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "cyst": 2}}))
    with pytest.raises(InputError, match=r"other has no label 'tumour' to compare: mend its labels.json"):
        evaluate(good, labels, against=[other])
    assert cli.main(["evaluate", str(good), str(labels), "-o", "out", "--against", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["synapse-2d", "brats", "decathlon", "nnunet"])
def test_conventions_stand_beside_our_figures(labels, good, tmp_path, name):
    """Where nothing is empty all agree on Dice; the tumour that no one has is left out, 0 or 1."""
    for folder in (labels, good):
        array = reference(CASES[0])
        array[array == 2] = 1
        save(folder / f"{CASES[0]}.nii.gz", array)
    result = evaluate(good, labels, tmp_path / "out", protocol=Protocol(convention=name))
    organ = result.convention.labels["organ"]["dice"]
    assert organ == pytest.approx(result.labels["organ"]["dice"].mean)
    empty = {"synapse-2d": [0.0], "brats": [1.0]}.get(name, [])
    known = [score.values["dice"] for score in result.scores if score.label == "tumour" and score.case != CASES[0]]
    assert result.convention.labels["tumour"]["dice"] == pytest.approx(np.mean(known + empty))
    assert len(known) == 23
    assert f"\n{name}" in format_summary(result)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())["convention"]
    assert written["labels"]["organ"]["dice"] == pytest.approx(organ)
    assert written["rule"]


def test_lesions_and_tolerances_of_single_labels(labels, good, tmp_path):
    """The second of two lesions is predicted one row off in one case: no overlap, so missed and a false one."""
    array = reference(CASES[1])
    array[6:8, 4:6, 3] = 1
    array[8, 4:6, 3] = 2
    save(good / f"{CASES[1]}.nii.gz", array)
    protocol = Protocol(tolerances={"organ": 0.0}, lesions=["tumour"])
    result = evaluate(good, labels, tmp_path / "out", protocol=protocol)
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        rows = {(row["case"], row["label"]): row for row in csv.DictReader(file)}
    row = rows[CASES[1], "tumour"]
    assert [row[f"lesions_{side}"] for side in ("reference", "prediction", "matched")] == ["2.0", "2.0", "1.0"]
    assert (row["lesion_recall"], row["lesion_precision"], row["lesion_f1"]) == ("0.5", "0.5", "0.5")
    assert rows[CASES[1], "organ"]["lesion_f1"] == ""
    assert result.labels["organ"]["lesion_f1"].mean is None
    assert result.mean["lesion_f1"].mean == result.labels["tumour"]["lesion_f1"].mean
    loose = evaluate(good, labels)
    assert result.labels["organ"]["nsd"].mean < loose.labels["organ"]["nsd"].mean
    assert result.labels["tumour"]["nsd"] == loose.labels["tumour"]["nsd"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["tolerances_mm"] == {"organ": 0}
    with pytest.raises(InputError, match="did you mean 'tumour'"):
        evaluate(good, labels, protocol=Protocol(lesions=["tumor"]))


def test_tubes_have_cldice_or_one_error_that_says_what_to_install(labels, good, monkeypatch):
    result = evaluate(good, labels, protocol=Protocol(tubes=("organ",)))
    assert 0 < result.labels["organ"]["cldice"].mean <= 1
    assert result.labels["tumour"]["cldice"].mean is None
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.delitem(sys.modules, "skimage.morphology", raising=False)
    with pytest.raises(
        InputError, match=r'^clDice takes its skeletons from scikit-image: pip install "dlka_med.metrics."$'
    ):
        evaluate(good, labels, protocol=Protocol(tubes=("organ",)))


def test_volumes_are_signed_and_in_ml(labels, good):
    result = evaluate(good, labels)
    score = next(score for score in result.scores if score.label == "organ")
    lacking = score.prediction_voxels - score.reference_voxels
    assert lacking < 0
    assert score.values["volume_error_ml"] == pytest.approx(lacking * 0.002)
    assert score.values["volume_error_percent"] == pytest.approx(100 * lacking / score.reference_voxels)
