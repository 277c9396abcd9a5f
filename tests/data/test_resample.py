"""Onto another grid: images by a spline, labels without a favourite class."""

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from dlka_med.data.resample import beside_halves, coarse_axis, nearest_voxels, resample

FACTORS = (0.5, 0.7, 1.1, 1.25, 1.37, 1.5, 1.9, 2.0)
COARSER = (2.1, 2.5, 3.0)
ROOT = Path(__file__).parents[2]


def resampled(image: np.ndarray, label: np.ndarray, spacing, native=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and affine on the new grid; the old one has `native` mm per voxel."""
    affine = torch.from_numpy(np.diag([*(native or [1.0] * label.ndim), 1.0]))
    case = (
        MetaTensor(torch.from_numpy(image[None].astype(np.float32)), affine=affine),
        MetaTensor(torch.from_numpy(label[None].astype(np.uint8)), affine=affine),
    )
    moved, classes = resample(*case, np.array(spacing, dtype=float))
    np.testing.assert_array_equal(moved.affine, classes.affine)
    return moved.numpy()[0], classes.numpy()[0], moved.affine.numpy()


def relabelled(label: np.ndarray, spacing) -> np.ndarray:
    """The label beside an image without channels, whose spline would take most of the time."""
    affine = torch.eye(label.ndim + 1, dtype=torch.float64)
    image = MetaTensor(torch.empty(0, *label.shape), affine=affine)
    case = MetaTensor(torch.from_numpy(label[None].astype(np.uint8)), affine=affine)
    return resample(image, case, np.array(spacing, dtype=float))[1].numpy()[0]


def blobs(shape: tuple[int, ...], classes: int, width: float = 2.5, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    return ndimage.gaussian_filter(noise, (0, *[width] * len(shape))).argmax(0).astype(np.uint8)


def mask(size: int, width: int, first: int) -> np.ndarray:
    """Lines along an axis, 13 voxels apart: their places against the new grid differ for every factor used here."""
    inside = np.zeros(size, np.uint8)
    for start in range(first, size - 5, 13):
        inside[start : start + width] = 1
    return inside


@pytest.mark.parametrize("voxel", [1.0, 1e-4])
def test_voxels_of_microscopes_are_resampled_as_those_of_scanners_are(voxel):
    volume = np.random.default_rng(0).normal(size=(8, 6, 8))
    for factor, shape in ((2, (4, 3, 4)), (1.0009, volume.shape)):
        found, _, affine = resampled(volume, np.zeros(volume.shape), [factor * voxel] * 3, native=[voxel] * 3)
        assert found.shape == shape
        np.testing.assert_allclose(np.diag(affine)[:3], voxel if factor != 2 else 2 * voxel)


@pytest.mark.parametrize("shape", [(23, 30), (12, 17, 14)])
@pytest.mark.parametrize("factor", [0.6, 1.3, 2.0])
def test_images_are_cubic_splines_at_the_places_that_the_affine_says(shape, factor):
    image = 1000 + 300 * np.random.default_rng(0).normal(size=shape)
    spacing = [factor, 0.9 * factor, 1.2 * factor][: len(shape)]
    found, _, affine = resampled(image, np.zeros(shape), spacing)
    places = np.indices(found.shape) * np.reshape(spacing, (-1, *[1] * len(shape)))
    places = places + affine[:-1, -1].reshape(-1, *[1] * len(shape))
    expected = ndimage.map_coordinates(image.astype(np.float32).astype(float), places, order=3, mode="nearest")
    assert found.shape == tuple(round(size / step) for size, step in zip(shape, spacing, strict=True))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 1.5, 1.9, 2.5])
def test_the_grid_lies_about_the_centre(size, factor):
    found, _, affine = resampled(np.zeros((size, size)), np.zeros((size, size)), [factor, factor])
    np.testing.assert_allclose(affine[:2] @ [*(np.array(found.shape) - 1) / 2, 1], [(size - 1) / 2] * 2, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [20, 21, 22, 23, 64])
def test_whole_factors_take_whole_voxels(size, factor):
    image = np.random.default_rng(0).normal(size=(size, size))
    label = blobs((size, size), 3, 1)
    found, classes, affine = resampled(image, label, [factor, factor])
    start = affine[0, -1]
    assert start == round(start)
    chosen = slice(int(start), int(start) + factor * len(found), factor)
    np.testing.assert_allclose(found, image[chosen, chosen], atol=1e-6)
    np.testing.assert_array_equal(classes, label[chosen, chosen])


def oracle(label: np.ndarray, starts: np.ndarray, spacing: float, shape: tuple[int, ...]) -> np.ndarray:
    """Shares of all classes (K, *S), voxel by voxel in float64."""
    shares = np.zeros((label.max() + 1, *shape))
    for place in np.ndindex(shape):
        point = [min(max(starts[a] + spacing * i, 0), label.shape[a] - 1) for a, i in enumerate(place)]
        for side in itertools.product((0, 1), repeat=len(point)):
            corner = [int(np.floor(p)) + s for p, s in zip(point, side, strict=True)]
            weight = np.prod([1 - abs(p - c) for p, c in zip(point, corner, strict=True)])
            if weight > 0:
                shares[(label[tuple(corner)], *place)] += weight
    return shares


@pytest.mark.parametrize(
    ("shape", "factor"), [((40, 37), 0.7), ((40, 37), 1.3), ((15, 18, 13), 0.8), ((15, 18, 13), 1.7)]
)
def test_thick_structures_follow_the_largest_share(shape, factor):
    label = np.zeros(shape, np.uint8)
    label[5:], label[:, 8:], label[4:11, 3:9] = 1, 3, 2
    found, classes, affine = resampled(label, label, [factor] * len(shape))
    shares = oracle(label, affine[:-1, -1], factor, found.shape)
    ranked = np.sort(shares, axis=0)
    sure = ranked[-1] - ranked[-2] > 1e-6
    assert sure.mean() > 0.9
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(classes[sure], shares.argmax(0)[sure])


@pytest.mark.parametrize("factor", [*FACTORS, *COARSER])
@pytest.mark.parametrize(("shape", "width"), [((64, 64), 1), ((64, 61), 3), ((32, 16, 20), 0.7), ((32, 31, 16), 2)])
def test_no_class_is_preferred(factor, shape, width):
    """Classes that change their numbers stay where they are."""
    label = blobs(shape, 4, width)
    renumbered = np.array([2, 3, 1, 0], np.uint8)
    spacing = [factor] * len(shape)
    np.testing.assert_array_equal(relabelled(renumbered[label], spacing), renumbered[relabelled(label, spacing)])


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 2.0, 2.5])
def test_every_voxel_takes_the_class_of_a_voxel_around_it(factor):
    """Also where every voxel is another class: partitions stay partitions."""
    label = np.random.default_rng(0).permutation(240).reshape(12, 20).astype(np.uint8)
    found, classes, affine = resampled(label, label, [factor, factor])
    rows, columns = np.divmod(np.argsort(label.ravel())[classes], 20)
    for places, axis in ((rows, 0), (columns, 1)):
        middle = (affine[axis, -1] + factor * np.arange(found.shape[axis])).clip(0, label.shape[axis] - 1)
        assert np.abs(places - np.expand_dims(middle, 1 - axis)).max() <= 0.5 + 1e-5


def kept(width: int, factor: float, kind: str) -> tuple[float, float]:
    """Share of lines that are there at all, and of their area or volume, over places and sizes."""
    seen = expected_count = volume = expected = 0
    for size, first in itertools.product((128, 129, 195, 256), (4, 5, 6)):
        inside = mask(size, width, first)
        lines = ndimage.label(inside)[1]
        if kind == "line in 2D":
            label, count, cells = inside[:, None].repeat(9, 1), lines, inside.sum() * 9
        elif kind == "sheet in 3D":
            label, count, cells = inside[None, :, None].repeat(6, 0).repeat(6, 2), lines, inside.sum() * 36
        else:
            other = mask(size - 17, width, first + 2)
            label = (inside[:, None] * other)[..., None].repeat(4, 2)
            count, cells = lines * ndimage.label(other)[1], label.sum()
        found = relabelled(label, [factor] * label.ndim)
        extent = np.prod(np.array(found.shape) * factor / label.shape)
        seen, expected_count = seen + ndimage.label(found)[1], expected_count + count
        volume, expected = volume + found.sum() * factor**label.ndim / extent, expected + cells
    return seen / expected_count, volume / expected


@pytest.mark.parametrize("kind", ["line in 2D", "sheet in 3D", "line in 3D"])
@pytest.mark.parametrize("factor", [*FACTORS, *COARSER])
def test_lines_and_sheets_of_two_voxels_keep_their_volume(factor, kind):
    """At most twice as coarse none vanishes; beyond that a voxel of the new grid is thicker than they are."""
    seen, volume = kept(2, factor, kind)
    assert abs(volume - 1) < 0.05
    assert seen == 1 or factor > 2


@pytest.mark.parametrize("kind", ["line in 2D", "sheet in 3D"])
@pytest.mark.parametrize("factor", [*FACTORS, *COARSER])
def test_those_of_one_voxel_do_so_on_average(factor, kind):
    assert abs(kept(1, factor, kind)[1] - 1) < 0.1


@pytest.mark.parametrize("factor", [0.7, 1.3, 1.6])
def test_curved_and_slanted_sheets_keep_their_volume(factor):
    """Shells two voxels thick."""
    volume = expected = 0.0
    for seed in range(12):
        random = np.random.default_rng(seed)
        distance = np.linalg.norm(np.indices((36, 36, 36)).T - random.uniform(15, 20, 3), axis=-1)
        label = (np.abs(distance - random.uniform(8, 12)) < 1).astype(np.uint8)
        volume += relabelled(label, [factor] * 3).sum() * factor**3
        expected += label.sum()
    assert abs(volume / expected - 1) < 0.05


@pytest.mark.parametrize(("factor", "least"), [(0.6, 0.91), (1.2, 0.87), (1.7, 0.93)])
def test_small_balls_stay_round(factor, least):
    """Of radius 3: mean Dice with balls drawn on the new grid; by nearest voxels 0.88, 0.80 and 0.92."""
    scores = []
    for seed in range(12):
        centre = np.random.default_rng(seed).uniform(10, 13, 3)
        label = (np.linalg.norm(np.indices((24, 24, 24)).T - centre, axis=-1) <= 3).T.astype(np.uint8)
        _, found, affine = resampled(label, label, [factor] * 3)
        places = affine[0, -1] + factor * np.indices(found.shape).T
        ball = (np.linalg.norm(places - centre, axis=-1) <= 3).T
        scores.append(2 * (found & ball).sum() / (found.sum() + ball.sum()))
    assert np.mean(scores) > least


@pytest.mark.parametrize("count", [20, 21, 22, 23])
@pytest.mark.parametrize("thickness", [3.0, 4.5, 2.7, 1.0])
def test_thick_slices_are_copies_without_a_drift(count, thickness):
    """1.5 mm become something else, in-plane 0.4 mm stay: each new slice copies the nearest old one."""
    image = np.zeros((8, 8, count)) + np.random.default_rng(0).permutation(count)
    label = blobs((8, 8, count), 3, 1)
    found, classes, affine = resampled(image, label, (0.4, 0.4, thickness), native=[0.4, 0.4, 1.5])
    source = np.argsort(image[0, 0])[np.rint(found[4, 4]).astype(int)]
    np.testing.assert_allclose(found, image[..., source], atol=1e-4)
    np.testing.assert_array_equal(classes, label[..., source])
    off = 1.5 * source - (affine[2, -1] + thickness * np.arange(len(source)))
    assert np.abs(off).max() <= 0.75 + 1e-6
    assert abs(off.mean()) < (1e-6 if thickness in (3.0, 4.5) else 0.76 / len(source))


def test_halves_go_to_both_sides_in_turn():
    positions = np.array([0.5, 1.25, 2.5, 4.4995, 6.5])
    np.testing.assert_array_equal(nearest_voxels(positions), [0, 1, 3, 4, 7])
    np.testing.assert_allclose(beside_halves(positions), positions, atol=1e-3)
    assert not np.any(beside_halves(positions) % 1 == 0.5)


def test_coarse_axis():
    assert coarse_axis(np.array([1, 1, 3.0])) is None
    assert coarse_axis(np.array([1, 1, 3.1])) == 2
    assert coarse_axis(np.array([4, 1, 1.0])) == 0
    assert coarse_axis(np.array([0.2, 1, 1.0])) is None
    assert coarse_axis(np.array([0.7, 0.7, 2.1])) is None, "3 * 0.7 is a little less than 2.1"


MEMORY = """
    from pathlib import Path
    import nibabel as nib, numpy as np
    from dlka_med.config.dataset import Intensity, Preprocessing
    from dlka_med.data.cases import Case
    from dlka_med.data.prepare import prepare

    def peak():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

    def save(name, shape):
        place = sum(np.ix_(*(np.arange(size) // 24 for size in shape)))
        nib.save(nib.Nifti1Image((place % 80 + 100).astype(np.int16), np.eye(4)), f"{name}_0000.nii.gz")
        nib.save(nib.Nifti1Image((place % 80).astype(np.uint8), np.eye(4)), f"{name}.nii.gz")
        return Case(name, (Path(f"{name}_0000.nii.gz"),), Path(f"{name}.nii.gz"))

    small, large = save("small", (20, 20, 20)), save("large", (160, 160, 120))
    settings = Preprocessing(spacing=SPACING, intensity=(Intensity(kind="none"),))
    labels = {str(value): value for value in range(80)}
    prepare(small, settings, ["MRI"], labels)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    found = prepare(large, settings, ["MRI"], labels)
    print((peak() - before) / max(found.label.size, 160 * 160 * 120))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("spacing", [0.8, 1.0, 1.3])
def test_memory_per_voxel_of_the_larger_grid(spacing, tmp_path):
    """Bytes at the peak of preparing, from the files on, image and 80 classes."""
    script = textwrap.dedent(MEMORY).replace("SPACING", f"({spacing},) * 3")
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 20
