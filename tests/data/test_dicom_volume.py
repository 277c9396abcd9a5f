"""The voxels of a series: rescaled, compressed, of kinds that are refused, and silent about whom they are of."""

import logging
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels.decoders import JPEGLSLosslessDecoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from dlka_med.data.dicom import volume
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from tests.dicom_series import BIRTH, oblique, voxels_of, write_series

AFFINE = oblique()


def read(folder, channel="any"):
    return reader_of(folder).image(folder, [channel])[0][0]


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    def change(one, index):
        one.RescaleSlope, one.RescaleIntercept = f"{0.5 + index}", f"{-100 * index}.25"

    write_series(tmp_path / "series", voxels_of(), AFFINE, change=change)
    slices = np.arange(5, dtype=np.float64)
    expected = voxels_of() * (0.5 + slices) - 100 * slices - np.where(slices > 0, 0.25, -0.25)
    np.testing.assert_allclose(read(tmp_path / "series"), expected, rtol=1e-6)


def test_a_series_without_a_slope_is_as_stored(tmp_path):
    write_series(tmp_path / "series", voxels_of(), AFFINE, modality="MR")
    volume = read(tmp_path / "series")
    assert volume.dtype == np.float32
    assert volume.flags.c_contiguous
    np.testing.assert_array_equal(volume, voxels_of())


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda syntax: syntax.keyword)
def test_compressed_slices(tmp_path, syntax):
    def compressed(one, index):
        one.compress(syntax, generate_instance_uid=False)

    shape = (40, 36, 3)
    write_series(tmp_path / "series", voxels_of(shape), AFFINE, change=compressed)
    np.testing.assert_array_equal(read(tmp_path / "series"), voxels_of(shape))


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEG2000Lossless"])
def test_slices_as_archives_compress_them(tmp_path, syntax):
    """By GDCM, as most archives keep them (the first)."""
    gdcm = pytest.importorskip("gdcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(get_testdata_file("MR_small.dcm")))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    (tmp_path / "packed").mkdir()
    writer.SetFileName(str(tmp_path / "packed" / "a.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array.T
    np.testing.assert_array_equal(read(tmp_path / "packed")[..., 0], expected)


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless"])
def test_real_compressed_slices(tmp_path, name):
    for source in (name, "MR_small"):
        (tmp_path / source).mkdir()
        shutil.copy(get_testdata_file(f"{source}.dcm"), tmp_path / source)
    np.testing.assert_array_equal(read(tmp_path / name), read(tmp_path / "MR_small"))


@pytest.mark.parametrize("name", ["MR_small_bigendian", "MR_small_implicit", "MR_small_expb", "CT_small"])
def test_real_slices_in_other_encodings(tmp_path, name):
    path = get_testdata_file(f"{name}.dcm")
    shutil.copy(path, tmp_path / "a.dcm")
    one = pydicom.dcmread(path)
    expected = one.pixel_array.T * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(read(tmp_path)[..., 0], expected)


def test_a_slice_that_nobody_can_decompress_names_its_syntax(tmp_path, monkeypatch):
    write_series(
        tmp_path / "series", voxels_of((40, 36, 2)), AFFINE, change=lambda one, _: one.compress(JPEGLSLossless)
    )
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(InputError, match=r'compressed as "JPEG-LS Lossless.*dlka_med\[clinic\].*gdcmconv') as refusal:
        read(tmp_path / "series")
    assert "Mustermann" not in str(refusal.value)


def lacking(*_):
    raise MemoryError


def lacking_words(*_):
    np.zeros(2**60, np.uint8)


@pytest.mark.parametrize("failure", [lacking, lacking_words])
@pytest.mark.parametrize("place", ["plain", "compressed", "volume"])
def test_a_lack_of_memory_is_no_damage_and_says_what_is_needed(tmp_path, monkeypatch, place, failure):
    """The volume as float32, turned once, and a slice: 8 * 3 + 4 times the pixels of a slice, which are a GiB here."""
    change = (lambda one, _: one.compress(JPEGLSLossless)) if place == "compressed" else None
    write_series(tmp_path / "series", voxels_of((40, 36, 3)), AFFINE, change=change)
    if place == "plain":
        monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(failure))
    elif place == "compressed":
        monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {"one": failure, "two": failure})
    else:
        monkeypatch.setattr(volume.np, "empty", failure)
    monkeypatch.setattr(volume, "GIB", 40 * 36)
    with pytest.raises(MemoryError, match=r"series: a series of 40 x 36 x 3 voxels needs 28\.00 GiB to be read$"):
        read(tmp_path / "series")


def test_damage_of_compressed_slices_is_no_lack_of_memory(tmp_path):
    def damaged(one, _):
        one.compress(RLELossless)
        one.PixelData = one.PixelData[:40] + bytes(len(one.PixelData) - 40)

    write_series(tmp_path / "series", voxels_of((40, 36, 3)), AFFINE, change=damaged)
    with pytest.raises(InputError):
        read(tmp_path / "series")


def inverted(one, index):
    one.PhotometricInterpretation = "MONOCHROME1"


def test_inverted_display_does_not_change_hounsfield_units(tmp_path):
    write_series(tmp_path / "ct", voxels_of(), AFFINE, change=inverted)
    np.testing.assert_array_equal(read(tmp_path / "ct"), voxels_of())
    write_series(tmp_path / "mr", voxels_of(), AFFINE, change=inverted, modality="MR")
    with pytest.raises(InputError, match=r"inverted \(MONOCHROME1\).*MONOCHROME2"):
        read(tmp_path / "mr")


def coloured(one, index):
    one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"


def tabled(one, index):
    one.ModalityLUTSequence = [pydicom.Dataset()]


def shortened(one, index):
    one.PixelData = one.PixelData[:20]


def unpixelled(one, index):
    del one.PixelData


def unsloped(one, index):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.add_new("RescaleSlope", "DS", "")
        one["RescaleSlope"]._value = ["1", "2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (coloured, r"colours \(RGB\), no grey values"),
        (tabled, r"maps its values by a table \(Modality LUT\)"),
        (shortened, r"pixels that cannot be read \(.*Error\), it is truncated or damaged"),
        (unpixelled, "has no pixels of whole numbers"),
        (unsloped, "RescaleSlope that is no number"),
    ],
)
def test_pixels_that_are_no_grey_values(tmp_path, change, said):
    write_series(tmp_path / "series", voxels_of(), AFFINE, change=change)
    with pytest.raises(InputError, match=said) as refusal:
        read(tmp_path / "series")
    assert "Mustermann" not in str(refusal.value)


def test_a_real_truncated_slice(tmp_path):
    shutil.copy(get_testdata_file("MR_truncated.dcm"), tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"a\.dcm has pixels that cannot be read .*copy or export it again"):
        read(tmp_path)


def test_a_file_cut_within_its_header(tmp_path):
    write_series(tmp_path / "series", voxels_of(), AFFINE)
    path = tmp_path / "series" / "IM001"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match=r"IM001 is damaged"):
        read(tmp_path / "series")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian], ids=["plain", "deflated"])
def test_damage_anywhere_is_told_without_the_words_of_a_header(tmp_path, syntax):
    """A byte is changed, or the file cut, all over it."""

    def change(one, index):
        one.file_meta.TransferSyntaxUID = syntax

    write_series(tmp_path / "series", voxels_of((5, 4, 1)), AFFINE, change=change)
    (path,) = (tmp_path / "series").iterdir()
    whole, random, refusals = path.read_bytes(), np.random.default_rng(0), []
    for place in range(132, len(whole), 7):
        damaged = bytearray(whole[:place]) if place % 2 else bytearray(whole)
        if len(damaged) == len(whole):
            damaged[place] = random.integers(256)
        path.unlink()
        path.write_bytes(damaged)
        try:
            read(path)
        except InputError as refusal:
            refusals.append(refusal)
    assert len(refusals) > 50
    assert not any("Mustermann" in str(each) for each in refusals)
    assert all(each.__suppress_context__ or each.__context__ is None for each in refusals)


@pytest.mark.parametrize(
    ("modality", "channel", "warns"),
    [
        *[("MR", name, True) for name in ("CT", "ct_abdomen", "CT 1")],
        *[("CT", name, True) for name in ("T1", "FLAIR", "MRI", "T2w", "t1-gd")],
        *[("CT", name, False) for name in ("CT", "image", "contrast", "direct")],
        *[("MR", name, False) for name in ("T1", "MRI", "image")],
    ],
)
def test_another_modality_than_the_run_was_trained_on(tmp_path, caplog, modality, channel, warns):
    write_series(tmp_path / "series", voxels_of(), AFFINE, modality=modality)
    read(tmp_path / "series", channel)
    assert bool(caplog.records) == warns
    if warns:
        assert f"series 1 ({modality}, 5 slices of 7 x 6): the channel is called {channel!r}" in caplog.text


def test_several_channels_need_several_series(tmp_path):
    write_series(tmp_path / "series", voxels_of(), AFFINE)
    with pytest.raises(InputError, match=r"holds one channel, expected 2, \['T1', 'T2'\].*--series A,B"):
        reader_of(tmp_path / "series").image(tmp_path / "series", ["T1", "T2"])


def test_nothing_of_a_header_is_told(tmp_path, caplog, recwarn):
    """Values against the standard make pydicom warn with the values in its words."""

    def odd(one, index):
        one.PatientBirthDate = BIRTH
        one.add_new("PatientAge", "AS", "56Y")
        one["PatientID"]._value = "Mustermann " * 20
        one["PatientAge"]._value = "Mustermann is 56"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path / "series", voxels_of(), AFFINE, change=odd)
    with caplog.at_level(logging.DEBUG):
        read(tmp_path / "series", "T1")
    assert len(recwarn) == 0
    assert "the channel is called" in caplog.text
    for secret in ("Mustermann", BIRTH, "P-1", "A1", "Arzt"):
        assert secret not in caplog.text


def test_without_the_extra_its_name_is_told(tmp_path):
    write_series(tmp_path / "series", voxels_of(), AFFINE)
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from pathlib import Path\n"
        "from dlka_med.data.readers import reader_of\n"
        "path = Path(sys.argv[1])\n"
        "try:\n    reader_of(path).grid(path)\n"
        "except ValueError as error:\n    sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "series"], capture_output=True, text=True, check=False
    )
    assert 'pip install "dlka_med[clinic]"' in done.stderr
