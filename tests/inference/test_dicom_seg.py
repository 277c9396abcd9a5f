"""Segmentations lie on the grid of their source voxel by voxel, as highdicom, pydicom and ITK read them."""

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid

from dlka_med import machine
from dlka_med.config.dataset import Segment
from dlka_med.config.labels import LabelScheme
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from dlka_med.inference.budget import FALLOW
from dlka_med.inference.writing import bytes_to_write, label_map_ending, write_label_map
from tests.dicom_series import BIRTH, PATIENT, REAL, SHAPE, oblique, voxels_of, write_series

LABELS = {"background": 0, "Lungenflügel": 4, "肝": 2, "never": 9}
CLASSES = {"肝": [1], "Lungenflügel": [2], "never": [3]}  # places of the values in ascending order
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
REGION_CLASSES = {"whole": [1, 2], "core": [2]}
SEGMENTS = {"肝": Segment(color=(255, 0, 0), code=("10200004", "SCT", "Liver"))}
LPS = np.diag([-1, -1, 1, 1])


def classes_of(shape=SHAPE, seed=0) -> np.ndarray:
    """Class indices 0 to 2 of sorted values, with a plane of background."""
    classes = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    classes[:, :, 1] = 0
    return classes


def expected_of(classes, members=CLASSES) -> dict[str, np.ndarray]:
    """Masks by name."""
    return {name: np.isin(classes, values) for name, values in members.items()}


def by_hand(path, shape, affine) -> dict[str, np.ndarray]:
    """Masks (x, y, z) by name, each frame put where its own position says, by pydicom alone."""
    seg = pydicom.dcmread(path)
    frames = np.atleast_3d(seg.pixel_array) if seg.NumberOfFrames > 1 else seg.pixel_array[None]
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    to_voxel = np.linalg.inv(LPS @ affine)
    names = {one.SegmentNumber: one.SegmentLabel for one in seg.SegmentSequence}
    masks = {name: np.zeros(shape, bool) for name in names.values()}
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        name = names[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        start = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for y, x in zip(*np.nonzero(frame), strict=True):
            voxel = (to_voxel @ [*(start + x * right * row + y * down * column), 1])[:3]
            assert np.abs(voxel - np.rint(voxel)).max() < 1e-3
            masks[name][tuple(np.rint(voxel).astype(int))] = True
    return masks


def by_highdicom(path, shape, affine) -> dict[str, np.ndarray]:
    seg = highdicom.seg.segread(path)
    masks = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=False)
        to_voxel = np.linalg.inv(LPS @ affine) @ volume.affine
        places = np.argwhere(volume.array[..., 0] > 0)
        voxels = np.rint(places @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
        name = seg.get_segment_description(number).segment_label
        masks[name] = np.zeros(shape, bool)
        masks[name][tuple(voxels.T)] = True
    return masks


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def write(path, classes, source, labels=LABELS, order=None, segments=None):
    write_label_map(path, classes, LabelScheme.of(labels, order), source, None, segments)


@pytest.mark.parametrize("spacing", [(0.7, 1.25, 2.5), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_labels_lie_on_the_grid_of_the_source(tmp_path, spacing, modality):
    affine = oblique(spacing)
    write_series(tmp_path / "series", voxels_of(), affine, modality=modality)
    classes = classes_of()
    write(tmp_path / "a.dcm", classes, tmp_path / "series")
    for read in (by_highdicom, by_hand):
        assert_same(read(tmp_path / "a.dcm", SHAPE, affine), expected_of(classes))


def test_itk_reads_the_planes_that_are_not_empty(tmp_path):
    """ITK stacks the frames as they are stored, segment by segment."""
    write_series(tmp_path / "series", voxels_of(), oblique())
    write(tmp_path / "a.dcm", classes_of(), tmp_path / "series")
    image = SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
    frames = SimpleITK.GetArrayFromImage(image) > 0
    expected = [mask[:, :, z].T for mask in expected_of(classes_of()).values() for z in range(5) if mask[:, :, z].any()]
    assert sorted(map(np.ndarray.tolist, frames)) == sorted(map(np.ndarray.tolist, expected))


def test_regions_overlap(tmp_path):
    affine, classes = oblique(), classes_of()
    write_series(tmp_path / "series", voxels_of(), affine)
    write(tmp_path / "a.dcm", classes, tmp_path / "series", REGIONS, [1, 2])
    expected = expected_of(classes, REGION_CLASSES)
    assert (expected["whole"] & expected["core"]).any()
    for read in (by_highdicom, by_hand):
        assert_same(read(tmp_path / "a.dcm", SHAPE, affine), expected)


@pytest.mark.slow
def test_what_writing_holds_is_known_before(tmp_path):
    shape, names = (160, 160, 160), range(1, 17)
    labels = {"background": 0} | {f"part{n}": [*range(n, 17)] if n < 16 else n for n in names}
    scheme, classes = LabelScheme.of(labels, [*names]), np.zeros(shape, np.uint8)
    for index in names:
        classes[9 * index : 9 * index + 9] = index
    source = tmp_path / "series"
    write_series(source, np.zeros(shape, np.int16), oblique())
    write_label_map(tmp_path / "first.dcm", np.minimum(classes, 1), scheme, source)  # what is imported stays
    held = machine.held_memory() - classes.size
    _, peak = machine.peak_while(lambda: write_label_map(tmp_path / "seg.dcm", classes, scheme, source))
    assert peak - held < bytes_to_write(tmp_path / "seg.dcm", scheme) * classes.size + FALLOW
    single = LabelScheme.of({"background": 0} | {f"part{n}": n for n in names})
    least, middle = (bytes_to_write(tmp_path / name, single) for name in ("a.nii.gz", "a.dcm"))
    assert least < middle < bytes_to_write(tmp_path / "seg.dcm", scheme)


def test_a_tilted_gantry(tmp_path):
    affine, classes = oblique(shear=(0.0, 0.9)), classes_of()
    write_series(tmp_path / "series", voxels_of(), affine)
    write(tmp_path / "a.dcm", classes, tmp_path / "series")
    assert_same(by_hand(tmp_path / "a.dcm", SHAPE, affine), expected_of(classes))


def test_an_enhanced_file_whose_frames_are_shuffled(tmp_path):
    affine, classes = oblique(), classes_of()
    slices = write_series(tmp_path / "series", voxels_of(), affine)
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=sorted(slices, key=lambda one: (7 * one.InstanceNumber) % 5),
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")
    write(tmp_path / "a.dcm", classes, tmp_path / "enhanced.dcm")
    for read in (by_highdicom, by_hand):
        assert_same(read(tmp_path / "a.dcm", SHAPE, affine), expected_of(classes))


def test_a_real_series(tmp_path):
    source = REAL / "98892001" / "CT5N"
    grid = reader_of(source).grid(source)
    classes = classes_of(grid.shape)
    write(tmp_path / "a.dcm", classes, source)
    for read in (by_highdicom, by_hand):
        assert_same(read(tmp_path / "a.dcm", grid.shape, grid.affine), expected_of(classes))


def test_what_is_empty_everywhere_is_written_all_the_same(tmp_path):
    write_series(tmp_path / "series", voxels_of(), oblique())
    write(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), tmp_path / "series")
    found = by_hand(tmp_path / "a.dcm", SHAPE, oblique())
    assert len(found) == 3
    assert not any(mask.any() for mask in found.values())


def test_identifiers_names_colours_and_codes(tmp_path):
    made = write_series(tmp_path / "series", voxels_of(), oblique(), name="Müller^Jörg")
    write(tmp_path / "a.dcm", classes_of(), tmp_path / "series", segments=SEGMENTS)
    seg = highdicom.seg.segread(tmp_path / "a.dcm")
    for key in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientBirthDate", "StudyDate"):
        assert seg[key].value == made[0][key].value
    assert str(seg.PatientName) == "Müller^Jörg"
    assert seg.SeriesInstanceUID != made[0].SeriesInstanceUID
    assert seg.Modality == "SEG"
    referred = {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {one.SOPInstanceUID for one in made}
    segments = {one.SegmentLabel: one for one in seg.SegmentSequence}
    assert list(segments) == ["肝", "Lungenflügel", "never"]
    code = segments["肝"].SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("10200004", "SCT", "Liver")
    red = highdicom.color.CIELabColor.from_rgb(255, 0, 0).value
    assert tuple(segments["肝"].RecommendedDisplayCIELabValue) == tuple(red)
    own = segments["Lungenflügel"].SegmentedPropertyTypeCodeSequence[0]
    assert (own.CodingSchemeDesignator, own.CodeMeaning) == ("99DLKA", "Lungenflügel")
    assert "RecommendedDisplayCIELabValue" not in segments["never"]


def test_headers_that_lack_what_may_be_empty(tmp_path):
    def change(one, index):
        for key in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            delattr(one, key)
        for key in ("StudyDate", "StudyTime", "Manufacturer", "PositionReferenceIndicator", "SpecificCharacterSet"):
            delattr(one, key)

    classes = classes_of()
    write_series(tmp_path / "series", voxels_of(), oblique(), change=change, name="A^B")
    write(tmp_path / "a.dcm", classes, tmp_path / "series")
    assert_same(by_hand(tmp_path / "a.dcm", SHAPE, oblique()), expected_of(classes))


def test_a_source_without_a_frame_of_reference(tmp_path):
    write_series(tmp_path / "series", voxels_of(), oblique(), change=lambda one, _: delattr(one, "FrameOfReferenceUID"))
    with pytest.raises(InputError, match=r"no FrameOfReferenceUID, .*--format nii\.gz"):
        write(tmp_path / "a.dcm", classes_of(), tmp_path / "series")
    assert not list(tmp_path.glob("*.dcm"))


def test_a_source_that_changed(tmp_path):
    write_series(tmp_path / "series", voxels_of(), oblique())
    with pytest.raises(InputError, match=r"series changed since it was read"):
        write(tmp_path / "a.dcm", classes_of((7, 6, 4)), tmp_path / "series")


def test_nothing_of_the_source_is_told(tmp_path, caplog, capfd, recwarn):
    write_series(tmp_path / "series", voxels_of(), oblique())
    write(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), tmp_path / "series")
    told = "".join([*capfd.readouterr(), caplog.text, *(str(one.message) for one in recwarn)])
    for secret in (PATIENT.split("^")[0], BIRTH, "P-1"):
        assert secret not in told


@pytest.mark.parametrize("form", ["nii.gz", "nii", "nrrd", "mha"])
def test_a_series_has_its_label_map_in_any_format(tmp_path, form):
    affine, classes = oblique(shear=(0.0, 0.9)), classes_of()
    write_series(tmp_path / "series", voxels_of(), affine)
    path = tmp_path / f"a{label_map_ending(tmp_path / 'series', form)}"
    write(path, classes, tmp_path / "series")
    values, grid = reader_of(path).label(path)
    np.testing.assert_array_equal(values, np.array([0, 2, 4])[classes])
    np.testing.assert_allclose(grid.affine, affine, atol=1e-5)


def test_formats_that_cannot_be(tmp_path):
    assert label_map_ending(tmp_path) == ".dcm"
    with pytest.raises(InputError, match=r"the format is 'jpg', expected one of nii\.gz, nii, nrrd, mha, dicom-seg"):
        label_map_ending(tmp_path, "jpg")
    with pytest.raises(InputError, match="is a 2D image, whose label map is PNG"):
        label_map_ending(tmp_path / "a.png", "nii")
    with pytest.raises(InputError, match="is no DICOM series, and DICOM-SEG refers to one"):
        label_map_ending(tmp_path / "a.nii.gz", "dicom-seg")


FAULTS = {
    "StudyInstanceUID": (None, "has no StudyInstanceUID"),
    "StudyDate": ("20209917", "has an invalid StudyDate"),
    "StudyTime": ("noon17", "has an invalid StudyTime"),
    "PatientBirthDate": ("17.8.1964", "has an invalid PatientBirthDate"),
    "PatientSex": ("W17", "has an invalid PatientSex"),
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("key", FAULTS)
def test_what_a_header_lacks_is_named_and_not_its_value(tmp_path, key):
    value, said = FAULTS[key]

    def change(one, index):
        if value is None:
            delattr(one, key)
        else:
            one[key]._value = value

    write_series(tmp_path / "series", voxels_of(), oblique(), change=change)
    with pytest.raises(InputError, match=rf"series {said}, which DICOM-SEG refers to: .*--format nii\.gz") as refusal:
        write(tmp_path / "a.dcm", classes_of(), tmp_path / "series")
    assert "17" not in str(refusal.value).replace(str(tmp_path), "")
    assert refusal.value.__suppress_context__
    assert not list(tmp_path.glob("*.dcm"))
