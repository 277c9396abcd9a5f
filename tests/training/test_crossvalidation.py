"""Out-of-fold results: what predicting and evaluating each fold by hand gives."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.folds import read_folds
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.folds_folder import FoldsFolder
from dlka_med.inference.predict import predict_images
from dlka_med.training.crossvalidation import cross_validate, format_crossvalidation
from dlka_med.training.folds import train_folds
from dlka_med.training.train import train

from .runs import assert_same_weights, changed


@pytest.fixture
def complete(crossvalidated, tmp_path):
    """Config, a copy of a finished folder of folds, and its folds."""
    folder = FoldsFolder(shutil.copytree(crossvalidated[1].path, tmp_path / "run"))
    return crossvalidated[0], folder, read_folds(folder.folds_file)


def plain(evaluation):
    """What `summary.json` would hold."""
    return json.loads(json.dumps(evaluation.summary()))


def test_the_result_is_that_of_folds_trained_predicted_and_evaluated_by_hand(crossvalidated, tmp_path):
    config, folder, content = crossvalidated
    runs = [folder.run(0), folder.run(1), train(changed(config, "dataset", fold=2), tmp_path / "run")]
    assert_same_weights(runs[2], folder.run(2))
    for fold, run in enumerate(runs):
        predict_images(run.path, config.dataset.root, tmp_path / f"{fold}", split="validation")
        alone = plain(evaluate(tmp_path / f"{fold}", config.dataset.root))
        assert content["folds"][fold] == {"fold": fold} | {
            key: alone[key] for key in ("mean", "labels", "cases", "patients")
        }
        predict_images(run.path, config.dataset.root, tmp_path / "all", split="validation")
    together = evaluate(tmp_path / "all", config.dataset.root)
    assert content["all"] == plain(together)
    assert together.mean["dice"].mean > 0.1
    assert [row["dice"] for row in content["scores"]] == [score.values["dice"] for score in together.scores]
    for file in (tmp_path / "all").glob("*.nii.gz"):
        assert file.read_bytes() == (folder.predictions / file.name).read_bytes()


def test_the_result_is_kept(crossvalidated):
    _, folder, content = crossvalidated
    assert json.loads(folder.crossvalidation_file.read_text()) == content
    assert {path.name for path in folder.path.iterdir() if not path.name.startswith(".")} == {
        *("folds.json", "fold_0", "fold_1", "fold_2", "predictions", "crossvalidation.json"),
    }


def test_the_table_has_folds_and_all(crossvalidated):
    _, _, content = crossvalidated
    lines = format_crossvalidation(content).splitlines()
    assert re.split(" {2,}", lines[0]) == ["Dice", "fold 0", "fold 1", "fold 2", "all"]
    dice = [entry["labels"]["ball"]["dice"]["mean"] for entry in (*content["folds"], content["all"])]
    assert lines[1].split() == ["ball", *(f"{value:.4f}" for value in dice)]
    assert [line.split("  ")[0] for line in lines[2:]] == ["mean Dice", "mean HD95 mm", "mean NSD 1 mm", "cases"]
    assert lines[-1].split() == ["cases", "2", "2", "2", "6"]
    content = json.loads(json.dumps(content))
    content["all"]["mean"]["hd95_mm"]["mean"] = None
    assert format_crossvalidation(content).splitlines()[3].split()[-1] == "-"


def test_label_maps_of_other_weights_are_made_again(complete):
    config, folder, folds = complete
    times = {file.name: file.stat().st_mtime_ns for file in folder.predictions.glob("*.nii.gz")}
    other = folder.run(1)
    other.save_weights(folder.run(0).load_weights())
    cross_validate(folder, config, folds)
    again = {file.name for file in folder.predictions.glob("*.nii.gz") if file.stat().st_mtime_ns != times[file.name]}
    assert again == {f"{case}.nii.gz" for case in folds[1]}


def test_label_maps_of_other_images_are_made_again_and_the_folds_told_to_be_outdated(complete, balls, tmp_path, caplog):
    config, folder, folds = complete
    root = shutil.copytree(balls, tmp_path / "mended")
    config = changed(config, "dataset", root=str(root))
    cross_validate(folder, config, folds)
    assert "other" not in caplog.text
    times = {file.name: file.stat().st_mtime_ns for file in folder.predictions.glob("*.nii.gz")}
    case = folds[1][0]
    image = nib.load(root / "imagesTr" / f"{case}.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), root / "imagesTr" / f"{case}.nii.gz")
    cross_validate(folder, config, folds)
    again = {file.name for file in folder.predictions.glob("*.nii.gz") if file.stat().st_mtime_ns != times[file.name]}
    assert again == {f"{case}.nii.gz"}
    assert f"the images of 1 cases are others than those that the folds were trained on, such as {case}" in caplog.text


def test_label_maps_of_nobody_are_refused(complete):
    config, folder, folds = complete
    stranger = folder.predictions / "stranger.nii.gz"
    shutil.copy(folder.predictions / f"{folds[0][0]}.nii.gz", stranger)
    with pytest.raises(InputError, match=r"stranger\.nii\.gz belongs to no case of .*folds\.json: move it away"):
        cross_validate(folder, config, folds)


@pytest.mark.parametrize("any_config", ["images"], indirect=True)
def test_2d_images_are_predicted_as_png_and_evaluated_in_pixels(any_config, tmp_path):
    config = changed(any_config, epochs=1, steps_per_epoch=1)
    content = train_folds(config, tmp_path / "run")
    assert (content["all"]["unit"], content["all"]["cases"]) == ("px", 6)
    assert {path.name for path in (tmp_path / "run" / "predictions").glob("*.png")} == {
        f"disk_{number}.png" for number in range(6)
    }
    assert "mean HD95 px" in format_crossvalidation(content)


def test_only_the_config_has_to_name_the_channels(complete, tmp_path):
    config, folder, folds = complete
    root = shutil.copytree(config.dataset.root, tmp_path / "data")
    facts = json.loads((root / "dataset.json").read_text())
    names = facts.pop("channel_names", None) or facts.pop("modality")
    (root / "dataset.json").write_text(json.dumps(facts))
    config = changed(config, "dataset", root=str(root), channels=tuple(names.values()))
    assert cross_validate(folder, config, folds)["all"]["cases"] == 6
