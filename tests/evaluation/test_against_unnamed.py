"""Several predictions of references whose labels nobody names."""

import json

import numpy as np
import pytest
from PIL import Image

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.tables import format_summary

CASES = [f"case{number:02}" for number in range(12)]


def write(folder, *values, shift=0, cases=CASES):
    """A square for each value, side by side."""
    folder.mkdir()
    for case in cases:
        array = np.zeros((20, 40), np.uint8)
        for place, value in enumerate(values):
            array[4 + shift : 12 + shift, 10 * place : 10 * place + 8] = value
        Image.fromarray(array).save(folder / f"{case}.png")
    return folder


@pytest.fixture
def labels(tmp_path):
    return write(tmp_path / "labels", 1, 2)


@pytest.fixture
def ours(tmp_path):
    return write(tmp_path / "ours", 1, 2, shift=1)


def test_what_the_others_alone_find_is_theirs_to_answer_for(labels, ours, tmp_path):
    other = write(tmp_path / "other", 1, 2, 3, shift=1)
    result = evaluate(ours, labels, against=[other])
    assert list(result.labels) == ["label_1", "label_2", "label_3"]
    assert result.mean["dice"].mean == evaluate(ours, labels).mean["dice"].mean
    differences = result.comparisons[0].differences["dice"]
    assert differences["label_1"].mean == 0
    assert differences["label_3"].mean == 1
    assert "ours is better than other" in result.comparisons[0].claims[0]


def test_values_of_which_none_is_on_both_sides_are_refused(labels, tmp_path):
    white = write(tmp_path / "white", 255)
    with pytest.raises(InputError, match=r"white hold the values 255, their references 1, 2: none is on both sides"):
        evaluate(white, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for folder, facts in ((white, {"organ": 255}), (labels, {"organ": 1, "cyst": 2})):
        file = folder / ("labels.json" if folder == white else "dataset.json")
        file.write_text(json.dumps({"labels": {"background": 0, **facts}}))
    assert evaluate(white, labels).mean["dice"].mean == 1


def test_label_maps_without_any_label_are_misses(labels, tmp_path):
    assert evaluate(write(tmp_path / "black", 0), labels).labels["label_1"].missed == len(CASES)


def test_names_that_the_others_alone_have_tell_nothing(labels, ours, tmp_path):
    other = write(tmp_path / "other", 1, 2)
    (other / "labels.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "cyst": 2}}))
    with pytest.raises(InputError, match=r"other names its labels \(organ, cyst\), those it is compared with"):
        evaluate(ours, labels, against=[other])


def test_others_without_a_common_case_are_not_ranked(labels, ours, tmp_path):
    others = [write(tmp_path / case, 1, 2, cases=[case]) for case in CASES[:2]]
    result = evaluate(ours, labels, against=others)
    assert result.ranks == {}
    assert [comparison.cases for comparison in result.comparisons] == [1, 1]
    assert "rank by mean" not in format_summary(result)
