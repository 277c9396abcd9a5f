"""Which cases a path of DICOM files holds, what they are called, and which series is taken."""

import logging
import os
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dlka_med.data.cases import find_cases
from dlka_med.data.load import load_case
from dlka_med.errors import InputError
from tests.dicom_series import REAL, oblique, voxels_of, write_series

AFFINE = oblique()


def zipped(folder, target):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return target


def image_of(case, channels=("any",)):
    return load_case(case, channels).image


@pytest.mark.parametrize("kind", ["folder", "deep folder", "zip", "relative"])
def test_one_series_is_a_case_called_after_its_folder(tmp_path, monkeypatch, kind):
    write_series(tmp_path / "scan 1.2" / "deep" / "deeper", voxels_of(), AFFINE)
    path = tmp_path / "scan 1.2" / ("deep/deeper" if kind in ("folder", "relative") else "")
    if kind == "zip":
        path = zipped(path, tmp_path / "scan 1.2.zip")
    if kind == "relative":
        monkeypatch.chdir(path)
        path = os.curdir
    (case,) = find_cases(path, ["any"])
    assert case.id == ("deeper" if kind in ("folder", "relative") else "deep" if kind == "deep folder" else "scan 1.2")
    np.testing.assert_array_equal(image_of(case)[0], voxels_of())


def test_each_folder_and_zip_file_of_a_folder_is_a_case(tmp_path):
    for seed, name in enumerate("abc"):
        write_series(tmp_path / "in" / name / "S1", voxels_of(seed=seed), AFFINE)
    zipped(tmp_path / "in" / "c", tmp_path / "in" / "d.zip")
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "notes" / "readme.txt").write_text("no image")
    (tmp_path / "in" / ".DS_Store").write_text("x")
    cases = find_cases(tmp_path / "in", ["any"])
    assert [case.id for case in cases] == ["a", "b", "c", "d"]
    for case, seed in zip(cases, (0, 1, 2, 2), strict=True):
        np.testing.assert_array_equal(image_of(case)[0], voxels_of(seed=seed))


def test_what_is_wrong_with_one_of_several_is_told_when_it_is_read(tmp_path):
    write_series(tmp_path / "good", voxels_of(), AFFINE)
    for patient in "12":
        write_series(tmp_path / "mixed", voxels_of(), AFFINE, patient=patient, stem=patient)
    mixed, good = sorted(find_cases(tmp_path, ["any"]), key=lambda case: case.id != "mixed")
    assert image_of(good).shape == (1, 7, 6, 5)
    with pytest.raises(InputError, match="mixed holds images of 2 patients: put those of each"):
        image_of(mixed)
    with pytest.raises(InputError, match="2 patients"):
        find_cases(tmp_path / "mixed", ["any"])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["link", "junk"])
def test_a_file_that_cannot_be_read_keeps_no_other_case_away(tmp_path, kind, first):
    for name in ("good", "bad"):
        write_series(tmp_path / name, voxels_of(), AFFINE)
    broken = tmp_path / "bad" / ("A.dcm" if first else "z.dcm")
    if kind == "link":
        broken.symlink_to("gone")
    else:
        broken.write_bytes(b"x" * 500)
    bad, good = sorted(find_cases(tmp_path, ["any"]), key=lambda case: case.id)
    assert image_of(good).shape == (1, 7, 6, 5)
    for broken_off in (lambda: image_of(bad), lambda: find_cases(tmp_path / "bad", ["any"])):
        with pytest.raises(InputError, match=rf"{broken.name} (cannot be read \(No such file|is damaged)"):
            broken_off()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_no_case_is_called_after_a_patient(tmp_path, caplog, kind):
    path = tmp_path / "Erika MUSTERMANN 64"
    made = write_series(path, voxels_of(), AFFINE)
    if kind == "zip":
        path = zipped(path, tmp_path / "mustermann_e.zip")
    with caplog.at_level(logging.INFO, "dlka_med"):
        (case,) = find_cases(path, ["any"])
    assert case.id.startswith("series-")
    assert made[0].SeriesInstanceUID not in case.id
    assert find_cases(path, ["any"])[0].id == case.id
    assert "ustermann" not in caplog.text


def test_no_case_that_cannot_be_used_is_called_after_a_patient(tmp_path, caplog):
    for number in (1, 2):
        write_series(tmp_path / "Mustermann" / str(number), voxels_of(), AFFINE, number=number)
    write_series(tmp_path / "other", voxels_of(), AFFINE)
    with caplog.at_level(logging.INFO, "dlka_med"):
        cases = find_cases(tmp_path, ["any"])
    assert sorted(case.id.partition("-")[0] for case in cases) == ["other", "series"]
    assert "Mustermann" not in caplog.text


@pytest.mark.parametrize(("name", "folder"), [("Wang^Li=王^小东", "王小东 2"), ("Müller^Jo", "müller")])
def test_names_of_any_script_are_seen(tmp_path, name, folder):
    def change(one, index):
        one.SpecificCharacterSet, one.PatientName = "ISO_IR 192", name

    write_series(tmp_path / folder, voxels_of(), AFFINE, change=change)
    (case,) = find_cases(tmp_path / folder, ["any"])
    assert case.id.startswith("series-")


def test_a_name_that_is_a_pseudonym_is_kept(tmp_path):
    write_series(tmp_path / "LIDC-0001", voxels_of(), AFFINE, patient="LIDC-0001", name="LIDC-0001")
    assert find_cases(tmp_path / "LIDC-0001", ["any"])[0].id == "LIDC-0001"

    def removed(one, index):
        one.PatientIdentityRemoved = "YES"

    write_series(tmp_path / "Subject7", voxels_of(), AFFINE, name="Subject^7", change=removed)
    assert find_cases(tmp_path / "Subject7", ["any"])[0].id == "Subject7"


@pytest.fixture
def study(tmp_path):
    """Two series of images of one patient, and one of a localiser."""

    def localiser(one, index):
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    place, kind = tmp_path / "study", {"modality": "MR"}
    made = [
        write_series(place, voxels_of(seed=2), AFFINE, number=2, stem="a", **kind),
        write_series(place, voxels_of(seed=10), AFFINE, number=10, stem="b", **kind),
        write_series(place, voxels_of((7, 6, 2)), AFFINE, number=1, stem="c", change=localiser, **kind),
    ]
    return place, [one[0].SeriesInstanceUID for one in made]


def without(path, stem):
    for file in path.glob(f"{stem}*"):
        file.unlink()
    return path


def test_of_several_series_one_has_to_be_named(study, caplog):
    path, uids = study
    with pytest.raises(InputError, match=r"has 3 series of images: choose one with --series NUMBER") as refusal:
        find_cases(path, ["any"])
    listed = "series 1 (MR, 2 slices of 7 x 6), series 2 (MR, 5 slices of 7 x 6), series 10 (MR, 5 slices of 7 x 6)"
    assert str(refusal.value).endswith(listed)
    for asked, seed in (("10", 10), ("2", 2), (uids[1], 10)):
        with caplog.at_level(logging.INFO, "dlka_med"):
            (case,) = find_cases(path, ["any"], series=[asked])
        np.testing.assert_array_equal(image_of(case)[0], voxels_of(seed=seed))
    assert "case study: series 10 (MR, 5 slices of 7 x 6); it has series 1 (MR" in caplog.text
    with pytest.raises(InputError, match=r"no series 7: it has series 1 .MR"):
        find_cases(path, ["any"], series=["7"])


def test_a_localiser_leaves_no_choice(study, caplog):
    path, _ = study
    without(path, "b")
    with caplog.at_level(logging.INFO, "dlka_med"):
        (case,) = find_cases(path, ["any"])
    np.testing.assert_array_equal(image_of(case)[0], voxels_of(seed=2))
    assert "case study: series 2 (MR" in caplog.text


def test_a_series_for_each_channel(study):
    path, _ = study
    (case,) = find_cases(path, ["T1", "T2"], series=["10", "2"])
    expected = np.stack([voxels_of(seed=10), voxels_of(seed=2)])
    np.testing.assert_array_equal(image_of(case, ["T1", "T2"]), expected)
    with pytest.raises(InputError, match=r"1 series are named, but the run has 2 channels"):
        find_cases(path, ["T1", "T2"], series=["10"])
    without(path, "b")
    with pytest.raises(InputError, match=r"but the run has 2, \['T1', 'T2'\]: name the series of each with --series"):
        find_cases(path, ["T1", "T2"])


def test_the_folders_of_one_patient_are_one_source_where_series_are_asked_for(tmp_path):
    for number in (3, 4):
        write_series(tmp_path / "study" / f"S{number}", voxels_of(seed=number), AFFINE, number=number)
    assert [case.id for case in find_cases(tmp_path / "study", ["any"])] == ["S3", "S4"]
    (case,) = find_cases(tmp_path / "study", ["any"], series=["4"])
    assert case.id == "study"
    np.testing.assert_array_equal(image_of(case)[0], voxels_of(seed=4))
    write_series(tmp_path / "other" / "S4", voxels_of(), AFFINE, number=4, patient="P-2")
    shutil.move(tmp_path / "other", tmp_path / "study")
    cases = find_cases(tmp_path / "study", ["any"], series=["4"])
    assert [case.id for case in cases] == ["S3", "S4", "other"]
    with pytest.raises(InputError, match=r"S3 has no series 4: it has series 3 \(CT"):
        image_of(cases[0])


def test_two_series_of_one_number_are_told_apart_by_their_files(tmp_path):
    for name in "ab":
        write_series(tmp_path / "study" / name, voxels_of(), AFFINE, number=3)
    with pytest.raises(
        InputError, match=r"2 series of the number 3: name one by its SeriesInstanceUID.*first file is a/"
    ):
        find_cases(tmp_path / "study", ["any"], series=["3"])


def test_a_file_that_is_there_twice_counts_once(tmp_path):
    write_series(tmp_path / "series", voxels_of(), AFFINE)
    shutil.copy(tmp_path / "series" / "IM002", tmp_path / "series" / "copy")
    (case,) = find_cases(tmp_path / "series", ["any"])
    np.testing.assert_array_equal(image_of(case)[0], voxels_of())


def test_a_segmentation_is_no_image(tmp_path):
    shutil.copy(get_testdata_file("liver_1frame.dcm"), tmp_path / "a.dcm")
    for asked in ((), ("300",)):
        number = str(pydicom.dcmread(tmp_path / "a.dcm").SeriesNumber)
        with pytest.raises(InputError, match=r"holds segmentations \(DICOM-SEG\), but no images: give the series"):
            find_cases(tmp_path, ["any"], series=asked and (number,))


def test_other_objects_are_no_images(tmp_path):
    shutil.copy(get_testdata_file("rtdose.dcm"), tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"holds objects of the kind RTDOSE, but no images"):
        find_cases(tmp_path, ["any"])


def test_real_folders_of_several_patients_and_series():
    with pytest.raises(InputError, match="holds images of 3 patients"):
        find_cases(REAL, ["any"])
    with pytest.raises(InputError, match=r"has 3 series of images: .* whose first file is 4950"):
        find_cases(REAL / "98892003" / "MR2", ["any"])
    assert find_cases(REAL / "98892001" / "CT5N", ["CT"])[0].id == "CT5N"


def test_one_slice_of_a_series_is_told(tmp_path, caplog):
    write_series(tmp_path / "series", voxels_of(), AFFINE)
    shutil.copy(tmp_path / "series" / "IM002", tmp_path / "x.dcm")
    (case,) = find_cases(tmp_path / "x.dcm", ["any"])
    assert (case.id, image_of(case).shape) == ("x", (1, 7, 6, 1))
    assert "x.dcm is one slice: give the folder of its series" in caplog.text


def test_series_of_what_is_no_dicom(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="has no series: expected DICOM files"):
        find_cases(tmp_path / "in", ["any"], series=["1"])
    with pytest.raises(InputError, match=r"has no image: expected files that end with .* or DICOM files"):
        find_cases(tmp_path / "in", ["any"])


@pytest.mark.parametrize("name", ["IM003", "1.2.840", "IM003.dcm"])
def test_a_single_file_is_known_by_its_first_bytes(tmp_path, name):
    write_series(tmp_path, voxels_of((7, 6, 1)), AFFINE)
    (file,) = tmp_path.iterdir()
    (case,) = find_cases(file.rename(tmp_path / name), ["any"])
    assert case.id == name.removesuffix(".dcm")
    np.testing.assert_array_equal(image_of(case)[0], voxels_of((7, 6, 1)))
    (tmp_path / "notes").write_bytes(bytes(128) + b"DICN")
    with pytest.raises(InputError, match="notes is no image file"):
        find_cases(tmp_path / "notes", ["any"])


@pytest.mark.parametrize("kind", ["loose", "folder", "deep", "zip", "one.dcm"])
@pytest.mark.parametrize("image", ["H3.nii.gz", "H3.png"])
def test_dicom_beside_other_images_is_refused(tmp_path, save, kind, image):
    place, series = tmp_path / "in", tmp_path / "study"
    save(place / image, np.ones((3, 4), np.uint8))
    (place / "notes.txt").write_text("x" * 200)
    (place / "more").mkdir()
    save(place / "more" / image, np.ones((3, 4), np.uint8))
    with zipfile.ZipFile(place / "code.zip", "w") as archive:
        archive.writestr("a.py", "pass")
    os.symlink("nowhere", place / "lost")
    (place / "._study.dcm").write_text("of another system")
    assert [case.id for case in find_cases(place, ["any"])] == ["H3"]
    write_series(series, voxels_of(), AFFINE)
    found = {"folder": "S1", "deep": "more", "zip": "study.zip", "loose": "IM000", "one.dcm": "one.dcm"}[kind]
    if kind == "zip":
        zipped(series, place / found)
    elif kind in ("folder", "deep"):
        shutil.copytree(series, place / ("S1" if kind == "folder" else "more/S1"))
    else:
        shutil.copy(series / "IM000", place / found)
    said = f"mixes DICOM, such as .*/in/{found}, and other images, such as .*/in/{image}: keep them in folders"
    for asked in ((), ("1",)):
        with pytest.raises(InputError, match=said):
            find_cases(place, ["any"], series=asked)
    assert [case.id for case in find_cases(place / image, ["any"])] == ["H3"]
