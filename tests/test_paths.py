"""Paths that do not exist: the nearest one that does."""

import os

import pytest

from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, did_you_mean, existing, shown


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("runs/brian", "runs/brain"),
        ("rusn/brain", "runs/brain"),
        ("rusn/brian/config.yml", "runs/brain/config.yaml"),
        ("runs/liver", None),
        ("runs/brain/config.yaml/x", None),
        ("runs/" + "a" * 5000, None),
    ],
)
def test_the_nearest_path_is_named(tmp_path, monkeypatch, typed, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "brain").mkdir(parents=True)
    (tmp_path / "runs" / "brain" / "config.yaml").touch()
    with pytest.raises(InputError) as told:
        existing(typed, "a run")
    hint = "" if meant is None else f"; did you mean {meant}?"
    assert str(told.value) == f"{shown(typed)} does not exist: give a run{hint}"
    assert str(existing("runs/brain", "a run")) == "runs/brain"


def test_only_what_fits_is_named(tmp_path):
    for name in ("brain.yaml", "brain_1"):
        (tmp_path / name).mkdir()
    (tmp_path / "brain_1" / "config.yaml").touch()
    told = did_you_mean(tmp_path / "brain.yam", lambda path: (path / "config.yaml").exists())
    assert told == f"; did you mean {tmp_path / 'brain_1'}?"


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    new = tmp_path / "a" / "b"
    assert could_hold_files(new) == new
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_hold_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        could_hold_files(tmp_path / "file" / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match=f"the rights of {tmp_path}"):
        could_hold_files(tmp_path / "new")


@pytest.mark.parametrize("folder", ["a" * 5000, "a" * 256 + "/b", "a\0b", "M\udcfcller/run"], ids=ascii)
def test_a_folder_that_cannot_be_is_told_in_few_words(folder):
    with pytest.raises(InputError, match="cannot write to the folder") as told:
        could_hold_files(folder)
    assert len(str(told.value)) < 600


def test_long_values_are_shown_by_their_ends():
    assert shown("a" * 500) == "a" * 500
    assert shown("a" * 450 + "b" * 51) == "a" * 100 + "..." + "b" * 50 + " (501 characters)"
