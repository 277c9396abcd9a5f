"""Back to the native grid: exact where grids coincide, linear interpolation elsewhere."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.cases import Case
from dlka_med.data.prepare import prepare
from dlka_med.data.resample import resample
from dlka_med.inference import pieces as module
from dlka_med.inference.decision import Decision
from dlka_med.inference.pieces import WayBack
from dlka_med.inference.restore import restore, restore_slabs

ORIENTATIONS = ["RAS", "LPS", "PIR", "SLA", "ASR"]
NATIVE = (9, 7, 11)


def one_hot(classes: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(np.eye(count, dtype=np.float32)[classes]).movedim(-1, 0).contiguous()


def oblique_affine(codes: str = "RAS", spacing=(0.7, 1.3, 2.5)) -> np.ndarray:
    """A rotated scanner grid whose axes are nearest to `codes`."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [9, -14, 11], degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 101.0)
    flip = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), NATIVE)
    return (affine @ flip).astype(np.float32).astype(float)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("shifted", [False, True])
def test_reorientation_and_crop_are_undone_exactly(codes, shifted):
    native_affine = oblique_affine(codes)
    classes = np.random.default_rng(0).integers(0, 5, NATIVE).astype(np.uint8)
    image = nib.as_closest_canonical(nib.Nifti1Image(classes, native_affine))
    canonical, affine = np.asarray(image.dataobj), image.affine
    box = (slice(2, 6), slice(0, 5), slice(1, canonical.shape[2])) if shifted else (slice(None),) * 3
    starts = np.array([part.start or 0 for part in box])
    prepared_affine = affine @ nib.affines.from_matvec(np.eye(3), starts)
    expected = np.zeros_like(canonical)
    expected[box] = canonical[box]
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(native_affine))
    expected = nib.orientations.apply_orientation(expected, back)

    found = restore(one_hot(canonical[box], 5), prepared_affine, native_affine, NATIVE)

    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_whole_grid_comes_back_as_it_was():
    classes = np.random.default_rng(1).integers(0, 200, NATIVE).astype(np.uint8)
    affine = oblique_affine()
    np.testing.assert_array_equal(restore(one_hot(classes, 200), affine, affine, NATIVE), classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_equal_logits_the_first_class_counts(dtype):
    logits = np.random.default_rng(0).integers(-2, 3, (6, 3, 300, 70))
    given = torch.from_numpy(logits).to(dtype).requires_grad_()
    found = restore(given, np.eye(4), np.eye(4), (3, 300, 70))
    np.testing.assert_array_equal(found, logits.argmax(0))


def reference(logits: torch.Tensor, to_prepared: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Classes and the margin of the likeliest, by scipy and with all classes at once."""
    dims = len(shape)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(dims, -1)
    points = to_prepared[:dims, :dims] @ voxels + to_prepared[:dims, -1:]
    size = np.array(logits.shape[1:])[:, None]
    margin = np.where(np.isclose(points, points.round()).all(1), 0.5, 0.75)[:, None]
    outside = ((points < -margin) | (points > size - 1 + margin)).any(0)
    probabilities = logits.softmax(0).double().numpy()
    values = np.stack([map_coordinates(p, points.clip(0, size - 1), order=1) for p in probabilities])
    ranked = np.sort(values, axis=0)
    classes = np.where(outside, 0, values.argmax(0)).reshape(shape)
    return classes, np.where(outside, 1, ranked[-1] - ranked[-2]).reshape(shape)


CASES = [(dims, codes) for dims, codes in itertools.product((2, 3), ("plain", "permuted", "flipped"))]


@pytest.mark.parametrize(("dims", "change"), CASES)
@pytest.mark.parametrize("zoom", [(1.7, 0.6, 1.0), (0.45, 2.3, 3.1)])
@pytest.mark.parametrize("slab", [2**24, 50])
def test_resampled_grids_agree_with_scipy(dims, change, zoom, slab, monkeypatch):
    monkeypatch.setattr(module, "SLAB_NUMBERS", slab)
    prepared_shape, native_shape = (8, 11, 6)[:dims], (13, 9, 15)[:dims]
    matrix, shift = np.diag(zoom[:dims]), np.array([0.3, -1.2, 0.8])[:dims]
    if change == "permuted":
        matrix = matrix[:, ::-1]
    if change == "flipped":
        matrix, shift = -matrix, np.array(prepared_shape) - 1.3
    to_prepared = np.block([[matrix, shift[:, None]], [np.zeros(dims), 1]])
    spacing = np.array(zoom[:dims]) ** -0.5  # no axis of either grid is so coarse that its slices were copied
    turned = np.array([[0, spacing[1], 5], [-spacing[0], 0, 7], [0, 0, 1]])
    prepared_affine = oblique_affine(spacing=spacing) if dims == 3 else turned
    logits = 3 * torch.randn(4, *prepared_shape, generator=torch.Generator().manual_seed(0))
    expected, margin = reference(logits, to_prepared, native_shape)

    found = restore(logits, prepared_affine, prepared_affine @ to_prepared, native_shape)

    assert found.shape == native_shape
    sure = margin > 1e-5
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert len(np.unique(found)) == 4


def test_rare_and_unlikely_classes_are_not_lost():
    """A class that wins with little more than 1/K is found in spite of the shortcut for absent classes."""
    logits = torch.zeros(10, 6, 6, 6)
    logits[7] += 0.01
    affine = np.eye(4)
    native = np.diag([0.5, 0.5, 0.5, 1])
    found = restore(logits, affine, native, (11, 11, 11))
    assert (found == 7).all()


@pytest.mark.parametrize("size", [7, 10, 11, 12, 13])
@pytest.mark.parametrize("spacing", [0.8, 1.5, 3.1, 5.0])
def test_rounding_the_length_of_a_resampled_grid_loses_no_edge(size, spacing):
    """Grids resampled about the image's centre, as in preprocessing: every native voxel keeps its class."""
    length = max(1, round(size / spacing))
    prepared = np.diag([spacing, spacing, spacing, 1])
    prepared[:3, 3] = (size - 1) / 2 - spacing * (length - 1) / 2
    logits = torch.zeros(2, length, length, length)
    logits[1] = 1
    assert restore(logits, prepared, np.eye(4), (size,) * 3).all()


def perfect(size: int, middle: float, spacing: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    """How far (mm) an ellipsoid moves, its centre and its faces across the slices, whose grey values are the logits."""
    shape = (22, 23, size)
    places = np.indices(shape)
    offsets = [(axis - c) / r for axis, c, r in zip(places, (10.3, 11.4, middle), (8, 8, 7), strict=True)]
    depth = 6 - 6 * np.sqrt(sum(offset**2 for offset in offsets))
    affine = np.diag([*spacing, 1.0])
    image = MetaTensor(torch.from_numpy(depth[None].astype(np.float32)), affine=torch.from_numpy(affine))
    image, _ = resample(image, None, np.array(target))
    logits = image.as_tensor()
    found = restore(torch.cat([-logits, logits]), image.affine.numpy(), affine, shape) > 0
    truth = depth > 0
    centres = [np.array([places[axis][mask].mean() for axis in range(3)]) for mask in (found, truth)]
    both = found.any(2) & truth.any(2)
    tops = [mask[both].argmax(-1).mean() for mask in (found, truth)]
    ends = [mask[both][:, ::-1].argmax(-1).mean() for mask in (found, truth)]
    drift = ((tops[0] - tops[1]) - (ends[0] - ends[1])) / 2  # of both faces the same way
    return np.abs([*(centres[0] - centres[1]) * spacing, drift * spacing[2]])


@pytest.mark.parametrize("size", [30, 41])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.1, 1.25, 1.5, 1.9, 2, 2.1])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 1.5), (0.4, 0.4, 0.4)])
def test_a_perfect_prediction_comes_back_in_its_place(size, factor, spacing):
    """Thick slices at another spacing, or all axes at another: copies and splines alike, at even and odd counts."""
    target = (0.4, 0.4, 1.5 * factor) if spacing[2] == 1.5 else (0.4 * factor,) * 3
    moved = np.array([perfect(size, size / 2 + shift, spacing, target) for shift in (-4.2, -1.7, 0.1, 0.5, 2.4, 3.8)])
    assert moved.mean(0).max() < 0.05
    assert moved.max() < 0.1


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 1.5), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5, 2.0])
@pytest.mark.parametrize("size", [24, 25])
def test_no_class_is_preferred_on_the_way_back(spacing, factor, size):
    """Hard predictions, which tie where a native voxel lies in the middle between two: neither class grows."""
    runs = np.random.default_rng(0).integers(3, 12, 10 * size)
    line = np.repeat(np.arange(len(runs)) % 2, runs)[: 40 * size + size % 2]
    label = np.broadcast_to(line.astype(np.uint8), (3, 3, len(line))).copy()
    affine = np.diag([*spacing, 1.0])
    kept = []
    for classes in (label, 1 - label):
        case = [MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(affine)) for array in (classes,) * 2]
        image, moved = resample(case[0].float(), case[1], np.array([*spacing[:2], spacing[2] * factor]))
        hard = 20 * one_hot(moved.numpy()[0], 2)
        kept.append(restore(hard, image.affine.numpy(), affine, label.shape))
    np.testing.assert_array_equal(kept[0], 1 - kept[1])
    assert abs(kept[0].mean() / label.mean() - 1) < 0.06


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_label_at_its_own_spacing_comes_back_as_it_was(codes, tmp_path):
    classes = np.random.default_rng(0).integers(0, 3, NATIVE).astype(np.uint8)
    image = np.ones(NATIVE, np.float32)
    image[:2], classes[:2] = 0, 0
    for name, array in (("image", image), ("label", classes)):
        nib.save(nib.Nifti1Image(array, oblique_affine(codes)), tmp_path / f"{name}.nii")
    spacing = np.linalg.norm(nib.as_closest_canonical(nib.load(tmp_path / "label.nii")).affine[:3, :3], axis=0)
    settings = Preprocessing(spacing=tuple(spacing.tolist()), intensity=(Intensity(kind="none"),))
    case = Case("a", (tmp_path / "image.nii",), tmp_path / "label.nii")
    found = prepare(case, settings, ["MRI"], {"background": 0, "a": 1, "b": 2})
    back = restore(one_hot(found.label, 3), found.affine, found.native_affine, found.native_shape)
    np.testing.assert_array_equal(back, classes)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("thickness", [0.9, 2.0, 2.7, 3.0, 4.0])
def test_thick_slices_go_back_to_where_they_were_copied_from(flip, thickness):
    """Every prepared slice holds the number of the native one; where one was copied, its own class returns."""
    count = 22
    affine = np.diag([0.4, 0.4, 1.5, 1])
    number = np.arange(count, dtype=np.uint8)
    label = np.broadcast_to(number, (3, 3, count))
    image = MetaTensor(torch.from_numpy(label[None].astype(np.float32)), affine=torch.from_numpy(affine))
    classes = MetaTensor(torch.from_numpy(label[None].copy()), affine=torch.from_numpy(affine))
    image, classes = resample(image, classes, np.array([0.4, 0.4, thickness]))
    turn = np.diag([1.0, 1, flip, 1])
    turn[2, 3] = 0 if flip == 1 else count - 1
    found = restore(one_hot(classes.numpy()[0], count), image.affine.numpy(), affine @ turn, (3, 3, count))
    found = found[..., ::flip]
    copied = np.unique(classes.numpy())
    assert len(copied) == min(count, classes.shape[-1])
    np.testing.assert_array_equal(found[..., copied], label[..., copied])


def test_no_voxel_in_common_is_all_background():
    far = np.eye(4)
    far[:3, 3] = 100.3
    for native in (far, np.diag([0.5, 0.5, 0.5, 1]) + far - np.eye(4)):
        assert not restore(torch.ones(2, 3, 3, 3), np.eye(4), native, (4, 4, 4)).any()


def test_caller_keeps_the_logits():
    logits = torch.randn(3, 4, 5, 6)
    before = logits.clone()
    restore(logits, np.eye(4), np.diag([0.7, 0.7, 0.7, 1]), (5, 6, 7))
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "affine", "shape", "message"),
    [
        ((2, 4, 4, 4), oblique_affine(), (4, 4, 4), "not parallel"),
        ((2, 4, 4, 4), np.zeros((4, 4)), (4, 4, 4), "cannot be inverted"),
        ((2, 4, 4, 4), np.eye(3), (4, 4, 4), "shape"),
        ((2, 4, 4, 4), np.eye(4), (4, 4), "native_shape"),
        ((257, 2, 2, 2), np.eye(4), (2, 2, 2), "256"),
    ],
)
def test_what_does_not_fit_is_refused(logits, affine, shape, message):
    with pytest.raises(ValueError, match=message):
        restore(torch.zeros(logits), np.eye(4), affine, shape)


@pytest.mark.parametrize("along", [0, 1, 2])
@pytest.mark.parametrize("steps", [(1,), (2, 3, 1), (100,)])
@pytest.mark.parametrize("painted", [None, (3, 1, 4, 2)])
@pytest.mark.parametrize("grid", ["whole", "finer", "coarser", "thick", "flipped"])
def test_slabs_along_any_axis_give_what_the_whole_gives(along, steps, painted, grid, monkeypatch):
    """Each slab is overwritten before the next comes, as those of windows are."""
    prepared_shape, affine = (8, 11, 6), oblique_affine("PIR", spacing=(1.0, 1.3, 0.9))
    if grid == "thick":
        affine = oblique_affine(spacing=(0.5, 0.6, 2.5))
    scale = {"whole": (1, 1, 1), "finer": (0.4, 0.7, 0.55), "coarser": (1.7, 2.4, 1.2)}.get(grid, (0.8, 0.9, 0.6))
    to_prepared = np.diag([*scale, 1.0])
    to_prepared[:3, 3] = (1, -1, 0) if grid == "whole" else (0.4, -0.3, 0.2)
    if grid == "flipped":
        to_prepared[:3] = [[0, -0.9, 0, 7.1], [0.8, 0, 0, 0.1], [0, 0, -0.7, 5.2]]
    logits = 3 * torch.randn(4, *prepared_shape, generator=torch.Generator().manual_seed(0))
    grids = affine, affine @ to_prepared, (10, 13, 9)
    monkeypatch.setattr(module, "SLAB_NUMBERS", 2000)

    def slabs():
        start, sizes = 0, itertools.cycle(steps)
        while start < prepared_shape[along]:
            part = logits.movedim(along + 1, 1)[:, start : start + next(sizes)].clone()
            yield start, part
            start += part.shape[1]
            part.fill_(torch.nan)

    found = restore_slabs(slabs(), WayBack(along, prepared_shape, *grids), Decision(painted))
    np.testing.assert_array_equal(found, restore(logits, *grids, painted))
    assert len(np.unique(found)) == 4 + (painted is not None)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_regions_are_painted_over_each_other(scale):
    """Where grids coincide by the sign of each logit, elsewhere by interpolated sigmoids, against SciPy."""
    logits = np.random.default_rng(0).normal(size=(3, *NATIVE)).astype(np.float32)
    affine, native_affine = np.eye(4), np.diag([scale, scale, scale, 1])
    shape = tuple(int(size / scale) for size in NATIVE)
    places = np.stack(np.meshgrid(*[np.arange(size) * scale for size in shape], indexing="ij"))
    expected = np.zeros(shape, np.uint8)
    for index, region in zip((2, 4, 1), 1 / (1 + np.exp(-logits)), strict=True):
        found = map_coordinates(region.astype(np.float64), places, order=1, mode="nearest")
        expected[found > 0.5] = index
    found = restore(torch.from_numpy(logits), affine, native_affine, shape, painted=(2, 4, 1))
    assert (found == expected).mean() > 0.999
    with pytest.raises(ValueError, match="3 regions in the logits, but 2 class indices"):
        restore(torch.from_numpy(logits), affine, native_affine, shape, painted=(2, 4))
