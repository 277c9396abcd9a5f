"""From files to numbers, against what the files were made of."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.cases import read_dataset
from dlka_med.data.fingerprint import fingerprint
from dlka_med.errors import InputError
from dlka_med.planning.summary import summarise

from .sets import write_set


def summary_of(root):
    dataset = read_dataset(root)
    return summarise(dataset, fingerprint(dataset.cases, dataset.channels, workers=0))


def test_volumes_are_summed_up(tmp_path):
    found = summary_of(write_set(tmp_path, "thick slices"))
    assert (found.dims, found.cases, found.groups, found.outputs, found.labels) == (3, 4, 4, 2, 1)
    assert found.spacing == (0.5, 0.5, 7.5)
    assert found.size_at(None) == (48, 40, 9)
    assert found.size_at((1.0, 1.0, 7.5)) == found.size_at((1.0, 1.0, None)) == (24, 20, 9)
    [organ] = found.structures
    assert organ.cases == 4
    assert organ.extent == (12.0, 10.0, 5 * 7.5)
    assert organ.pieces == 1
    assert organ.share == pytest.approx(24 * 20 * 5 / (48 * 40 * 9))
    assert organ.thickness == pytest.approx(10.0)  # the shortest run; a cube of the volume has 16.5 mm
    assert found.channels[0].foreground[0] == pytest.approx(100, abs=1)


def test_images_are_summed_up(tmp_path):
    found = summary_of(write_set(tmp_path, "microscopy"))
    assert (found.dims, found.spacing, found.size_at(None)) == (2, (1.0, 1.0), (120, 150))
    assert found.structures[0].pieces == 9
    assert found.structures[0].thickness == pytest.approx(8 * np.pi**0.5, rel=0.03)  # the square of a disk of radius 8


def test_axes_are_those_of_the_body_whatever_the_files_order(tmp_path):
    root = write_set(tmp_path, "thick slices")
    straight = summary_of(root)
    for path in (*root.glob("imagesTr/*"), *root.glob("labelsTr/*")):
        image = nib.load(path)
        turned = image.as_reoriented(nib.orientations.axcodes2ornt("SAR", ("LR", "PA", "IS")))
        nib.save(turned, path)
    turned = summary_of(root)
    assert turned.spacing == straight.spacing
    assert turned.sizes == straight.sizes
    assert turned.structures[0].extent == straight.structures[0].extent


def test_empty_borders_are_cropped(tmp_path):
    root = write_set(tmp_path, "tiny volumes")
    for path in root.glob("imagesTr/*"):
        image = nib.load(path)
        voxels = np.pad(np.asarray(image.dataobj), 2)
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    for path in root.glob("labelsTr/*"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.pad(np.asarray(image.dataobj), 2), image.affine), path)
    found = summary_of(root)
    assert found.size_at(None) == (7, 6, 5)
    assert found.kept == pytest.approx(7 * 6 * 5 / (11 * 10 * 9))
    assert found.uncropped().size_at(None) == (11, 10, 9)


def test_outliers_are_named(tmp_path):
    root = write_set(tmp_path, "four channels")
    path = root / "imagesTr" / "case_2_0001.nii.gz"
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[3, 3, 3] = 1e7
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    assert [channel.outliers for channel in summary_of(root).channels] == [(), ("case_2",), (), ()]


def test_labels_that_no_case_holds_are_known(tmp_path):
    found = summary_of(write_set(tmp_path, "many labels"))
    assert (found.outputs, found.labels, len(found.present)) == (118, 117, 42)


def test_it_is_kept_as_json(tmp_path):
    found = summary_of(write_set(tmp_path / "set", "photographs"))
    found.save(tmp_path / "facts.json")
    stored = json.loads((tmp_path / "facts.json").read_text())
    assert stored["structures"][0]["name"] == "spot"
    assert stored["median"]["size"] == [1000, 1000]


def test_labels_without_a_voxel_are_refused(tmp_path):
    root = write_set(tmp_path, "tiny volumes")
    for path in root.glob("labelsTr/*"):
        label = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros_like(label.dataobj), label.affine), path)
    with pytest.raises(InputError, match="labels of all 4 cases are empty"):
        summary_of(root)


def test_cases_of_tested_patients_do_not_train(tmp_path):
    root = write_set(tmp_path, "tiny volumes")
    (root / "imagesTs").mkdir()
    shutil.copy(root / "imagesTr" / "case_0_0000.nii.gz", root / "imagesTs" / "new_0000.nii.gz")
    groups = ["case,group", "case_0,a", "case_1,a", "case_2,b", "case_3,", "new,a"]
    (root / "groups.csv").write_text("\n".join(groups))
    found = summary_of(root)
    assert (found.cases, found.groups) == (2, 2)
