import numpy as np
import pytest
import torch
from monai.transforms.utils import create_rotate
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from dlka_med.config.training import Augmentation
from dlka_med.data.transforms import TrainingTransform
from dlka_med.data.warp import warped

SIZE = {2: (24, 19), 3: (16, 13, 20)}
OFF = {name: 0 for name in Augmentation.model_fields if name.endswith("probability")}
EQUAL = {2: (1, 1), 3: (1, 1, 1)}


def only(**options: object) -> Augmentation:
    return Augmentation(**OFF | options)


def patch(size: tuple[int, ...], channels: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((channels, *size), generator=generator)
    return {"image": image, "label": torch.randint(0, 4, (1, *size), generator=generator, dtype=torch.uint8)}


def changed(options: Augmentation, dims: int, seed: int, channels: int = 1):
    transform = TrainingTransform(SIZE[dims], options).set_random_state(seed)
    before = patch(transform.source_size(EQUAL[dims]), channels)
    return before, transform({key: value.clone() for key, value in before.items()})


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_drawn_changes_nothing(dims):
    before, after = changed(only(), dims, 0)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (type(after["image"]), after["label"].dtype) == (torch.Tensor, torch.uint8)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_seed_decides(dims):
    everything = Augmentation(**dict.fromkeys(OFF, 0.5))
    results = [changed(everything, dims, seed, channels=2)[1] for seed in (1, 1, 2)]
    for key in ("image", "label"):
        assert torch.equal(results[0][key], results[1][key])
        assert not torch.equal(results[0][key], results[2][key])
        assert results[0][key].shape[1:] == SIZE[dims]
    assert results[0]["image"].isfinite().all()


def test_global_settings_are_left_alone():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    np_state = np.random.get_state()[1].copy()
    changed(Augmentation(**dict.fromkeys(OFF, 1)), 3, 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], np_state)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_warp_equals_scipy(dims, seed):
    options = only(rotate_probability=1, scale_probability=1)
    transform = TrainingTransform(SIZE[dims], options).set_random_state(seed)
    before = patch(transform.source_size(EQUAL[dims]))
    after = transform(before)
    source = np.array(before["image"].shape[1:])
    offset = (source - 1) / 2 - transform.matrix @ (np.array(SIZE[dims]) - 1) / 2
    sampling = {"offset": offset, "output_shape": SIZE[dims], "order": 1, "mode": "grid-constant"}
    image, label = before["image"][0].numpy(), before["label"][0].numpy()
    expected = affine_transform(image, transform.matrix, **sampling)
    np.testing.assert_allclose(after["image"][0], expected, atol=1e-4)
    shares = [affine_transform((label == own).astype(np.float64), transform.matrix, **sampling) for own in range(4)]
    assert (after["label"][0].numpy() != np.argmax(shares, 0)).mean() < 0.002, "but for ties"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_cubic_interpolation_keeps_fine_waves_where_they_are(dims, seed):
    waves = np.random.default_rng(seed).uniform(0.5, 0.9, (2, dims))
    found, exact = {}, None
    for interpolation in ("linear", "cubic"):
        options = only(rotate_probability=1, scale_probability=1, interpolation=interpolation)
        transform = TrainingTransform(SIZE[dims], options).set_random_state(seed)
        source = transform.source_size(EQUAL[dims])
        # A margin of 6 voxels keeps the border of the source away.
        places = [np.arange(n + 12) - (n + 11) / 2 for n in source]
        grid = np.stack(np.meshgrid(*places, indexing="ij"))
        image = np.stack([np.sin(np.tensordot(wave, grid, 1)) for wave in waves]).astype(np.float32)
        label = (image[:1] > 0).astype(np.uint8)
        found[interpolation] = transform({"image": torch.from_numpy(image), "label": torch.from_numpy(label)})
        target = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SIZE[dims]], indexing="ij"))
        exact = np.stack([np.sin(np.tensordot(wave @ transform.matrix, target, 1)) for wave in waves])
    assert torch.equal(found["linear"]["label"], found["cubic"]["label"])
    errors = {name: np.abs(each["image"].numpy() - exact).mean() for name, each in found.items()}
    assert errors["cubic"] < 0.15 * errors["linear"]


@pytest.mark.parametrize("dims", [2, 3])
def test_cubic_interpolation_does_not_overshoot(dims):
    options = only(rotate_probability=1, interpolation="cubic")
    transform = TrainingTransform(SIZE[dims], options).set_random_state(0)
    size = transform.source_size(EQUAL[dims])
    image = torch.zeros(2, *size)
    image[0, size[0] // 2 :], image[1, : size[0] // 2] = 3.0, -1.0
    after = transform({"image": image, "label": torch.zeros(1, *size, dtype=torch.uint8)})["image"]
    assert [(channel.min().item(), channel.max().item()) for channel in after] == [(0, 3), (-1, 0)]


@pytest.mark.parametrize("dims", [2, 3])
def test_warped_outlines_are_smooth(dims):
    """A ball that is turned and zoomed is nearer to the ball it should be than by its nearest voxels."""
    zoom, size = 1.4, np.array(SIZE[dims])
    matrix = create_rotate(dims, [0.4] * (1 if dims == 2 else 3))[:dims, :dims] / zoom
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
    centre = np.full((dims, *[1] * dims), 0.3)
    ball = np.linalg.norm(grid - centre, axis=0) < 4
    _, found = warped(torch.zeros(1, *size), torch.from_numpy(ball[None].astype(np.uint8)), matrix, size)
    moved = np.linalg.norm(grid - np.tensordot(np.linalg.inv(matrix), centre, 1), axis=0) < 4 * zoom
    offset = (size - 1) / 2 - matrix @ ((size - 1) / 2)
    nearest = affine_transform(ball.astype(np.uint8), matrix, offset, order=0)
    assert (found[0].numpy() != moved).sum() < 0.8 * (nearest != moved).sum()


@pytest.mark.parametrize("dims", [2, 3])
def test_corners_are_filled_and_no_more_is_read_than_needed(dims):
    options = only(rotate_probability=1, scale_probability=1, rotate_degrees=45)
    for seed in range(10):
        transform = TrainingTransform(SIZE[dims], options).set_random_state(seed)
        size = transform.source_size(EQUAL[dims])
        ones = {"image": torch.ones(1, *size), "label": torch.ones(1, *size, dtype=torch.uint8)}
        after = transform(ones)
        torch.testing.assert_close(after["image"], torch.ones(1, *SIZE[dims]))
        assert (after["label"] == 1).all()
        reach = np.abs(transform.matrix) @ (np.array(SIZE[dims]) - 1) / 2
        grown = np.array(size) > SIZE[dims]
        assert (((np.array(size) - 1) / 2 - reach)[grown] < 1 + 1e-6).all()


def test_rotation_is_rigid_in_millimetres():
    spacing = np.array([1, 2, 1.5])
    transform = TrainingTransform((8, 8, 8), only(rotate_probability=1, rotate_degrees=30))
    angles = []
    for seed in range(200):
        transform.set_random_state(seed).source_size(spacing)
        turn = np.diag(spacing) @ transform.matrix @ np.diag(1 / spacing)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        angles.append(Rotation.from_matrix(turn).as_euler("XYZ", degrees=True))
    assert (np.abs(angles) <= 30 + 1e-6).all()
    assert (np.min(angles, axis=0) < -27).all()
    assert (np.max(angles, axis=0) > 27).all()


def test_thick_slices_turn_within_their_plane():
    transform = TrainingTransform((8, 8, 8), only(rotate_probability=1, scale_probability=0))
    transform.set_random_state(0).source_size((5, 1, 1.2))
    np.testing.assert_allclose(transform.matrix[0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(transform.matrix[:, 0], [1, 0, 0], atol=1e-12)
    assert abs(transform.matrix[1, 2]) > 0.01


@pytest.mark.parametrize(
    ("size", "spacing", "turns"),
    [
        ((4, 16, 16), (1, 1, 1), {0}),
        ((16, 16, 5), (1, 1, 1), {2}),
        ((16, 16, 5), (1, 1, 2), {0, 1, 2}),
        ((24, 24, 6), (0.5, 0.5, 1), {0, 1, 2}),
        ((20, 4, 4), (1, 1, 1), {0}),
        ((16, 8, 6), (1, 1, 1), {0, 1, 2}),
        ((8, 8, 8), (4, 1, 4), {1}),
        ((1, 16, 16), (1, 1, 1), {0}),
    ],
)
def test_flat_patches_turn_within_their_plane(size, spacing, turns):
    """The case around a flat patch is hardly larger than it: rotated out of its plane, much of it would be padding."""
    transform = TrainingTransform(size, only(rotate_probability=1))
    for seed in range(5):
        source = transform.set_random_state(seed).source_size(spacing)
        turn = np.diag(spacing) @ transform.matrix @ np.diag(1 / np.array(spacing))
        angles = Rotation.from_matrix(turn).as_euler("XYZ", degrees=True)
        assert {axis for axis in range(3) if abs(angles[axis]) > 1e-6} == turns
        if len(turns) == 1 and len(set(spacing)) == 1:
            axis = next(iter(turns))
            assert source[axis] == size[axis]


@pytest.mark.parametrize(
    ("size", "spacing", "turns"),
    [((24, 8), (1, 1), True), ((24, 7), (1, 1), False), ((64, 16), (0.7, 5), False), ((48, 16), (1, 3), True)],
)
def test_slices_of_thick_slices_and_flat_2d_patches_do_not_turn(size, spacing, turns):
    transform = TrainingTransform(size, only(rotate_probability=1)).set_random_state(0)
    source = transform.source_size(spacing)
    assert bool(transform.matrix[0, 1]) == turns
    assert (source != size) == turns


def test_scale_range():
    transform = TrainingTransform((10, 10, 10), only(scale_probability=1, scale_range=(0.5, 2)))
    zooms = []
    for seed in range(100):
        transform.set_random_state(seed).source_size((1, 1, 1))
        zooms.append(1 / transform.matrix[0, 0])
        np.testing.assert_allclose(transform.matrix, np.eye(3) / zooms[-1])
    assert 0.5 <= min(zooms) < 0.6
    assert 1.8 < max(zooms) <= 2


@pytest.mark.parametrize("dims", [2, 3])
def test_flips_move_image_and_label_together(dims):
    before, after = changed(only(flip_probability=1, flip_axes=(1,)), dims, 0)
    for key in before:
        assert torch.equal(after[key], before[key].flip(2))
    _, after = changed(only(flip_probability=1, flip_axes=(0, 1, 2)), dims, 0)
    assert torch.equal(after["image"], before["image"].flip(tuple(range(1, dims + 1))))


INTENSITY = [
    "noise_probability",
    "blur_probability",
    "brightness_probability",
    "contrast_probability",
    "gamma_probability",
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", INTENSITY)
def test_intensity_changes_the_image_only_and_each_channel_by_itself(dims, name):
    options = only(**{name: 1})
    transform = TrainingTransform(SIZE[dims], options).set_random_state(0)
    transform.source_size(EQUAL[dims])
    before = patch(SIZE[dims])
    image = before["image"].expand(2, *SIZE[dims]).clone()
    after = transform({"image": image.clone(), "label": before["label"]})
    assert torch.equal(after["label"], before["label"])
    assert not torch.allclose(after["image"][0], image[0])
    assert not torch.equal(after["image"][0], after["image"][1])
    assert after["image"].dtype == torch.float32


def impulse_responses(size: tuple[int, ...], zoom: float) -> torch.Tensor:
    """Images of one bright voxel each, at every place of the first axis and the middle of the others, changed."""
    options = only(low_resolution_probability=1, low_resolution_range=(zoom, zoom))
    image = torch.zeros(size[0], *size)
    image[(torch.arange(size[0]), torch.arange(size[0]), *(n // 2 for n in size[1:]))] = 1
    transform = TrainingTransform(size, options).set_random_state(0)
    transform.source_size((1,) * len(size))
    return transform({"image": image, "label": torch.zeros(1, *size, dtype=torch.uint8)})["image"]


@pytest.mark.parametrize("zoom", [0.5, 0.57, 0.63, 0.7, 0.75, 0.81, 0.9, 0.99])
@pytest.mark.parametrize("size", [(24, 24), (25, 19), (24, 6, 6), (25, 7, 5)])
def test_a_coarse_scan_moves_nothing(size, zoom):
    """Sums over the other axes of what each voxel becomes: where its bright spot lies on average."""
    spots = impulse_responses(size, zoom).double().flatten(2).sum(2)
    places = torch.arange(size[0]).double()
    moved = (spots @ places / spots.sum(1) - places)[3:-3]
    assert abs(moved.mean()) < 0.01


@pytest.mark.parametrize("zoom", [0.5, 0.57, 0.63, 0.7, 0.75, 0.81, 0.9, 0.99])
@pytest.mark.parametrize("size", [(24, 23), (25, 19), (24, 17, 16), (25, 16, 21)])
def test_a_ramp_survives_a_coarse_scan_in_its_place(size, zoom):
    """The grey value of a ramp is its place in voxels: nowhere off by a tenth, and on the whole by nothing."""
    options = only(low_resolution_probability=1, low_resolution_range=(zoom, zoom))
    ramps = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij"))
    transform = TrainingTransform(size, options).set_random_state(0)
    transform.source_size((1,) * len(size))
    found = transform({"image": ramps, "label": torch.zeros(1, *size, dtype=torch.uint8)})["image"]
    for axis, (before, after) in enumerate(zip(ramps, found, strict=True)):
        moved = (after - before).movedim(axis, 0)
        assert abs(moved.mean()) < 1e-5
        assert moved[2:-2].abs().max() < 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_channels_of_a_coarse_scan_share_its_grid(dims):
    before = patch(SIZE[dims])
    image = before["image"].expand(3, *SIZE[dims]).clone()
    transform = TrainingTransform(SIZE[dims], only(low_resolution_probability=1)).set_random_state(0)
    transform.source_size(EQUAL[dims])
    after = transform({"image": image, "label": before["label"]})
    assert torch.equal(after["label"], before["label"])
    assert not torch.allclose(after["image"][0], image[0], atol=0.1)
    assert torch.equal(after["image"][0], after["image"][1])
    assert torch.equal(after["image"][0], after["image"][2])


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_equals_scipy_and_keeps_a_flat_image(dims):
    options = only(blur_probability=1, blur_sigma=(0.8, 0.8))
    before, after = changed(options, dims, 0)
    expected = gaussian_filter(before["image"][0].numpy(), 0.8, mode="nearest")
    np.testing.assert_allclose(after["image"][0].numpy(), expected, atol=1e-5)
    flat = {"image": torch.full((1, *SIZE[dims]), -2.0), "label": before["label"]}
    transform = TrainingTransform(SIZE[dims], options).set_random_state(0)
    torch.testing.assert_close(transform(flat)["image"], torch.full((1, *SIZE[dims]), -2.0))


def test_sizes_of_the_intensity_changes():
    for seed in range(20):
        before, after = changed(only(brightness_probability=1), 3, seed)
        factor = after["image"] / before["image"]
        torch.testing.assert_close(factor, torch.full_like(factor, factor.mean().item()))
        assert 0.75 <= factor.mean() <= 1.25
        before, after = changed(only(contrast_probability=1), 3, seed)
        mean, inner = before["image"].mean(), before["image"].abs() < 1.5
        slope = ((after["image"] - mean) / (before["image"] - mean))[inner & ((before["image"] - mean).abs() > 0.1)]
        assert 0.7 < slope.min() <= slope.max() < 1.3
        assert slope.std() < 0.02
        assert before["image"].min() <= after["image"].min()
        assert after["image"].max() <= before["image"].max()
        before, after = changed(only(gamma_probability=1), 3, seed)
        torch.testing.assert_close(after["image"].mean(), before["image"].mean(), atol=1e-4, rtol=0)
        torch.testing.assert_close(after["image"].std(), before["image"].std(), atol=1e-3, rtol=0)
        order = before["image"].flatten().argsort()
        assert (after["image"].flatten()[order].diff() >= -1e-5).all(), "gamma keeps the order of grey values"
        before, after = changed(only(noise_probability=1, noise_std=0.2), 3, seed)
        assert 0 < (after["image"] - before["image"]).std() < 0.21


def test_padding_only_patches_stay_finite():
    transform = TrainingTransform(SIZE[3], Augmentation(**dict.fromkeys(OFF, 1))).set_random_state(0)
    size = transform.source_size(EQUAL[3])
    empty = {"image": torch.zeros(1, *size), "label": torch.zeros(1, *size, dtype=torch.uint8)}
    assert transform(empty)["image"].isfinite().all()
