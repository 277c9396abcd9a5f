"""What a folder of label maps remembers, also when several processes write at once."""

import json
import multiprocessing
from pathlib import Path

import pytest

from dlka_med.errors import InputError
from dlka_med.prediction_folder import Made, PredictionFolder


def test_who_made_what_is_remembered_and_runs_without_cases_are_forgotten(tmp_path):
    folder = PredictionFolder(tmp_path)
    assert (folder.runs, folder.made) == ({}, {})
    folder.begin("old", {"overlap": 0.5}, ["a", "b"])
    folder.finish("a", Made("old", "train"))
    assert folder.made == {"a": Made("old", "train"), "b": Made("old")}
    folder.begin("new", {"overlap": 0.25}, ["a"])
    assert folder.made["a"] == Made("new"), "what is there may be of either until it is finished"
    assert set(folder.runs) == {"old", "new"}
    folder.begin("new", {"overlap": 0.25}, ["b"])
    assert folder.runs == {"new": {"overlap": 0.25}}
    content = {"runs": {"new": {"overlap": 0.25}}, "cases": {name: {"run": "new", "part": None} for name in "ab"}}
    assert json.loads((tmp_path / "cases.json").read_text()) == content


def test_failures_stand_in_a_file_of_their_own_until_they_are_mended(tmp_path):
    folder = PredictionFolder(tmp_path)
    folder.fail("b", "damaged")
    folder.fail("a", "too large")
    assert json.loads(folder.failed_file.read_text()) == {"a": "too large", "b": "damaged"}
    folder.finish("a", Made("run", "new"))
    assert json.loads(folder.failed_file.read_text()) == {"b": "damaged"}
    folder.finish("b", Made("run", "new"))
    assert not folder.failed_file.exists()


DAMAGED = ("", "[]", '{"runs": {}}', '{"runs": {}, "cases": {"a": {}}}', '{"runs": {}, "cases": {"a": 1}}')


@pytest.mark.parametrize("text", [*DAMAGED, '{"runs": {}, "cases": {"a": {"run": "x", "part": "trained"}}}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "cases.json").write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*cases\.json, which says which run made which label map"):
        PredictionFolder(tmp_path).begin("run", {}, ["b"])
    assert (tmp_path / "cases.json").read_text() == text


def finish_some(path: Path, first: int) -> None:
    folder = PredictionFolder(path)
    folder.begin(f"run{first}", {}, [f"{number}" for number in range(first, 40, 2)])
    for number in range(first, 40, 2):
        if number % 10 < 2:
            folder.fail(f"{number}", "damaged")
        else:
            folder.finish(f"{number}", Made(f"run{first}", "new"))


def test_two_processes_lose_nothing_of_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=finish_some, args=(tmp_path, first)) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    folder = PredictionFolder(tmp_path)
    assert [process.exitcode for process in processes] == [0, 0]
    expected = {f"{number}": Made(f"run{number % 2}", "new" if number % 10 > 1 else None) for number in range(40)}
    assert folder.made == expected
    failed = {f"{number}" for number in range(40) if number % 10 < 2}
    assert json.loads(folder.failed_file.read_text()).keys() == failed
