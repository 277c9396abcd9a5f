"""What a run reads."""

import logging
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from dlka_med.config.labels import LabelScheme
from dlka_med.data.load import load_case, load_label
from dlka_med.data.loaders import PatchDataset
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.data import RunData, check_labels
from dlka_med.training.resume import resumed_config

from .runs import changed


@pytest.fixture
def elsewhere(balls, config, tmp_path):
    """The config on a copy of the dataset that may be changed."""
    root = shutil.copytree(balls, tmp_path / "data")
    return changed(config, "dataset", root=str(root))


def test_a_resumed_run_has_its_split_and_needs_no_groups(elsewhere, tmp_path):
    first = RunData(elsewhere, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    (tmp_path / "data" / "groups.csv").write_text("case,group\nstranger,1\n")
    assert RunData(first.config, tmp_path / "run", resume=True).split == first.split


def test_images_are_kept_once_for_all_folds_and_not_in_the_run(elsewhere, tmp_path, user_cache):
    for fold in range(3):
        config = changed(elsewhere, "dataset", fold=fold)
        data = RunData(config, tmp_path / f"run_{fold}", resume=False)
        data.prepare_data()
        assert sorted(path.name for path in data.run.path.iterdir()) == [
            *("config.yaml", "machine.json", "split.json", "trained_on.json")
        ]
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


def test_who_is_held_out_includes_the_group_of_a_test_case(config, tmp_path):
    config = changed(config, "dataset", folds=2, test_cases=("ball_0",))
    data = RunData(config, tmp_path / "run", resume=False)
    assert {case.id for case in data.held_out} == {"ball_0", "ball_1", *data.split["validation"]}
    assert {*(case.id for case in data.held_out), *data.split["train"]} == {f"ball_{n}" for n in range(6)}


def test_files_that_a_run_names_are_absolute(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = changed(config, start_from="runs/first")
    data = RunData(config, tmp_path / "run", resume=False)
    assert data.config.training.start_from == str(tmp_path / "runs" / "first")


class Cache:
    """Classes by case, as the cache of prepared cases tells them."""

    def __init__(self, **classes):
        self.classes = classes

    def open(self, case):
        return SimpleNamespace(classes=self.classes[case])


LABELS = {"tumour": 7, "background": 0, "vessel": 3, "cyst": 9}


def test_labels_that_no_case_holds_are_named(caplog):
    cache = Cache(a=[2], b=[1], c=[3])
    check_labels(cache, ["a", "b", "c"], LabelScheme.of(LABELS))
    assert caplog.text == ""
    check_labels(cache, ["a"], LabelScheme.of(LABELS))
    assert caplog.records[-1].levelno == logging.WARNING
    assert "no training case holds the label vessel, cyst" in caplog.text


def test_empty_labels_everywhere_are_refused():
    with pytest.raises(
        InputError, match="labels of all 2 training cases are empty: no voxel is vessel or tumour or cyst"
    ):
        check_labels(Cache(a=[], b=[]), ["a", "b"], LabelScheme.of(LABELS))


def test_a_training_without_labelled_voxels_does_not_begin(balls, config, tmp_path):
    root = shutil.copytree(balls, tmp_path / "data")
    for path in (root / "labelsTr").iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(0 * np.asarray(label.dataobj), label.affine), path)
    data = RunData(changed(config, "dataset", root=str(root)), tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="empty: no voxel is ball"):
        data.prepare_data()


@pytest.mark.parametrize("paired", [False, True])
def test_left_and_right_are_not_mirrored_where_labels_name_them(config, tmp_path, caplog, paired):
    """The run keeps which axes that leaves; resuming with the same config, which leaves them open, goes on so."""
    labels = {"background": 0, "ball_left": 1, "ball_right": 2} if paired else {"background": 0, "ball": 1}
    config = changed(config, "dataset", labels=labels)
    with caplog.at_level(logging.INFO, "dlka_med"):
        data = RunData(config, tmp_path / "run", resume=False)
    assert caplog.text.count("training does not mirror left and right (axis 0)") == paired
    run = RunFolder.create(tmp_path / "run", data.config, data.split)
    assert run.config.training.augmentation.flip_axes == ((1, 2) if paired else (0, 1, 2))
    assert resumed_config(config, run) == run.config


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
