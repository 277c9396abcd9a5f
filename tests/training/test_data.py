import logging
import shutil

import pytest

from dlka_med.run_folder import RunFolder
from dlka_med.training.data import RunData
from dlka_med.training.resume import resumed_config


def test_a_resumed_run_has_its_split_and_needs_no_groups(balls, config, tmp_path):
    root = shutil.copytree(balls, tmp_path / "data")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"root": str(root)})})
    first = RunData(config, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    (root / "groups.csv").write_text("case,group\nstranger,1\n")
    assert RunData(first.config, tmp_path / "run", resume=True).split == first.split


@pytest.mark.parametrize("paired", [False, True])
def test_left_and_right_are_not_mirrored_where_labels_name_them(config, tmp_path, caplog, paired):
    """The run keeps which axes that leaves; resuming with the same config, which leaves them open, goes on so."""
    labels = {"background": 0, "ball_left": 1, "ball_right": 2} if paired else {"background": 0, "ball": 1}
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"labels": labels})})
    with caplog.at_level(logging.INFO, "dlka_med"):
        data = RunData(config, tmp_path / "run", resume=False)
    assert caplog.text.count("training does not mirror left and right (axis 0)") == paired
    run = RunFolder.create(tmp_path / "run", data.config, data.split)
    assert run.config.training.augmentation.flip_axes == ((1, 2) if paired else (0, 1, 2))
    assert resumed_config(config, run) == run.config
