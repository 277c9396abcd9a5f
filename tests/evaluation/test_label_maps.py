import codecs
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.data.grid import check_same_grid
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import (
    find_label_maps,
    find_references,
    predicted_labels,
    read_label_map,
    reference_labels,
)


def save(path, array, affine=None, unit="mm"):
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("dtype", "high"),
    [(np.uint8, 4), (np.int16, 300), (np.int32, 4), (np.float32, 300), (np.float64, 4)],
)
def test_values_survive_any_stored_type(tmp_path, dtype, high):
    array = np.random.default_rng(0).integers(0, high + 1, (3, 4, 5))
    found = read_label_map(save(tmp_path / "a.nii.gz", array.astype(dtype))).array
    np.testing.assert_array_equal(found, array)
    assert found.dtype == (np.uint8 if array.max() < 256 else np.uint16)


def test_scaled_labels_are_unscaled(tmp_path):
    image = nib.Nifti1Image(np.array([[[0, 1, 2]]], np.uint8), np.eye(4))
    image.header.set_slope_inter(2, 1)
    image.to_filename(tmp_path / "a.nii")
    with open(tmp_path / "a.nii", "r+b") as file:
        file.seek(112)
        file.write(np.array([2, 1], "<f4").tobytes())
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nii").array, [[[1, 3, 5]]])


@pytest.mark.parametrize("value", [-1, 0.5, 70000])
def test_what_is_no_label_is_refused(tmp_path, value):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(InputError, match=r"a\.nii.*is it an image"):
        read_label_map(save(tmp_path / "a.nii", array))


@pytest.mark.parametrize(("values", "said"), [([np.nan], "1 NaN and 0"), ([np.inf, np.nan, np.nan], "2 NaN and 1")])
def test_voxels_that_are_no_numbers_are_counted(tmp_path, values, said):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, : len(values)] = values
    with pytest.raises(InputError, match=rf"a\.nii has {said} infinite voxels of 60"):
        read_label_map(save(tmp_path / "a.nii", array))


def test_a_slice_is_two_dimensional(tmp_path):
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    found = read_label_map(save(tmp_path / "a.nii", np.ones((6, 1, 7), np.uint8), affine))
    array, spacing = found.flattened()
    assert (array.shape, spacing) == ((6, 7), (2.0, 5.0))
    assert found.voxel_ml == pytest.approx(0.03)
    flat = read_label_map(save(tmp_path / "b.nii", np.ones((6, 7), np.uint8), affine))
    assert flat.flattened()[1] == (2.0, 3.0)
    four = read_label_map(save(tmp_path / "c.nii", np.ones((6, 7, 2, 1), np.uint8), affine))
    assert four.array.shape == (6, 7, 2)
    with pytest.raises(InputError, match=r"d.nii has 3 channels \(shape \(6, 7, 2, 3\)\), expected 1"):
        read_label_map(save(tmp_path / "d.nii", np.ones((6, 7, 2, 3), np.uint8), affine))


def test_pixels_have_no_volume_and_a_spacing_of_1(tmp_path):
    values = np.array([[0, 1, 300], [300, 0, 7]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_label_map(tmp_path / "a.png")
    np.testing.assert_array_equal(found.array, values)
    assert (found.flattened()[1], found.voxel_ml) == ((1.0, 1.0), None)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_spacing_is_in_millimetres_whatever_the_unit(tmp_path, unit, factor):
    found = read_label_map(save(tmp_path / "a.nii", np.ones((4, 4, 4), np.uint8), np.diag([2, 3, 4, 1]), unit))
    assert found.flattened()[1] == pytest.approx([2 * factor, 3 * factor, 4 * factor])


def test_spacing_is_that_of_an_oblique_affine(tmp_path):
    turn = np.eye(4)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    found = read_label_map(save(tmp_path / "a.nii", np.ones((4, 4, 4), np.uint8), turn @ np.diag([2, 3, 4, 1])))
    assert found.flattened()[1] == pytest.approx([2, 3, 4], rel=1e-6)


@pytest.mark.parametrize(("shift", "fits"), [(0.001, True), (0.15, False)])
def test_rounding_of_affines_is_forgiven_and_no_more(tmp_path, shift, fits):
    array, moved = np.ones((9, 8, 7), np.uint8), np.eye(4)
    moved[1, 3] = shift
    first = read_label_map(save(tmp_path / "a.nii", array))
    second = read_label_map(save(tmp_path / "b.nii", array, moved))
    if fits:
        check_same_grid(first.grid, second.grid)
    else:
        with pytest.raises(InputError, match=r"0\.15 mm apart"):
            check_same_grid(first.grid, second.grid)


def test_files_are_found_by_case_id(tmp_path):
    for name in ("a.nii.gz", "b.v1.nii", ".writing-c.nii.gz"):
        save(tmp_path / name, np.ones((2, 2, 2), np.uint8))
    (tmp_path / "labels.json").touch()
    assert list(find_label_maps(tmp_path)) == ["a", "b.v1"]
    with pytest.raises(InputError, match=r"labels\.json is no image file"):
        find_label_maps(tmp_path / "labels.json")
    save(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match="two label maps of one case"):
        find_label_maps(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"1": "x", "2": "x"}, "share a name"),
        ({"x": 1, "y": 1}, "share a value"),
        ({"x": True}, "whole number"),
        ({"x": 65536}, "from 0 to 65535"),
        ({"background": 0}, "no label but background"),
        (["x"], "must be declared like"),
        (None, "must be declared like"),
    ],
)
def test_broken_names_are_refused(tmp_path, labels, message):
    (tmp_path / "labels.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(InputError, match=rf"labels\.json: expected .*{message}"):
        predicted_labels(tmp_path)


@pytest.mark.parametrize("labels", [{"0": "background", "7": "b", "2": "a"}, {"b": 7, "background": 0, "a": 2}])
def test_names_are_in_the_order_of_their_values(tmp_path, labels):
    (tmp_path / "labels.json").write_text(json.dumps({"labels": labels}))
    assert list(predicted_labels(tmp_path).target_values.items()) == [("a", (2,)), ("b", (7,))]
    (tmp_path / "labels.json").rename(tmp_path / "dataset.json")
    assert predicted_labels(tmp_path) is None
    assert list(reference_labels(tmp_path).target_values.items()) == [("a", (2,)), ("b", (7,))]
    assert list(reference_labels(tmp_path / "beside").target_values.items()) == [("a", (2,)), ("b", (7,))]


def test_references_of_a_dataset_need_no_groups(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "imagesTr" / "a_0000.nii.gz", np.ones((2, 2, 2), np.uint8))
    label = save(tmp_path / "labelsTr" / "a.nii.gz", np.ones((2, 2, 2), np.uint8))
    facts = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "x": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    (tmp_path / "groups.csv").write_text("case,group\nq,1\n")
    assert find_references(tmp_path) == {"a": label}


def test_a_label_map_whose_name_is_not_utf_8_is_refused(tmp_path):
    odd = tmp_path / os.fsdecode(b"M\xfcller.nii")
    try:
        save(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8)).rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    for path in (odd, tmp_path):
        with pytest.raises(InputError, match=r"M\\udcfcller\.nii: the name is not valid UTF-8.*: rename it"):
            find_label_maps(path)


@pytest.mark.parametrize("listed", [False, True])
def test_references_of_a_dataset_need_no_names_of_channels(tmp_path, listed):
    for index in range(2):
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        save(tmp_path / "imagesTr" / f"a_{index:04d}.nii.gz", np.ones((2, 2, 2), np.uint8))
    (tmp_path / "labelsTr").mkdir()
    label = save(tmp_path / "labelsTr" / "a.nii.gz", np.ones((2, 2, 2), np.uint8))
    facts = {"labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    if listed:
        facts["training"] = [{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert find_references(tmp_path) == {"a": label}


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b"])
@pytest.mark.parametrize("find", [find_references, find_label_maps])
def test_a_path_that_cannot_be_is_named_in_few_words(find, path):
    with pytest.raises(InputError, match="does not exist") as told:
        find(Path(path))
    assert len(str(told.value)) < 600


def test_names_that_windows_saved_are_read(tmp_path):
    content = json.dumps({"labels": {"background": 0, "Läsion": 3}})
    (tmp_path / "labels.json").write_bytes(codecs.BOM_UTF8 + content.encode())
    assert predicted_labels(tmp_path).target_values == {"Läsion": (3,)}
    (tmp_path / "labels.json").write_bytes(content.encode("utf-16"))
    with pytest.raises(InputError, match=r"labels\.json is saved as UTF-16"):
        predicted_labels(tmp_path)


def test_more_labels_than_a_byte_holds_are_refused(tmp_path):
    labels = {f"l{value}": value for value in range(256)}
    (tmp_path / "labels.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(InputError, match=r"labels\.json: .*there are 256 labels"):
        predicted_labels(tmp_path)
