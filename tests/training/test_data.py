import shutil

from dlka_med.run_folder import RunFolder
from dlka_med.training.data import RunData


def test_a_resumed_run_has_its_split_and_needs_no_groups(balls, config, tmp_path):
    root = shutil.copytree(balls, tmp_path / "data")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"root": str(root)})})
    first = RunData(config, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    (root / "groups.csv").write_text("case,group\nstranger,1\n")
    assert RunData(first.config, tmp_path / "run", resume=True).split == first.split
