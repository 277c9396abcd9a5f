import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.cases import Case, read_dataset
from dlka_med.data.grid import spacing_of
from dlka_med.data.prepare import prepare
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
NONE = (Intensity(kind="none"),)


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World coordinates (3, *shape) of all voxels."""
    voxels = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ voxels + affine[:3, 3:]).reshape(3, *shape)


def oblique(spacing: tuple[float, ...], axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (12, -17, 9), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.eye(3)[:, axes] @ np.diag(signs) @ np.diag(spacing)
    affine[:3, 3] = 30, -70, 11
    return affine


GRIDS = {
    "identity": np.eye(4),
    "LPS": oblique((1, 1.5, 2), (0, 1, 2), (-1, -1, 1)) * 1.0,
    "sagittal": oblique((1.2, 0.9, 1.1), (1, 2, 0), (1, -1, -1)),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spacing", [None, (1.3, 0.8, 1.7)])
@pytest.mark.parametrize("orientation", [None, "RAS", "LPI"])
def test_what_lies_where_in_the_world_stays_there(make_case, grid, spacing, orientation):
    affine, shape = GRIDS[grid], (20, 17, 22)
    x, y, z = world(affine, shape)
    ramp = 500 + x + 2 * y - 1.5 * z
    label = np.where(x + y > np.median(x + y), 5, 0).astype(np.uint8)
    ramp[:3], ramp[:, -2:] = 0, 0
    case = make_case("a", ramp, label, affine)
    settings = Preprocessing(spacing=spacing, orientation=orientation, intensity=NONE)
    result = prepare(case, settings, ["MRI"], LABELS)

    assert "".join(nib.aff2axcodes(result.affine)) == (orientation or "".join(nib.aff2axcodes(affine)))
    np.testing.assert_allclose(spacing_of(result.affine), spacing or spacing_of(result.affine))
    assert result.native_shape == shape
    np.testing.assert_allclose(result.native_affine, affine, atol=1e-5)
    centre_of_kept = affine @ [(3 + 19) / 2, (0 + 14) / 2, (0 + 21) / 2, 1]
    centre = result.affine @ [*((np.array(result.image.shape[1:]) - 1) / 2), 1]
    np.testing.assert_allclose(centre, centre_of_kept, atol=1e-4)

    inner = (slice(3, -3),) * 3
    x, y, z = (axis[inner] for axis in world(result.affine, result.image.shape[1:]))
    assert x.size > 100
    np.testing.assert_allclose(result.image[0][inner], 500 + x + 2 * y - 1.5 * z, atol=0.15)
    middle = np.median(sum(world(affine, shape)[:2]))
    sure = np.abs(x + y - middle) > 1
    np.testing.assert_array_equal(result.label[inner][sure], np.where(x + y > middle, 2, 0)[sure])


@pytest.mark.parametrize(("shape", "spacing"), [((1, 1, 1), (0.5, 3, 1)), ((7, 2, 5), (2, 2, 2))])
def test_tiny_volumes(make_case, shape, spacing):
    result = prepare(make_case("a", np.full(shape, 3.0)), Preprocessing(spacing=spacing, intensity=NONE), ["MRI"])
    assert result.image.shape[1:] == tuple(max(round(n / s), 1) for n, s in zip(shape, spacing, strict=True))
    np.testing.assert_allclose(result.image, 3, rtol=1e-6)
    assert result.label is None


def test_the_crop_keeps_all_that_is_not_zero_in_any_channel(make_case):
    image = np.zeros((2, 8, 9, 10), dtype=np.float32)
    image[0, 2, 3, 4], image[1, 5, 4, 8] = -2, 7
    case = make_case("a", image, np.ones(image.shape[1:], dtype=np.uint8))
    settings = Preprocessing(intensity=NONE * 2)
    result = prepare(case, settings, ["T1", "T2"], LABELS)
    np.testing.assert_array_equal(result.image, image[:, 2:6, 3:5, 4:9])
    assert result.label.shape == (4, 2, 5)
    np.testing.assert_array_equal(result.affine[:3, 3], [2, 3, 4])
    whole = prepare(case, settings.model_copy(update={"crop_foreground": False}), ["T1", "T2"])
    np.testing.assert_array_equal(whole.image, image)
    empty = prepare(make_case("b", np.zeros((3, 4, 5))), Preprocessing(), ["T1"])
    np.testing.assert_array_equal(empty.image, np.zeros((1, 3, 4, 5)))


def test_nothing_is_resampled_when_the_spacing_fits(make_case):
    affine = np.diag([1.0009, 0.9992, 1, 1])
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    result = prepare(make_case("a", image, None, affine), Preprocessing(spacing=(1, 1, 1), intensity=NONE), ["MRI"])
    np.testing.assert_array_equal(result.image[0], image)
    np.testing.assert_allclose(result.affine, affine, atol=1e-6)


def test_grey_values_stay_and_are_normalised_on_demand(make_case):
    """Mean and deviation are those of the file's own voxels, whatever the spacing."""
    image = np.random.default_rng(0).gamma(2, 100, (12, 12, 12)).astype(np.float32)
    case, settings = make_case("a", image), Preprocessing(spacing=(2, 2, 2))
    plain = prepare(case, settings, ["MRI"])
    assert 100 < plain.image.mean() < 300
    for kind, part in (("zscore", image), ("zscore_nonzero", image[image != 0])):
        result = plain.normalised([Intensity(kind=kind)])
        np.testing.assert_allclose(result.image, (plain.image - part.mean()) / part.std(), atol=1e-4)
    np.testing.assert_array_equal(plain.normalised(NONE).image, plain.image)


def test_what_lies_around_the_image(make_case):
    """0 where something was cropped away, what the border shows elsewhere; scaled like the image."""
    image = np.random.default_rng(0).uniform(50, 60, (9, 9, 9)).astype(np.float32)
    whole = prepare(make_case("a", image), Preprocessing(), ["MRI"])
    assert 50 < whole.empty[0] < 60
    image[:2] = 0
    cropped = prepare(make_case("b", image), Preprocessing(), ["MRI"])
    assert cropped.image.shape == (1, 7, 9, 9)
    assert cropped.empty == (0,)
    inside = image[2:]
    (empty,) = cropped.normalised([Intensity(kind="zscore")]).empty
    assert empty == pytest.approx((0 - inside.mean()) / inside.std(), rel=1e-4)
    assert empty < -15
    ct = Intensity(kind="ct", lower=52, upper=58, mean=55, std=2)
    assert cropped.normalised([ct]).empty == (-1.5,)


def test_outliers_are_clipped_before_they_can_spread(make_case):
    image = np.random.default_rng(0).normal(100, 5, (24, 24, 24)).astype(np.float32)
    clean = image.copy()
    image[7, 8, 9] = 1e30
    robust = Preprocessing(spacing=(1.5,) * 3, intensity=(Intensity(kind="robust"),))
    found, expected = (
        prepare(make_case(name, volume), robust, ["MRI"]).normalised(robust.intensity).image
        for name, volume in (("a", image), ("b", clean))
    )
    assert np.abs(found - expected).max() < 2.5, "at the voxel itself: it becomes the 99.5th percentile"
    assert np.abs(found - expected).mean() < 0.01
    assert found.std() > 0.3


@pytest.mark.parametrize(("before", "after"), [((1, 1, 5), (1.4, 0.8, 2)), ((1, 1, 2), (0.9, 1.3, 6))])
def test_thick_slices_are_not_mixed(make_case, before, after):
    image = np.zeros((12, 11, 10), dtype=np.float32)
    image += np.random.default_rng(0).permutation(10) + 1
    case = make_case("a", image, np.where(image > 5, 5, 1).astype(np.uint8), np.diag([*before, 1.0]))
    result = prepare(case, Preprocessing(spacing=after, intensity=NONE), ["MRI"], LABELS)
    slices = result.image[0, 5, 5]
    np.testing.assert_allclose(slices, np.rint(slices), atol=1e-4)
    np.testing.assert_array_equal(result.label[5, 5], np.where(slices > 5.5, 2, 1))


def test_thin_slices_are_interpolated(make_case):
    image = np.zeros((12, 11, 10)) + np.random.default_rng(0).permutation(10)
    case = make_case("a", image, None, np.diag([1, 1, 2.0, 1]))
    slices = prepare(case, Preprocessing(spacing=(1, 1, 1.3), intensity=NONE), ["MRI"]).image[0, 5, 5]
    assert np.abs(slices - np.rint(slices)).max() > 0.1


def test_labels_keep_volume_and_smooth_borders(make_case):
    position = np.indices((24, 24, 24)).T - 11.5
    label = np.where(np.linalg.norm(position, axis=-1) < 8, 1, 0).astype(np.uint8)
    result = prepare(make_case("a", label + 1.0, label), Preprocessing(spacing=(0.7,) * 3), ["MRI"], LABELS)
    place = world(result.affine, result.label.shape) - 11.5
    ball = np.linalg.norm(place, axis=0) < 8
    assert 2 * (ball & (result.label == 1)).sum() / (ball.sum() + (result.label == 1).sum()) > 0.97


def test_spacing_of_another_dimension(make_case):
    with pytest.raises(InputError, match=r"preprocessing.spacing has 2 axes"):
        prepare(make_case("a", np.ones((3, 3, 3))), Preprocessing(spacing=(1, 1)), ["MRI"])


def test_an_axis_without_a_wish_keeps_its_spacing(make_case):
    case = make_case("a", np.random.default_rng(0).random((8, 9, 5)), None, np.diag([2, 3, 4, 1]))
    result = prepare(case, Preprocessing(spacing=(1, None, 2)), ["MRI"])
    np.testing.assert_allclose(spacing_of(result.affine), (1, 3, 2))
    assert result.image.shape == (1, 16, 9, 10)


def test_images_of_pixels(tmp_path, save):
    """The spacing counts pixels; the orientation of volumes says nothing about them."""
    rows, columns = np.indices((20, 30))
    pixels = np.stack([2 * rows + columns, 3 * columns + 50], -1).clip(1).astype(np.uint8)
    pixels[:4], pixels[:, 28:] = 0, 0
    images = tuple(save(tmp_path / f"a_{i:04d}.png", pixels[..., i]) for i in range(2))
    label = save(tmp_path / "labels/a.png", (columns > 14).astype(np.uint8))
    case = Case("a", images, label)
    result = prepare(case, Preprocessing(spacing=(2, 2), intensity=NONE * 2), ["R", "G"], {"o": 0, "x": 1})
    assert (result.image.shape, result.native_shape) == ((2, 8, 14), (20, 30))
    np.testing.assert_array_equal(result.native_affine, np.eye(3))
    np.testing.assert_allclose(result.affine, [[2, 0, 4], [0, 2, 0], [0, 0, 1]])
    place = result.affine @ np.stack([*np.indices((8, 14)).reshape(2, -1), np.ones(112)])
    inner = (slice(None), slice(1, -1), slice(1, -1))
    expected = np.stack([2 * place[0] + place[1], 3 * place[1] + 50]).reshape(2, 8, 14)
    np.testing.assert_allclose(result.image[inner], expected[inner], atol=0.6)
    np.testing.assert_array_equal(result.label, (place[1] > 14.5).reshape(8, 14))
    with pytest.raises(InputError, match=r"preprocessing\.spacing has 3 axes"):
        prepare(case, Preprocessing(spacing=(1, 1, 1)), ["R", "G"])


def test_hippocampus(shared_data):
    dataset = read_dataset(shared_data / "Task04_Hippocampus")
    for case in dataset.cases[::20]:
        result = prepare(case, Preprocessing(spacing=(1, 1, 1)), dataset.channels, dataset.labels)
        result = result.normalised([Intensity(kind="zscore")])
        native = np.asarray(nib.load(case.label).dataobj)
        offset = np.rint(np.linalg.solve(result.native_affine, result.affine)[:3, 3]).astype(int)
        box = tuple(slice(o, o + n) for o, n in zip(offset, result.label.shape, strict=True))
        np.testing.assert_array_equal(result.label, native[box])
        assert abs(result.image.mean()) < 0.3
        assert 0.8 < result.image.std() < 1.2


def test_nuclei(shared_data):
    dataset = read_dataset(shared_data / "Dataset101_Nuclei")
    for case in dataset.cases[::40]:
        result = prepare(case, Preprocessing(), dataset.channels, dataset.labels)
        result = result.normalised([Intensity(kind="zscore")] * 3)
        assert result.image.shape == (3, *result.label.shape)
        assert set(np.unique(result.label)) == {0, 1}
        assert np.abs(result.image.mean((1, 2))).max() < 1e-3


@pytest.mark.parametrize(
    ("steps", "orientation", "wish", "told"),
    [
        ((0.001, 0.001, 0.001), None, (1, 1, 1), True),
        ((1, 1, 15), None, (1, 1, 1), True),
        ((1, 1, 9), None, (1, 1, 1), False),
        ((0.1, 1, 30), None, (None, None, None), False),
        ((15, 1, 1), None, (1, 1, 15), True),
        ((15, 1, 1), "RAS", (1, 1, 15), False),
    ],
)
def test_voxels_far_larger_or_smaller_than_those_of_the_run_are_told(make_case, caplog, steps, orientation, wish, told):
    affine = np.eye(4)[:, [2, 1, 0, 3]] @ np.diag([*steps, 1.0])
    case = make_case("scan", np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32), affine=affine)
    prepare(case, Preprocessing(spacing=wish, orientation=orientation, crop_foreground=False), ["grey"])
    assert ("case scan has voxels of" in caplog.text) == told
    if told:
        found, run = (" x ".join(map(str, sizes)) for sizes in (steps, wish))
        assert f"case scan has voxels of {found} mm, but those of the run are of {run} mm" in caplog.text
