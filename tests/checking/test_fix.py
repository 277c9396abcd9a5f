"""What --fix writes is clean, and the original stays what it was."""

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.checking.fix import fix_dataset
from dlka_med.checking.mends import MENDS
from dlka_med.data.cases import read_dataset
from dlka_med.data.grid import Grid
from dlka_med.data.itk import write_itk
from dlka_med.data.load import load_case
from dlka_med.errors import InputError
from tests.checking.datasets import SHAPE, pictures, replant, save, volumes, voxels
from tests.checking.faults import FAULTS, UNMENDABLE, Fault

GRID = Grid(Path("any"), SHAPE, np.eye(4))


def digests(root) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def fix(planted, out, **options):
    return fix_dataset(check_dataset(planted.root, workers=0, **options), out, workers=0)


def planted_and_fixed(code, tmp_path, number=0):
    fault = [fault for fault in FAULTS if fault.code == code][number]
    planted = fault.build(tmp_path / "data")
    fault.plant(planted)
    return planted, fix(planted, tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_mended_copy_is_clean_and_can_be_loaded(tmp_path, fault: Fault):
    planted = fault.build(tmp_path / "data")
    fault.plant(planted)
    before = digests(planted.root)
    report = check_dataset(planted.root, workers=0)
    fixes = fix_dataset(report, tmp_path / "out", workers=0)
    assert digests(planted.root) == before

    again = check_dataset(tmp_path / "out", workers=0)
    worse = {finding.code for finding in again.findings if finding.severity != "note"}
    assert worse == ({fault.code} if fault.stays else set()), again.describe()
    mended = fault.code in MENDS and not fixes.left_out
    assert not mended or fault.code not in {finding.code for finding in again.findings}
    with (tmp_path / "out" / "fixes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows or report.is_clean
    if not report.is_clean:
        assert fault.code in {row["code"] for row in rows}
    if fault.code in UNMENDABLE or fault.stays:
        assert fixes.left_out
    assert fixes.cases == len(again.survey.dataset.cases) + len(again.survey.dataset.test)

    dataset = read_dataset(tmp_path / "out")
    for case in dataset.cases:
        load_case(case, dataset.channels, dataset.labels)


def test_unmendable_codes_are_those_without_a_mend():
    assert not UNMENDABLE & MENDS.keys()


def test_files_without_a_fault_are_copied_byte_by_byte(tmp_path):
    planted, _ = planted_and_fixed("voxels-nan", tmp_path)
    before, after = digests(planted.root), digests(tmp_path / "out")
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"imagesTr/case_0.nii.gz", "dataset.json"}


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint64, np.float64])
def test_voxels_stay_exact_where_only_the_header_is_mended(tmp_path, dtype):
    planted = volumes(tmp_path / "data")
    image = (2**30 if np.dtype(dtype).itemsize > 2 else 0) + np.arange(8 * 9 * 10).reshape(SHAPE).astype(dtype)
    nib.save(nib.Nifti1Image(image, np.eye(4), dtype=dtype), planted.image(0))  # without a unit
    fixes = fix(planted, tmp_path / "out")
    assert [one.code for one in fixes.fixes] == ["unit-missing"]
    mended = voxels(tmp_path / "out" / "imagesTr" / "case_0.nii.gz")
    assert mended.dtype == dtype
    np.testing.assert_array_equal(mended, image)


def test_a_label_that_readers_round_is_not_cut_down(tmp_path):
    planted = volumes(tmp_path / "data")
    label = voxels(planted.label(0)) * np.float32(0.99997)
    nib.save(nib.Nifti1Image(label, np.eye(4)), planted.label(0))  # without a unit
    fixes = fix(planted, tmp_path / "out")
    assert [one.code for one in fixes.fixes] == ["unit-missing"]
    np.testing.assert_array_equal(voxels(tmp_path / "out" / "labelsTr" / "case_0.nii.gz"), np.rint(label))


def test_a_label_in_the_unit_of_its_image_is_told_of(tmp_path):
    planted = volumes(tmp_path / "data")
    for path, unit in zip(planted.pair(0), ("meter", "unknown"), strict=True):
        image = nib.Nifti1Image(voxels(path), np.diag([0.001, 0.001, 0.001, 1]))
        image.header.set_xyzt_units(unit)
        nib.save(image, path)
    fixes = fix(planted, tmp_path / "out")
    assert {(one.file, one.done) for one in fixes.fixes} == {(str(file), "brought to mm") for file in planted.pair(0)}
    mended = nib.load(tmp_path / "out" / "labelsTr" / "case_0.nii.gz")
    np.testing.assert_allclose(mended.affine, np.eye(4), atol=1e-6)


def test_voxels_of_a_kept_header_stay_when_a_twin_goes(tmp_path):
    pytest.importorskip("SimpleITK")
    planted = volumes(tmp_path / "data")
    write_itk(planted.root / "imagesTr" / "m1.mhd", np.arange(720, dtype=np.int16).reshape(SHAPE), GRID)
    header = (planted.root / "imagesTr" / "m1.mhd").read_text()
    (planted.root / "imagesTr" / "m2.mhd").write_text(header)  # of the same file of voxels
    entries = json.loads((planted.root / "dataset.json").read_text())["training"]
    more = [{"image": f"imagesTr/{name}.mhd", "label": entries[0]["label"]} for name in ("m1", "m2")]
    planted.describe(training=[*entries[1:], *more])
    fixes = fix(planted, tmp_path / "out")
    assert [(one.case, one.code) for one in fixes.fixes if one.case] == [("m2", "duplicate-cases")]
    again = check_dataset(tmp_path / "out", workers=0)
    assert not [one for one in again.findings if one.severity == "error"]


def test_what_the_description_says_of_a_case_stays(tmp_path):
    planted = volumes(tmp_path / "data", test=1)
    facts = json.loads((planted.root / "dataset.json").read_text())
    planted.describe(
        training=[entry | {"age": index} for index, entry in enumerate(facts["training"])],
        test=[{"image": facts["test"][0], "age": 6}],
    )
    planted.image(2).write_bytes(b"")
    fix(planted, tmp_path / "out")
    mended = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [entry["age"] for entry in mended["training"]] == [0, 1, 3, 4, 5]
    assert mended["test"] == [{"image": "./imagesTs/test_6.nii.gz", "age": 6}]
    assert read_dataset(tmp_path / "out").test[0].id == "test_6"


def test_a_list_of_images_that_nobody_shipped_stays(tmp_path):
    planted = volumes(tmp_path / "data")
    planted.describe(test=["./imagesTs/elsewhere.nii.gz"], numTest=1)
    fixes = fix(planted, tmp_path / "out")
    mended = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (fixes.fixes, mended["test"], mended["numTest"]) == ((), ["./imagesTs/elsewhere.nii.gz"], 1)


def test_tests_that_are_all_left_out_are_counted_so(tmp_path):
    planted = volumes(tmp_path / "data", test=1)
    planted.describe(numTest=1)
    (planted.root / "imagesTs" / "test_6.nii.gz").write_bytes(b"")
    fix(planted, tmp_path / "out")
    mended = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (mended["test"], mended["numTest"]) == ([], 0)


def test_groups_keep_what_else_their_table_says(tmp_path):
    planted = volumes(tmp_path / "data")
    rows = [f"{name},g{index},site {index}" for index, name in enumerate(planted.names)]
    (planted.root / "groups.csv").write_text("\n".join(["case,group,site", *rows]) + "\n")
    planted.image(2).write_bytes(b"")
    fix(planted, tmp_path / "out")
    expected = ["case,group,site", *rows[:2], *rows[3:]]
    assert (tmp_path / "out" / "groups.csv").read_text().splitlines() == expected


def test_nan_becomes_the_empty_value_and_nothing_else_changes(tmp_path):
    planted, _ = planted_and_fixed("voxels-nan", tmp_path)
    source, mended = voxels(planted.image(0)), voxels(tmp_path / "out" / "imagesTr" / "case_0.nii.gz")
    broken = np.isnan(source)
    np.testing.assert_array_equal(mended[~broken], source[~broken])
    faces = [source.take(side, axis).ravel() for axis in range(3) for side in (0, -1)]
    border = np.concatenate(faces)
    assert abs(mended[broken][0] - np.nanmedian(border)) < 2


def test_a_surrounded_image_is_filled_with_0(tmp_path):
    planted = volumes(tmp_path / "data")
    image = np.zeros((8, 9, 10), np.float32)
    image[2:6, 2:6, 2:6] = np.random.default_rng(0).integers(100, 200, (4, 4, 4))
    image[3, 3, 3] = np.inf
    save(planted.image(0), image)
    fix(planted, tmp_path / "out")
    assert voxels(tmp_path / "out" / "imagesTr" / "case_0.nii.gz")[3, 3, 3] == 0


def test_a_label_is_resampled_by_the_nearest_voxel(tmp_path):
    planted, _ = planted_and_fixed("grid-size", tmp_path)
    coarse = voxels(planted.label(0))
    mended = nib.load(tmp_path / "out" / "labelsTr" / "case_0.nii.gz")
    np.testing.assert_array_equal(np.asarray(mended.dataobj), coarse.repeat(2, axis=0))
    np.testing.assert_array_equal(mended.affine, nib.load(planted.image(0)).affine)


def test_a_label_far_from_its_image_is_left_out(tmp_path):
    _, fixes = planted_and_fixed("grid-affine", tmp_path, number=1)
    assert [fix.case for fix in fixes.left_out] == ["case_0"]
    assert "lies outside the image" in fixes.left_out[0].done


@pytest.mark.parametrize("code", ["mask-255", "mask-antialiased", "mask-colours", "mask-jpeg"])
def test_masks_get_the_declared_value(tmp_path, code):
    sound = pictures(tmp_path / "sound")
    planted_and_fixed(code, tmp_path)
    mended = voxels(tmp_path / "out" / "labelsTr" / "cell_0.png")
    expected = voxels(sound.label(0)).copy()
    if code == "mask-antialiased":
        expected[4, 5:15] = np.array([40, 60, 80, 100, 110, 140, 150, 160, 200, 220]) > 127
    np.testing.assert_array_equal(mended, expected)


def test_colours_in_one_voxel_become_channels(tmp_path):
    planted, _ = planted_and_fixed("voxels-rgb", tmp_path)
    triples = voxels(planted.image(0))
    mended = voxels(tmp_path / "out" / "imagesTr" / "case_0.nii.gz")
    np.testing.assert_array_equal(mended, np.stack([triples[name] for name in "RGB"], axis=-1))


def test_metres_become_millimetres(tmp_path):
    planted_and_fixed("unit-other", tmp_path)
    image = nib.load(tmp_path / "out" / "imagesTr" / "case_0.nii.gz")
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(image.header.get_zooms(), 1, atol=1e-6)


def test_a_turned_picture_is_saved_upright(tmp_path):
    planted, _ = planted_and_fixed("exif-turned", tmp_path)
    mended = voxels(tmp_path / "out" / "imagesTr" / "cell_0_0000.png")
    np.testing.assert_array_equal(mended, voxels(planted.image(0))[::-1, ::-1])


def test_duplicates_are_no_loss(tmp_path):
    _, fixes = planted_and_fixed("duplicate-cases", tmp_path)
    assert (fixes.left_out, fixes.cases) == ((), 5)
    assert [(fix.case, fix.code) for fix in fixes.fixes] == [
        ("case_1", "duplicate-cases"),
        ("", "count-wrong"),
    ]
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["numTraining"] == len(description["training"]) == 5


def test_absent_labels_leave_the_description(tmp_path):
    planted_and_fixed("label-absent", tmp_path)
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "organ", "2": "tumour"}


def test_absent_labels_take_their_colours_along(tmp_path):
    planted = volumes(tmp_path / "data")
    segments = {"organ": {"color": [1, 2, 3]}, "cyst": {"color": [4, 5, 6]}}
    planted.describe(labels={"background": 0, "organ": 1, "tumour": 2, "cyst": 3}, segments=segments)
    fix(planted, tmp_path / "out")
    assert read_dataset(tmp_path / "out").segments.keys() == {"organ"}


def test_a_label_that_went_with_its_only_case_stays_declared(tmp_path):
    planted = volumes(tmp_path / "data")
    replant(planted.label(0), lambda label: label.__setitem__((0, 0), 77))
    for index in range(1, 6):
        replant(planted.label(index), lambda label: label.clip(max=1))
    fixes = fix(planted, tmp_path / "out")
    assert [(one.case, one.code) for one in fixes.left_out] == [("case_0", "label-undeclared"), ("", "label-absent")]
    assert "'tumour', which stays declared" in fixes.left_out[1].done
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "organ", "2": "tumour"}


def test_what_is_ignored_stays_declared(tmp_path):
    planted = volumes(tmp_path / "data")
    planted.describe(labels={"background": 0, "organ": 1, "tumour": 2, "cyst": 5, "ignore": 7})
    fixes = fix(planted, tmp_path / "out")
    assert fixes.left_out == ()
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "organ": 1, "tumour": 2, "ignore": 7}


def test_a_guess_at_patients_is_not_written(tmp_path):
    _, fixes = planted_and_fixed("ids-one-patient", tmp_path, number=1)
    assert [one.code for one in fixes.left_out] == ["ids-one-patient"]
    assert not (tmp_path / "out" / "groups.csv").exists()


def test_patients_get_their_groups(tmp_path):
    planted_and_fixed("ids-one-patient", tmp_path)
    groups = {case.id: case.group for case in read_dataset(tmp_path / "out").cases}
    assert groups["p1_a"] == groups["p1_b"] != groups["p2_a"]


def test_a_dataset_of_which_nothing_is_left_is_no_dataset(tmp_path):
    planted = volumes(tmp_path / "data")
    for index in range(6):
        planted.image(index).write_bytes(b"")
    with pytest.raises(InputError, match="can be mended or kept"):
        fix(planted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["data", "data/out", "."])
def test_the_copy_stands_apart(tmp_path, place):
    planted = volumes(tmp_path / "data")
    report = check_dataset(planted.root, workers=0)
    with pytest.raises(InputError, match=r"not empty|lie in each other"):
        fix_dataset(report, tmp_path / place, workers=0)


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    planted = volumes(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        fix(planted, tmp_path / "out")
