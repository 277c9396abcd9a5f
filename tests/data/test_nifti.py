"""NIfTI files: what damaged headers claim, vector images, units of length."""

import errno
import gzip
import logging
import resource
import tracemalloc
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.cases import Case
from dlka_med.data.load import load_case
from dlka_med.data.nifti import read_nifti, write_nifti
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import read_label_map
from dlka_med.evaluation.measures import Protocol
from dlka_med.evaluation.pairing import LabelPairs
from dlka_med.evaluation.score import score_case

SHAPE = (3, 4, 5)
HEADER = 348  # bytes
METRES, MILLIMETRES, MICRONS = 1, 2, 3  # codes of xyzt_units


@pytest.fixture
def raw(tmp_path):
    """Bytes of a small file without compression."""
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), np.eye(4)), tmp_path / "whole.nii")
    return (tmp_path / "whole.nii").read_bytes()


def write(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_both(path):
    """How many of the two readers found nothing wrong; anything but their error is a failure."""
    read = 0
    for reader in (lambda: read_nifti(path, 1), lambda: read_label_map(path)):
        with suppress(InputError):
            reader()
            read += 1
    return read


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("headers", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_headers_are_read_or_refused_by_name(raw, tmp_path, name, headers):
    logging.disable(logging.ERROR)  # nibabel tells all that it mends
    random, read, before = np.random.default_rng(0), 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for _ in range(headers):
            damaged = bytearray(raw)
            for place in random.integers(0, HEADER, random.integers(1, 40)):
                damaged[place] = random.integers(256)
            read += read_both(write(tmp_path / name, bytes(damaged)))
    finally:
        logging.disable(logging.NOTSET)
    assert 0 < read < 2 * headers
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("dim", [(3, 30_000, 30_000, 30_000), (7, 32767, 32767, 32767, 32767, 32767, 32767, 32767)])
def test_a_header_may_not_claim_more_than_the_file_holds(raw, tmp_path, name, dim):
    claims = bytearray(raw)
    claims[40 : 40 + 2 * len(dim)] = np.array(dim, dtype="<i2").tobytes()
    path = write(tmp_path / name, bytes(claims))
    for reader in (lambda: read_nifti(path, 1), lambda: read_label_map(path)):
        with pytest.raises(InputError, match=r"x\.nii.*its header claims the shape \(3.*but the file can hold"):
            reader()


def test_a_compressed_file_that_holds_less_than_claimed_fills_no_memory(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 256, (60, 60, 60), dtype=np.uint8)
    claims = bytearray(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
    claims[40:48] = np.array([3, 500, 500, 400], dtype="<i2").tobytes()  # 100 MB, below what its ratio allows
    path = write(tmp_path / "x.nii.gz", bytes(claims))
    for reader in (lambda: read_nifti(path, 1), lambda: read_label_map(path)):
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"claims the shape \(500, 500, 400\).*can hold 216352: copy"):
                reader()
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("lack", [MemoryError("Unable to allocate 9 TiB"), OSError(errno.ENOMEM, "Unable to allocate")])
def test_a_lack_of_memory_is_no_damage(raw, tmp_path, monkeypatch, lack):
    path = write(tmp_path / "x.nii", raw)

    def lacking(*_, **__):
        raise lack

    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "__array__", lacking)
    for reader in (lambda: read_nifti(path, 1), lambda: read_label_map(path)):
        with pytest.raises(MemoryError, match=r"x\.nii: .*Unable to allocate"):
            reader()


@pytest.mark.parametrize("name", ["x.NII", "x.NII.GZ", "x.nii.Gz"])
def test_endings_in_capitals_are_read(tmp_path, name):
    data = nib.Nifti1Image(np.full((30, 30, 30), 2, np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert (read_nifti(path, 1)[0] == 2).all()
    assert (read_label_map(path).array == 2).all()


def test_the_fifth_axis_holds_channels(tmp_path):
    """The vector image that ITK and MONAI write: x, y, z, one time point, channels."""
    voxels = np.random.default_rng(0).normal(size=(*SHAPE, 1, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "vector.nii.gz")
    volume, _ = read_nifti(tmp_path / "vector.nii.gz", 2)
    np.testing.assert_array_equal(volume, voxels[:, :, :, 0].transpose(3, 0, 1, 2))
    with pytest.raises(InputError, match=r"2 channels .* expected 3"):
        read_nifti(tmp_path / "vector.nii.gz", 3)


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_a_label_may_have_axes_of_one(tmp_path, extra):
    label = (np.arange(60) % 2).reshape(SHAPE).astype(np.uint8)
    for name, array in (("image", label[..., None, None]), ("label", label.reshape(SHAPE + extra))):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    loaded = load_case(case(tmp_path), ["MRI"], {"background": 0, "a": 1})
    np.testing.assert_array_equal(loaded.label, label)
    np.testing.assert_array_equal(read_label_map(tmp_path / "label.nii.gz").array, label)


def test_several_time_points_are_no_channels(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2, 2), np.float32), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match="5D of one time point"):
        read_nifti(tmp_path / "x.nii.gz", 2)


def case(folder):
    return Case("x", (folder / "image.nii.gz",), folder / "label.nii.gz")


def save(path, spacing, unit):
    image = nib.Nifti1Image((np.arange(60) % 2).reshape(SHAPE).astype(np.uint8), np.diag([*spacing, 1]))
    image.header["xyzt_units"] = unit
    nib.save(image, path)


@pytest.mark.parametrize(("unit", "factor"), [(METRES, 1e-3), (MILLIMETRES, 1.0), (MICRONS, 1e3)])
@pytest.mark.parametrize("silent", ["image", "label"])
def test_a_missing_unit_is_that_of_the_partner(tmp_path, unit, factor, silent):
    spacing = (1.5, 2.0, 3.0)
    for name in ("image", "label"):
        save(tmp_path / f"{name}.nii.gz", np.multiply(spacing, factor), 0 if name == silent else unit)
    loaded = load_case(case(tmp_path), ["MRI"], {"background": 0, "a": 1})
    np.testing.assert_allclose(np.diag(loaded.affine)[:3], spacing, rtol=1e-6)
    files = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    scores = score_case("x", *files, LabelPairs({"a": (1,)}, {"a": (1,)}), Protocol())
    assert scores[0].values["dice"] == 1
    assert scores[0].reference_ml == pytest.approx(30 * np.prod(spacing) / 1000, rel=1e-5)


def test_without_any_unit_lengths_are_millimetres(tmp_path):
    for name in ("image", "label"):
        save(tmp_path / f"{name}.nii.gz", (1.5, 2.0, 3.0), 0)
    loaded = load_case(case(tmp_path), ["MRI"], {"background": 0, "a": 1})
    np.testing.assert_allclose(np.diag(loaded.affine)[:3], (1.5, 2.0, 3.0))


def test_units_that_differ_are_converted_not_guessed(tmp_path):
    save(tmp_path / "image.nii.gz", (1.5e-3, 2e-3, 3e-3), METRES)
    save(tmp_path / "label.nii.gz", (1.5e3, 2e3, 3e3), MICRONS)
    load_case(case(tmp_path), ["MRI"], {"background": 0, "a": 1})
    save(tmp_path / "label.nii.gz", (1.5, 2, 3), MICRONS)
    with pytest.raises(InputError, match="mm apart"):
        load_case(case(tmp_path), ["MRI"], {"background": 0, "a": 1})


def test_an_image_without_a_unit_beside_a_label_with_one_is_told(tmp_path, caplog):
    for name, unit in (("image", 0), ("label", MICRONS)):
        save(tmp_path / f"{name}.nii.gz", (1500, 2000, 3000), unit)
    labels = {"background": 0, "a": 1}
    load_case(case(tmp_path), ["MRI"], labels)
    assert [(record.levelname, "image.nii.gz names no unit" in record.message) for record in caplog.records] == [
        ("WARNING", True)
    ]
    caplog.clear()
    save(tmp_path / "image.nii.gz", (1500, 2000, 3000), MICRONS)
    load_case(case(tmp_path), ["MRI"], labels)
    assert not caplog.records


@pytest.mark.parametrize(
    "reader",
    [lambda path: read_nifti(path, 1)[0][0], lambda path: read_label_map(path).array],
    ids=["image", "label"],
)
def test_a_gzip_file_gives_what_was_stored_or_nothing(tmp_path, reader):
    noise = np.random.default_rng(0).integers(0, 2, (20, 20, 20), dtype=np.uint8)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "x.nii.gz")
    stored = (tmp_path / "x.nii.gz").read_bytes()
    places, refused = range(300, len(stored) - 8, 50), 0
    for place in places:
        damaged = bytearray(stored)
        damaged[place] ^= 16
        (tmp_path / "x.nii.gz").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(reader(tmp_path / "x.nii.gz"), noise)
        except InputError:
            refused += 1
    assert refused >= len(places) - 2  # some bits may have either value
    (tmp_path / "X.NII.GZ").write_bytes(stored)
    np.testing.assert_array_equal(reader(tmp_path / "X.NII.GZ"), noise)


@pytest.mark.parametrize("reader", [lambda path: read_nifti(path, 1), read_label_map], ids=["image", "label"])
def test_a_gzip_file_is_not_trusted_to_hold_what_it_claims(raw, tmp_path, reader):
    header = bytearray(raw[:352])
    header[40:48] = np.array([3, 500, 500, 500], dtype="<i2").tobytes()
    noise = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(bytes(header) + noise, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"claims the shape \(500, 500, 500\).*the file can hold 300352"):
        reader(tmp_path / "x.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(("codes", "told"), [((0, 0), True), ((1, 0), False), ((0, 2), False)])
def test_a_file_without_a_place_in_the_world_is_told(raw, tmp_path, caplog, codes, told):
    data = bytearray(raw)
    data[252:256] = np.array(codes, "<i2").tobytes()
    read_nifti(write(tmp_path / "x.nii", bytes(data)), 1)
    assert ("x.nii does not tell how it lies (qform_code and sform_code are 0)" in caplog.text) == told


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 3, 1), (4, 1, 3, 1, 1)])
def test_a_label_map_has_the_axes_of_its_image(tmp_path, shape):
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), affine), tmp_path / "scan.nii.gz")
    (volume,), grid = read_nifti(tmp_path / "scan.nii.gz", 1)
    values = np.random.default_rng(0).integers(0, 3, volume.shape).astype(np.uint8)
    write_nifti(tmp_path / "map.nii.gz", values, tmp_path / "scan.nii.gz")
    found = nib.load(tmp_path / "map.nii.gz")
    assert found.shape == nib.load(tmp_path / "scan.nii.gz").shape == shape
    np.testing.assert_array_equal(np.asarray(found.dataobj), values.reshape(shape))
    np.testing.assert_array_equal(found.affine, affine)
    np.testing.assert_array_equal(read_label_map(tmp_path / "map.nii.gz").array, values)
    np.testing.assert_array_equal(read_label_map(tmp_path / "map.nii.gz").affine, grid.affine)


def test_channels_are_no_axis_of_the_label_map(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3, 2), np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    write_nifti(tmp_path / "map.nii.gz", np.zeros((4, 5, 3), np.uint8), tmp_path / "scan.nii.gz")
    assert nib.load(tmp_path / "map.nii.gz").shape == (4, 5, 3)
