"""Where the slices of a series lie, compared with ITK's own reader of series, and what is refused."""

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid

from dlka_med.data.dicom.choice import choose
from dlka_med.data.dicom.geometry import stack
from dlka_med.data.grid import spacing_of
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from tests.dicom_series import REAL, SHAPE, oblique, voxels_of, write_series

LPS = np.diag([-1, -1, 1, 1])


def by_itk(folder) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) and affine (RAS) as ITK's series reader has them."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, LPS @ affine


def read(folder, series=None) -> tuple[np.ndarray, np.ndarray]:
    reader = reader_of(folder, series)
    (volume,), grid = reader.image(folder, ["any"])
    by_header = reader.grid(folder)
    assert by_header.shape == grid.shape == volume.shape
    np.testing.assert_array_equal(by_header.affine, grid.affine)
    return volume, grid.affine


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_an_oblique_series_is_as_itk_reads_it(tmp_path, modality):
    voxels, affine = voxels_of(), oblique()
    write_series(tmp_path / "series", voxels, affine, modality=modality)
    volume, found = read(tmp_path / "series")
    np.testing.assert_array_equal(volume, voxels)
    np.testing.assert_allclose(found, affine, atol=1e-8)
    volume, found = by_itk(tmp_path / "series")
    np.testing.assert_array_equal(volume, voxels)
    np.testing.assert_allclose(found, affine, atol=1e-6)


@pytest.mark.parametrize("axes", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_axial_sagittal_and_coronal_series(tmp_path, axes, flips):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([0.7, 1.25, 2.5]) * flips)[axes]
    write_series(tmp_path / "series", voxels_of(), affine)
    volume, found = read(tmp_path / "series")
    other, expected = by_itk(tmp_path / "series")
    np.testing.assert_array_equal(volume, other)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_real_series_is_as_itk_reads_it():
    volume, affine = read(REAL / "98892001" / "CT5N")
    expected, expected_affine = by_itk(REAL / "98892001" / "CT5N")
    assert volume.shape == (16, 16, 5)
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_allclose(affine, expected_affine, atol=1e-5)


def test_a_tilted_gantry_gives_sheared_axes_and_a_word(tmp_path, caplog):
    affine = oblique(shear=(0.0, 0.9))
    made = write_series(tmp_path / "series", voxels_of(), affine)
    volume, found = read(tmp_path / "series")
    np.testing.assert_array_equal(volume, voxels_of())
    np.testing.assert_allclose(found, affine, atol=1e-8)
    for one in made:
        expected = LPS @ [*map(float, one.ImagePositionPatient), 1]
        np.testing.assert_allclose(found @ [0, 0, one.InstanceNumber - 1, 1], expected, atol=1e-8)
    assert "the gantry was tilted by 19.8 degrees" in caplog.text


@pytest.mark.parametrize("scale", ["shared", "of each frame"])
@pytest.mark.parametrize("order", ["as made", "shuffled"])
def test_frames_of_an_enhanced_file_are_slices(tmp_path, order, scale):
    """Converted by highdicom; the frames lie in the order of the slices it was given."""
    voxels, affine = voxels_of(), oblique()
    slopes, intercepts = np.full(5, 2.0), np.full(5, -1024.0)
    if scale == "of each frame":
        slopes, intercepts = slopes + np.arange(5), intercepts + 10 * np.arange(5)

    def rescaled(one, index):
        one.RescaleSlope, one.RescaleIntercept = str(slopes[index]), str(intercepts[index])

    slices = write_series(tmp_path / "series", voxels, affine, change=rescaled)
    slices.sort(key=lambda one: one.InstanceNumber if order == "as made" else (7 * one.InstanceNumber) % 5)
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=slices,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced" / "a.dcm")
    for source in (tmp_path / "enhanced", tmp_path / "enhanced" / "a.dcm"):
        volume, found = read(source)
        np.testing.assert_array_equal(volume, voxels * slopes + intercepts)
        np.testing.assert_allclose(found, affine, atol=1e-6)


def test_frames_that_do_not_say_where_they_lie(tmp_path):
    (tmp_path / "series").mkdir()
    path = tmp_path / "series" / "a.dcm"
    (one, *_) = write_series(tmp_path / "x", voxels_of((7, 6, 1)), oblique())
    one.NumberOfFrames, one.PixelData = 2, one.PixelData * 2
    one.save_as(path)
    with pytest.raises(InputError, match=r"a\.dcm has several frames that do not say where they lie"):
        read(tmp_path / "series")


def test_one_frame_that_has_no_next_one_is_as_thick_as_it_says(tmp_path):
    (one,) = write_series(tmp_path / "x", voxels_of((7, 6, 1)), oblique())
    group, measures, place, planes = (pydicom.Dataset() for _ in range(4))
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = one.PixelSpacing, 4, 0
    place.ImagePositionPatient, planes.ImageOrientationPatient = one.ImagePositionPatient, one.ImageOrientationPatient
    group.PixelMeasuresSequence, group.PlanePositionSequence = [measures], [place]
    group.PlaneOrientationSequence = [planes]
    del one.ImagePositionPatient
    one.NumberOfFrames, one.PerFrameFunctionalGroupsSequence = 1, [group]
    (tmp_path / "series").mkdir()
    one.save_as(tmp_path / "series" / "a.dcm")
    np.testing.assert_allclose(spacing_of(read(tmp_path / "series")[1]), (0.7, 1.25, 4))


def test_uneven_rounding_of_positions_is_no_gap(tmp_path):
    def change(one, index):
        one.ImagePositionPatient[2] = f"{float(one.ImagePositionPatient[2]) + 0.05 * (-1) ** index:.6f}"

    affine = oblique()
    write_series(tmp_path / "series", voxels_of(), affine, change=change)
    np.testing.assert_allclose(read(tmp_path / "series")[1], affine, atol=0.06)


def remove(*tags):
    def change(one, index):
        for tag in tags:
            delattr(one, tag)

    return change


def at(where, tag, value):
    def change(one, index):
        if index == where:
            setattr(one, tag, value)

    return change


def moved(by):
    """Slice -> mm along the last axis of the patient."""

    def change(one, index):
        one.ImagePositionPatient[2] = f"{float(one.ImagePositionPatient[2]) + by(index):.8f}"

    return change


def bent(one, index):
    one.ImagePositionPatient[0] = f"{float(one.ImagePositionPatient[0]) + 0.3 * index**2:.8f}"


STRAIGHT = np.diag([0.7, 1.25, 2.5, 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("PixelSpacing"), r"IM00\d lacks PixelSpacing, so nobody knows .* export the series again"),
        (remove("ImagePositionPatient"), "lacks ImagePositionPatient"),
        (remove("ImageOrientationPatient"), "lacks ImageOrientationPatient"),
        (at(2, "ImagePositionPatient", None), "lacks ImagePositionPatient"),
        (at(3, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), "planes that are not parallel"),
        (at(3, "PixelSpacing", [2, 2]), "pixels of different sizes"),
        (lambda one, index: setattr(one, "PixelSpacing", [0, 1]), "PixelSpacing that is not positive"),
        (lambda one, index: setattr(one, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "no pair of right angles"),
        (moved(lambda index: 5.0 * (index > 1)), r"lacks 2 slices: the 2\. and the next lie 7\.5 mm apart, all"),
        (moved(lambda index: 0.9 * (index > 3)), r"has slices from 2\.5 to 3\.4 mm apart: resample"),
        (moved(lambda index: 2.5 * (index % 2 - index)), r"several slices in one place: .* time points, echoes"),
        (moved(lambda index: -2.5 * (index == 4)), "several slices in one place"),
        (bent, "do not lie behind one another on a straight line"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(tmp_path, change, said):
    write_series(tmp_path / "series", voxels_of(), STRAIGHT, change=change)
    for read_any in (reader_of(tmp_path / "series").grid, lambda path: read(path)):
        with pytest.raises(InputError, match=said) as refusal:
            read_any(tmp_path / "series")
    assert "Mustermann" not in str(refusal.value)


@pytest.mark.parametrize(("skip", "missing"), [((2,), "1 slice:"), ((1, 2), "2 slices:")])
def test_slices_missing_in_the_middle(tmp_path, skip, missing):
    write_series(tmp_path / "series", voxels_of((7, 6, 9)), oblique(), skip=skip)
    with pytest.raises(InputError, match=f"series 1 .CT, . slices of 7 x 6. lacks {missing}"):
        read(tmp_path / "series")


def test_a_real_series_with_a_gap():
    with pytest.raises(InputError, match=r"CT2, series 2 .* lacks 161 slices: the 1\. and the next lie 202\.5 mm"):
        read(REAL / "77654033" / "CT2")


def test_slices_of_several_sizes(tmp_path):
    write_series(tmp_path / "series", voxels_of(), oblique())
    (other, *_) = write_series(tmp_path / "other", voxels_of((8, 6, 1)), oblique())
    other.SeriesInstanceUID = pydicom.dcmread(tmp_path / "series" / "IM000").SeriesInstanceUID
    other.save_as(tmp_path / "series" / "x")
    with pytest.raises(InputError, match=r"several sizes, \[\(7, 6\), \(8, 6\)\]"):
        read(tmp_path / "series")


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    affine = oblique()
    write_series(tmp_path / "series", voxels_of((7, 6, 1)), affine)
    _, found = read(tmp_path / "series")
    np.testing.assert_allclose(found[:, [0, 1, 3]], affine[:, [0, 1, 3]], atol=1e-8)
    np.testing.assert_allclose(found[:3, 2], 9 * affine[:3, 2] / 2.5, atol=1e-8)
    write_series(tmp_path / "thin", voxels_of((7, 6, 1)), affine, change=remove("SliceThickness"))
    with pytest.raises(InputError, match="does not say how thick it is: give the folder"):
        read(tmp_path / "thin")


def test_slices_know_their_files(tmp_path):
    made = write_series(tmp_path / "series", voxels_of(), oblique())
    found = stack(choose(tmp_path / "series"))
    assert found.shape == SHAPE
    files = [f"IM{[one.InstanceNumber for one in made].index(index + 1):03d}" for index in range(5)]
    assert [one.file for one in found.slices] == files
