"""NRRD and MetaImage files, written by hand or by ITK, read back; and what damaged ones claim."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from dlka_med.data.grid import Grid
from dlka_med.data.itk import itk_grid, open_itk, read_itk, write_itk
from dlka_med.errors import InputError
from tests.dicom_series import oblique

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
SHEARED = oblique(shear=(0.4, -0.9))
SIZES = b"3 4 100"  # of `whole`
LPS = np.diag([-1, -1, 1, 1])


def nrrd(path, fields, voxels):
    """A file as the format's definition has it: text, an empty line, raw voxels with the first axis fastest."""
    lines = ["NRRD0004", *(f"{key}: {value}" for key, value in fields.items())]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + voxels.tobytes(order="F"))
    return path


def space(affine):
    """The lines that place voxels in the world, in the axes of the affine."""
    columns = " ".join(f"({','.join(map(repr, map(float, affine[:3, axis])))})" for axis in range(3))
    return {"space directions": columns, "space origin": f"({','.join(map(repr, map(float, affine[:3, 3])))})"}


PLAIN = {"type": "short", "dimension": 3, "sizes": "5 4 3", "encoding": "raw", "endian": "little"}


@pytest.mark.parametrize("affine", [oblique(), SHEARED], ids=["oblique", "sheared"])
@pytest.mark.parametrize(("name", "turned"), [("left-posterior-superior", LPS), ("RAS", np.eye(4))])
def test_nrrd_lies_where_its_header_says(tmp_path, affine, name, turned):
    path = nrrd(tmp_path / "a.nrrd", PLAIN | {"space": name} | space(turned @ affine), VOXELS)
    (volume,), grid = read_itk(path, 1)
    assert volume.dtype == np.float32
    assert volume.flags.c_contiguous
    np.testing.assert_array_equal(volume, VOXELS)
    np.testing.assert_allclose(grid.affine, affine, atol=1e-12)
    assert itk_grid(path).shape == SHAPE
    np.testing.assert_array_equal(itk_grid(path).affine, grid.affine)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".MHA"])
def test_metaimage_lies_where_its_header_says(tmp_path, ending):
    lps = LPS @ SHEARED
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :3] / spacing).T.ravel()  # axis by axis
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"TransformMatrix = {' '.join(map(repr, directions.tolist()))}",
        f"Offset = {' '.join(map(repr, lps[:3, 3].tolist()))}",
        f"ElementSpacing = {' '.join(map(repr, spacing.tolist()))}",
        "DimSize = 5 4 3",
        "ElementType = MET_SHORT",
        f"ElementDataFile = {'LOCAL' if ending.lower() == '.mha' else 'b.raw'}",
    ]
    header, data = "\n".join([*lines, ""]).encode(), VOXELS.tobytes(order="F")
    path = tmp_path / f"a{ending}"
    path.write_bytes(header + (data if ending.lower() == ".mha" else b""))
    if ending == ".mhd":
        with pytest.raises(InputError, match=r"a\.mhd is a header alone, its voxels are missing: put b\.raw beside it"):
            itk_grid(path)
        (tmp_path / "b.raw").write_bytes(data)
    (volume,), grid = read_itk(path, 1)
    np.testing.assert_array_equal(volume, VOXELS)
    np.testing.assert_allclose(grid.affine, SHEARED, atol=1e-12)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("affine", [oblique(), SHEARED, oblique() @ np.diag([-1, 1, 1, 1])])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_what_is_written_comes_back_to_the_last_digit(tmp_path, ending, affine, dtype):
    path = tmp_path / f"a{ending}"
    write_itk(path, VOXELS.astype(dtype), Grid(path, SHAPE, affine))
    (values,), grid = read_itk(path, 1, as_stored=True)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, VOXELS)
    np.testing.assert_allclose(grid.affine, affine, rtol=0, atol=1e-13)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_vector_images_hold_channels(tmp_path, ending, compressed):
    vectors = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(vectors.transpose(2, 1, 0, 3), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"), compressed)
    volume, grid = read_itk(tmp_path / f"a{ending}", 2)
    np.testing.assert_array_equal(volume, vectors.transpose(3, 0, 1, 2))
    assert grid.shape == SHAPE
    with pytest.raises(InputError, match=r"2 channels .* expected 1"):
        read_itk(tmp_path / f"a{ending}", 1)


@pytest.mark.parametrize("place", [0, 3])
def test_a_fourth_axis_holds_channels(tmp_path, place):
    """`list` says which axis of an NRRD is none of space."""
    sizes, kinds, directions = [5, 4, 3], ["domain"] * 3, ["(1,0,0)", "(0,1,0)", "(0,0,2)"]
    for entries, entry in ((sizes, 2), (kinds, "list"), (directions, "none")):
        entries.insert(place, entry)
    fields = PLAIN | {
        "dimension": 4,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, sizes)),
        "space directions": " ".join(directions),
        "kinds": " ".join(kinds),
    }
    voxels = np.random.default_rng(0).integers(0, 99, sizes).astype(np.int16)
    volume, grid = read_itk(nrrd(tmp_path / "a.nrrd", fields, voxels), 2)
    np.testing.assert_array_equal(volume, np.moveaxis(voxels, place, 0))
    np.testing.assert_allclose(grid.affine, np.diag([-1, -1, 2, 1]))


def test_an_image_of_two_axes_is_a_slice(tmp_path):
    fields = PLAIN | {"dimension": 2, "sizes": "5 4", "spacings": "0.5 2"}
    (volume,), grid = read_itk(nrrd(tmp_path / "a.nrrd", fields, VOXELS[..., 0]), 1)
    np.testing.assert_array_equal(volume[..., 0], VOXELS[..., 0])
    np.testing.assert_allclose(grid.affine, np.diag([-0.5, -2, 1, 1]))


def test_four_axes_of_one_kind_are_channels_last(tmp_path):
    fields = PLAIN | {"dimension": 4, "sizes": "5 4 3 2", "spacings": "1 1 2 9"}
    voxels = np.random.default_rng(0).integers(0, 99, (*SHAPE, 2)).astype(np.int16)
    volume, grid = read_itk(nrrd(tmp_path / "a.nrrd", fields, voxels), 2)
    np.testing.assert_array_equal(volume, np.moveaxis(voxels, -1, 0))
    np.testing.assert_allclose(grid.affine, np.diag([-1, -1, 2, 1]))


def whole(folder, ending, compressed=False):
    path = folder / f"a{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.repeat(20, axis=0)), str(path), compressed)
    return path


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files(tmp_path, capfd, ending, compressed):
    path = whole(tmp_path, ending, compressed)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=rf"a\{ending} is truncated or damaged"):
        open_itk(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_header_may_not_claim_more_than_the_file_can_hold(tmp_path, ending, compressed):
    path = whole(tmp_path, ending, compressed)
    assert path.read_bytes().count(SIZES) == 1
    path.write_bytes(path.read_bytes().replace(SIZES, b"30000 30000 30000"))
    with pytest.raises(InputError, match=r"header claims the shape \(30000, 30000, 30000\), \d+ bytes, but the file"):
        open_itk(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_numbers_in_letters_may_be_shorter_than_in_bytes(tmp_path, ending):
    path, letters = tmp_path / f"a{ending}", " ".join(f"{value:g}" for value in (VOXELS % 7).ravel(order="F"))
    header = {
        ".nrrd": "NRRD0004\ntype: float\ndimension: 3\nsizes: 5 4 3\nencoding: ascii\n\n",
        ".mha": "ObjectType = Image\nNDims = 3\nBinaryData = False\nDimSize = 5 4 3\nElementType = MET_FLOAT\n"
        "ElementDataFile = LOCAL\n",
    }[ending]
    path.write_text(f"{header}{letters}\n")
    np.testing.assert_array_equal(read_itk(path, 1)[0][0], VOXELS % 7)
    path.write_text(f"{header}{letters[:-2]}\n")
    with pytest.raises(InputError, match="truncated or damaged"):
        read_itk(path, 1)


def test_an_empty_volume_may_be_very_small(tmp_path):
    empty = np.zeros((200, 200, 200), np.int16)
    path = nrrd(tmp_path / "a.nrrd", PLAIN | {"encoding": "gzip", "sizes": "200 200 200"}, np.empty(0))
    path.write_bytes(path.read_bytes() + gzip.compress(empty.tobytes()))
    (values,), _ = read_itk(path, 1, as_stored=True)
    np.testing.assert_array_equal(values, empty)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"space": "LPS", "space directions": "(1,0,0) (0,1,0) (0,1,0)"}, "has singular directions"),
        ({"type": "block", "block size": 4}, "is no NRRD or MetaImage file|instead of real numbers"),
        ({"data file": "other.raw"}, "its voxels lie in another file"),
        ({"sizes": "5 0 3"}, "is no NRRD or MetaImage file"),
        ({"dimension": 5, "sizes": "5 4 3 2 2"}, r"a\.nrrd"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path, fields, said):
    (tmp_path / "other.raw").write_bytes(VOXELS.tobytes())
    path = nrrd(tmp_path / "a.nrrd", PLAIN | fields, VOXELS)
    with pytest.raises(InputError, match=said):
        read_itk(path, 1)


def test_complex_numbers_are_refused(tmp_path):
    image = SimpleITK.GetImageFromArray(VOXELS.astype(np.complex64))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=r"a\.nrrd holds complex of 32-bit float instead of real numbers"):
        read_itk(tmp_path / "a.nrrd", 1)


@pytest.mark.parametrize("data", ["LIST", "a%03d.raw 1 3 1", "/etc/passwd", "../b.raw", ""])
def test_metaimage_of_other_places_is_refused(tmp_path, data):
    path = whole(tmp_path, ".mhd")
    path.write_text(path.read_text().replace("a.raw", data))
    with pytest.raises(InputError, match="names no single file of voxels beside it"):
        open_itk(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_files_of_another_kind(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    for content in (b"x" * 300, whole(tmp_path, ".nii").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\{ending} (is no NRRD or MetaImage file|names no single file)"):
            open_itk(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_itk(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_random_headers_are_read_or_refused_by_name(tmp_path, ending):
    content, random, read = whole(tmp_path, ending).read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in random.integers(0, 300, random.integers(1, 6)):
            damaged[place] = random.integers(256)
        (tmp_path / f"b{ending}").write_bytes(bytes(damaged))
        try:
            read_itk(tmp_path / f"b{ending}", 1)
            read += 1
        except InputError:
            pass
    assert 0 < read < 150


def test_without_the_extra_its_name_is_told(tmp_path):
    code = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "from pathlib import Path\n"
        "from dlka_med.data.itk import itk_grid\n"
        "try:\n    itk_grid(Path(sys.argv[1]))\n"
        "except ValueError as error:\n    sys.exit(str(error))"
    )
    path = whole(tmp_path, ".mha")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert 'pip install "dlka_med[clinic]"' in done.stderr


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch, ending):
    path = tmp_path / f"x.{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.float32)), str(path))

    def lacking(self):
        raise RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image.")

    monkeypatch.setattr(SimpleITK.ImageFileReader, "Execute", lacking)
    with pytest.raises(MemoryError, match=rf"x\.{ending}: .*allocate memory"):
        open_itk(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", None])
def test_nrrd_without_a_place_in_the_world_is_told(tmp_path, caplog, name):
    if name is None:
        path = nrrd(tmp_path / "a.nrrd", PLAIN | {"spacings": "1 2 3"}, VOXELS)
    else:
        write_itk(path := tmp_path / name, VOXELS, Grid(tmp_path, SHAPE, oblique()))
    read_itk(path, 1)
    assert ("a.nrrd does not tell how it lies (its header has no space)" in caplog.text) == (name is None)
