"""Back to the native grid: exact where grids coincide, linear interpolation elsewhere."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from dlka_med.inference import restore as module
from dlka_med.inference.restore import restore

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
    monkeypatch.setattr(module, "SLAB_VOXELS", slab)
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
