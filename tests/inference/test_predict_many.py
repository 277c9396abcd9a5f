"""Many cases: shared out, gone on with, never of two runs."""

import numpy as np
import pytest

from dlka_med.errors import InputError, WriteError
from dlka_med.inference import predict as predict_module
from dlka_med.inference.predict import predict_images
from dlka_med.prediction_folder import PredictionFolder
from dlka_med.run_folder import RunFolder

from .test_predict import Threshold, expected_map, make_run, read, write_folder


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())
    return make_run(tmp_path / "run")


def test_shards_share_the_cases_and_remember_all_of_them(run, tmp_path):
    arrays = write_folder(tmp_path / "images", 5)
    found = [predict_images(run.path, tmp_path / "images", tmp_path / "out", shard=(i, 3)) for i in range(3)]
    assert [[path.name[4] for path in each] for each in found] == [["0", "3"], ["1", "4"], ["2"]]
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(read(tmp_path / "out" / f"scan{number}.nii.gz"), expected_map(array))
    made = PredictionFolder(tmp_path / "out").made
    parts = {"scan0": "train", "scan1": "train", "scan2": "validation", "scan3": "new", "scan4": "new"}
    assert {case: one.part for case, one in made.items()} == parts
    assert predict_images(run.path, tmp_path / "images", tmp_path / "out", shard=(7, 8)) == []
    assert predict_images(run.path, tmp_path / "images", tmp_path / "out", shard=(0, 2), skip_existing=True) == []


def test_skipping_does_not_mix_two_runs_or_two_settings(run, tmp_path):
    write_folder(tmp_path / "images", 2)
    predict_images(run.path, tmp_path / "images", tmp_path / "out", only=["scan0"])
    other = "case scan0 by another run or other settings"
    with pytest.raises(InputError, match=rf"{other} \(run: overlap 0\.5 there, 0\.25 now\)"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True, overlap=0.25)
    run.weights_file.write_bytes(b"trained further")
    with pytest.raises(InputError, match=rf"{other} \(run: other weights\)"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True)
    assert not (tmp_path / "out" / "scan1.nii.gz").exists()


@pytest.mark.parametrize("first", [{}, {"uncertainty": True}, {"probabilities": "uint8"}])
def test_skipping_does_not_leave_out_what_else_is_asked_for(run, tmp_path, first):
    write_folder(tmp_path / "images", 1)
    predict_images(run.path, tmp_path / "images", tmp_path / "out", **first)
    asked = {"uncertainty": True, "probabilities": "float16"}
    with pytest.raises(InputError, match=r"another run or other settings \(run: probabilities .* there, float16 now"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True, **asked)
    assert predict_images(run.path, tmp_path / "images", tmp_path / "out", skip_existing=True, **first) == []


@pytest.mark.parametrize("allowed", [{}, {"skip_existing": True}, {"overwrite": True}])
def test_a_case_has_no_second_label_map_in_another_format(run, tmp_path, allowed):
    write_folder(tmp_path / "images", 2)
    predict_images(run.path, tmp_path / "images", tmp_path / "out", form="nrrd", only=["scan1"])
    with pytest.raises(InputError, match=r"scan1\.nrrd .* --format nrrd"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", **allowed)
    assert not (tmp_path / "out" / "scan0.nii.gz").exists()
    assert len(predict_images(run.path, tmp_path / "images", tmp_path / "out", form="nrrd", skip_existing=True)) == 1


def test_label_maps_in_another_format_do_not_lie_among_images_either(run, tmp_path):
    """Nor where these are links to images elsewhere."""
    write_folder(tmp_path / "images", 1)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "scan0.nii.gz").symlink_to(tmp_path / "images" / "scan0.nii.gz")
    for folder in (tmp_path / "images", tmp_path / "linked"):
        with pytest.raises(InputError, match="holds images or a dataset"):
            predict_images(run.path, folder, folder, form="nrrd")
    assert len(predict_images(run.path, tmp_path / "linked", tmp_path / "out", form="nrrd")) == 1


def test_a_label_map_that_was_about_to_be_made_is_made_again(run, tmp_path, monkeypatch):
    """Whoever made the one that is there: nobody knows whether it was replaced."""
    (array,) = write_folder(tmp_path / "images", 1)
    images, out, write = tmp_path / "images", tmp_path / "out", predict_module.write_label_map

    def full(*_):
        raise WriteError("no space left")

    predict_images(run.path, images, out)
    monkeypatch.setattr(predict_module, "write_label_map", full)
    with pytest.raises(WriteError):
        predict_images(run.path, images, out, overwrite=True, overlap=0.25)
    monkeypatch.setattr(predict_module, "write_label_map", write)
    assert len(predict_images(run.path, images, out, skip_existing=True)) == 1
    np.testing.assert_array_equal(read(out / "scan0.nii.gz"), expected_map(array))
    assert predict_images(run.path, images, out, skip_existing=True) == []
