import shutil

import torch

from dlka_med.inference.temperature import digest_of_weights
from dlka_med.report.predicted import own
from dlka_med.report.subject import open_subject
from dlka_med.run_folder import RunFolder

from .test_makers import recorded
from .test_subject import NAMES, folds


def test_folds_that_were_trained_again_do_not_claim_old_predictions(tmp_path, volumes):
    folder = folds(tmp_path / "folds", volumes, trained=(True, True, True))
    shutil.copytree(volumes / "predictions", folder / "predictions")
    (folder / "crossvalidation.json").touch()
    recorded(folder / "predictions", [digest_of_weights(RunFolder(folder / "fold_0"))], name="fold_0")
    found = own(open_subject(folder), tmp_path, None)
    assert (found.told, found.others) == ("Every case was predicted by the fold that did not see it.", "")
    assert found.roles == dict.fromkeys(NAMES, "held out")
    for fold in range(3):
        RunFolder(folder / f"fold_{fold}").save_weights({"w": torch.ones(2)}, {"epoch": 2, "validation_dice": 0.8})
    found = own(open_subject(folder), tmp_path, None)
    assert found.told == "The predictions are those in the folder predictions: 6 held out."
    assert "6 of 6 label maps were not made by the weights that folds has now" in found.others
