import logging
import shutil

import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.load import load_case, load_label
from dlka_med.data.loaders import PatchDataset
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.data import RunData


@pytest.fixture
def elsewhere(balls, config, tmp_path):
    """The config on a copy of the dataset that may be changed."""
    root = shutil.copytree(balls, tmp_path / "data")
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"root": str(root)})})


def test_a_resumed_run_has_its_split_and_needs_no_groups(elsewhere, tmp_path):
    first = RunData(elsewhere, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    (tmp_path / "data" / "groups.csv").write_text("case,group\nstranger,1\n")
    assert RunData(first.config, tmp_path / "run", resume=True).split == first.split


def test_images_are_kept_once_for_all_folds_and_not_in_the_run(elsewhere, tmp_path, user_cache):
    for fold in range(3):
        config = elsewhere.model_copy(update={"dataset": elsewhere.dataset.model_copy(update={"fold": fold})})
        data = RunData(config, tmp_path / f"run_{fold}", resume=False)
        data.prepare_data()
        assert sorted(path.name for path in data.run.path.iterdir()) == ["config.yaml", "split.json"]
    assert len(list(user_cache.glob("prepared-*/*"))) == 6
    assert user_cache.stat().st_mode & 0o077 == 0


def test_a_run_goes_on_without_the_files_it_was_started_with(elsewhere, tmp_path):
    data = RunData(elsewhere, tmp_path / "run", resume=False)
    data.prepare_data()
    data.setup("fit")
    name = data.split["validation"][0]
    case = data.cases[name]
    image = load_case(case, ["MRI"]).image
    label = load_label(case.label, {"background": 0, "ball": 1})
    shutil.rmtree(tmp_path / "data")
    np.testing.assert_allclose(data.prepared(name).image, (image - image.mean()) / image.std(), atol=1e-4)
    np.testing.assert_array_equal(data.reference(name), label)
    patches = PatchDataset(data.cache, data.part("train"), (12, 16, 12), 8, 0.5, None, seed=0)
    assert all(abs(patches[0, index]["image"].mean()) < 2 for index in range(8))


def test_a_case_ruled_by_one_voxel_is_named(elsewhere, tmp_path, caplog):
    path = tmp_path / "data" / "imagesTr" / "ball_4.nii.gz"
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[3, 4, 5] = 1e30
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    with caplog.at_level(logging.WARNING, "dlka_med"):
        RunData(elsewhere, tmp_path / "run", resume=False).prepare_data()
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "case ball_4" in warning
    assert "(3, 4, 5)" in warning


def test_a_run_that_moves_to_other_data_reads_its_channels_or_refuses(elsewhere, tmp_path):
    first = RunData(elsewhere, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    root = shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = first.config.model_copy(update={"dataset": first.config.dataset.model_copy(update={"root": str(root)})})
    assert RunData(moved, tmp_path / "run", resume=True).config.dataset.root == str(root)
    for place in (root, tmp_path / "data"):
        description = place / "dataset.json"
        description.write_text(description.read_text().replace("MRI", "CT"))
    with pytest.raises(InputError, match=r"declares the channels \['CT'\], but \['MRI'\] are needed"):
        RunData(moved, tmp_path / "run", resume=True)
    same = RunData(first.config, tmp_path / "run", resume=True)
    assert same.config.dataset.channels == ("MRI",), "the config of a run may name its channels as it likes"
