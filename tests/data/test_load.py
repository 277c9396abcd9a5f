import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.cases import Case
from dlka_med.data.load import load_case, load_label
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
SHAPE = (4, 5, 6)
IMAGE = np.arange(120, dtype=np.float32).reshape(SHAPE)
LABEL = np.zeros(SHAPE, dtype=np.uint8)
LABEL[1, 1, 1:4] = 1
LABEL[2, 2, 2] = 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_types_and_gaps_in_labels(make_case, dtype):
    affine = np.diag([-1.0, 2, 3, 1])
    case = make_case("a", IMAGE.astype(dtype), LABEL.astype(dtype), affine)
    loaded = load_case(case, ["MRI"], LABELS)
    np.testing.assert_array_equal(loaded.image, IMAGE[None])
    np.testing.assert_array_equal(loaded.label, np.where(LABEL == 5, 2, LABEL))
    np.testing.assert_array_equal(loaded.affine, affine)
    assert (loaded.image.dtype, loaded.label.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(load_label(case.label, LABELS), loaded.label)
    assert load_case(case, ["MRI"]).label is None


def test_rescaled_integers(tmp_path):
    stored = np.array([[[-1000, 24]]], dtype=np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "ct.nii.gz")
    loaded = load_case(Case("ct", (tmp_path / "ct.nii.gz",)), ["CT"])
    np.testing.assert_allclose(loaded.image[0], 0.5 * stored - 3)


def test_channels_in_one_file_or_several(make_case, save, tmp_path):
    channels = np.stack([IMAGE, 2 * IMAGE])
    several = make_case("a", channels, LABEL)
    one = Case("a", (save(tmp_path / "whole.nii.gz", np.moveaxis(channels, 0, -1)),), several.label)
    for case in (several, one):
        np.testing.assert_array_equal(load_case(case, ["T1", "T2"], LABELS).image, channels)
    with pytest.raises(InputError, match=r"whole.nii.gz has 2 channels \(shape \(4, 5, 6, 2\)\), expected 3"):
        load_case(one, ["T1", "T2", "T3"])
    with pytest.raises(InputError, match="has 2 images, expected 3"):
        load_case(several, ["T1", "T2", "T3"])


@pytest.mark.parametrize("part", ["images", "label"])
def test_damaged_files(make_case, part):
    noise = np.random.default_rng(0).integers(0, 2, (20, 20, 20)).astype(np.uint8)
    case = make_case("a", noise, noise)
    path = case.images[0] if part == "images" else case.label
    data = path.read_bytes()
    raw = gzip.decompress(data)
    for content, message in [
        (b"", "is empty"),
        (data[: len(data) // 2], "truncated or damaged"),
        (data[:40], "broken header"),
        (gzip.compress(raw[:-40]), "truncated or damaged"),
        (b"no image at all" * 40, "no NIfTI file"),
        (gzip.compress(b"no image at all" * 40), "no NIfTI file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path.name} .*{message}"):
            load_case(case, ["MRI"], LABELS)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} does not exist"):
        load_case(case, ["MRI"], LABELS)


def test_uncompressed_and_truncated(save, tmp_path):
    path = save(tmp_path / "a.nii", IMAGE)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"a.nii is truncated or damaged"):
        load_case(Case("a", (path,)), ["MRI"])


def test_nan_and_infinite_voxels_are_counted(make_case):
    image = IMAGE.copy()
    image[0, 0, :3] = np.nan
    image[1, 1, :2] = np.inf, -np.inf
    with pytest.raises(InputError, match="has 3 NaN and 2 infinite voxels of 120"):
        load_case(make_case("a", image), ["MRI"])
    with pytest.raises(InputError, match="0 NaN and 1 infinite"):
        load_case(make_case("b", np.where(IMAGE == 7, 1e300, 0.0)), ["MRI"])
    label = LABEL.astype(np.float32)
    label[0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"labels.*c.nii.gz has 1 NaN"):
        load_case(make_case("c", IMAGE, label), ["MRI"], LABELS)


def test_label_values(make_case):
    label = LABEL.copy()
    label[0, 0, :4] = 2, 2, 2, 9
    with pytest.raises(InputError, match=r"not declared: 2 \(3 voxels\), 9 \(1 voxels\); declared are .*'core': 5"):
        load_case(make_case("a", IMAGE, label), ["MRI"], LABELS)
    broken = LABEL.astype(np.float32)
    broken[0, 0, :2] = 0.5, 1 + 1e-6
    with pytest.raises(InputError, match="1 voxels that are no whole numbers"):
        load_case(make_case("b", IMAGE, broken), ["MRI"], LABELS)
    with pytest.raises(InputError, match=r"-1 \(120 voxels\)"):
        load_case(make_case("c", IMAGE, np.full(SHAPE, -1, dtype=np.int16)), ["MRI"], LABELS)


def test_undeclared_values_of_a_mask(make_case):
    declare = r"declare them \(dataset\.labels in the config, or dataset\.json\) or mend the file"
    with pytest.raises(InputError, match=f"{declare}; a black and white mask has to hold class numbers"):
        load_case(make_case("a", IMAGE, np.where(LABEL, 255, 0).astype(np.uint8)), ["MRI"], LABELS)
    with pytest.raises(InputError, match=f"{declare}$"):
        load_case(make_case("b", IMAGE, np.where(LABEL, 255, 1).astype(np.uint8)), ["MRI"], LABELS)


def test_images_of_differing_size(save, tmp_path):
    def image(name, *shape):
        return save(tmp_path / name, np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))

    advice = r"\(3, 4\), but .* has \(4, 3\): save both with the same size \(a photograph is turned"
    hint = "if these are separate images, rename .* none ends in _0000, or tell predict so with --one-file-per-case$"
    first, second = image("a_0000.png", 3, 4), image("a_0001.png", 4, 3)
    with pytest.raises(InputError, match=f"{advice} as its EXIF data say\\)$"):
        load_case(Case("a", (first,), second), ["T1"], {str(i): i for i in range(12)} | {"a": 12})
    with pytest.raises(InputError, match=f"{advice}.*{hint}"):
        load_case(Case("a", (first, second)), ["T1", "T2"])
    colours = image("b_0000.png", 3, 4, 3), image("b_0001.png", 3, 4, 3)
    with pytest.raises(InputError, match=f"has 3 channels, expected 1.*{hint}"):
        load_case(Case("b", colours), ["T1", "T2"])


def test_grids(make_case, save, tmp_path):
    case = make_case("a", IMAGE, LABEL[:, :, :5])
    with pytest.raises(InputError, match=r"has the shape \(4, 5, 6\), but .*a.nii.gz has \(4, 5, 5\)"):
        load_case(case, ["MRI"], LABELS)
    moved = np.eye(4)
    moved[2, 3] = 0.05
    near = replace(case, label=save(tmp_path / "near.nii.gz", LABEL, moved))
    assert load_case(near, ["MRI"], LABELS).label.any()
    moved[2, 3] = 0.15
    far = replace(case, label=save(tmp_path / "far.nii.gz", LABEL, moved))
    with pytest.raises(InputError, match=r"a_0000.nii.gz and .*far.nii.gz have affines .* up to 0.15 mm apart"):
        load_case(far, ["MRI"], LABELS)
    turned = replace(case, label=save(tmp_path / "turned.nii.gz", LABEL, np.diag([-1.0, 1, 1, 1])))
    with pytest.raises(InputError, match="up to 6 mm apart"):
        load_case(turned, ["MRI"], LABELS)
    second = save(tmp_path / "a_0001.nii.gz", IMAGE[:3])
    with pytest.raises(InputError, match=r"a_0001.nii.gz has \(3, 5, 6\)"):
        load_case(replace(case, images=(*case.images, second)), ["T1", "T2"])


def test_shapes_types_and_affines(save, tmp_path):
    slice_, row = save(tmp_path / "slice.nii.gz", IMAGE[0]), save(tmp_path / "row.nii.gz", IMAGE[0, 0])
    assert load_case(Case("slice", (slice_,)), ["MRI"]).image.shape == (1, 5, 6, 1)
    with pytest.raises(InputError, match=r"row.nii.gz has the shape \(6,\): expected a volume"):
        load_case(Case("row", (row,)), ["MRI"])
    padded = save(tmp_path / "padded.nii.gz", IMAGE[..., None, None])
    assert load_case(Case("padded", (padded,)), ["MRI"]).image.shape == (1, *SHAPE)
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match=r"rgb.nii.gz holds .* instead of real numbers"):
        load_case(Case("rgb", (save(tmp_path / "rgb.nii.gz", colours),)), ["MRI"])
    for broken in (np.diag([1.0, 0, 1, 1]), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])):
        image = nib.Nifti1Image(IMAGE, np.eye(4))
        image.header.set_qform(np.eye(4), code=0)
        image.header["sform_code"] = 1
        image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = broken[:3]
        image = nib.Nifti1Image(IMAGE, None, image.header)
        nib.save(image, tmp_path / "singular.nii.gz")
        with pytest.raises(InputError, match=r"singular.nii.gz has a singular affine"):
            load_case(Case("singular", (tmp_path / "singular.nii.gz",)), ["MRI"])


def test_grids_are_in_millimetres_whatever_the_unit(tmp_path):
    paths = []
    for unit, factor in (("mm", 1), ("micron", 1e3), ("meter", 1e-3), ("unknown", 1)):
        image = nib.Nifti1Image(IMAGE, np.diag([*(np.array([1.0, 2, 3]) * factor), 1]))
        image.header.set_xyzt_units(unit)
        paths.append(tmp_path / f"{unit}.nii.gz")
        nib.save(image, paths[-1])
    loaded = load_case(Case("a", tuple(paths)), ["a", "b", "c", "d"])
    np.testing.assert_allclose(loaded.affine, np.diag([1, 2, 3, 1]))
    micron = load_case(Case("b", (paths[1],)), ["a"])
    np.testing.assert_allclose(micron.affine, np.diag([1, 2, 3, 1]))
