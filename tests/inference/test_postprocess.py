"""Steps on label maps against the same steps voxel by voxel, and against answers known by sight."""

import tracemalloc

import numpy as np
import pytest

from dlka_med.config.labels import LabelScheme
from dlka_med.inference import components
from dlka_med.inference.postprocess import Step, postprocess, voxel_volume
from tests.brute_force import done_to

PLAIN = LabelScheme.of({"background": 0, "organ": 1, "tumour": 5})
NESTED = LabelScheme.of({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "live": 3}, [1, 2, 3])
CROSSED = LabelScheme.of({"background": 0, "left": [1, 2], "right": [2, 3], "edge": [1, 4]}, [1, 3, 4])
SCHEMES = {"plain": PLAIN, "nested": NESTED, "crossed": CROSSED}
VOXEL = 0.7 * 1.2 * 3
STEPS = [
    [Step("largest")],
    [Step("minimum", None, 4 * VOXEL)],
    [Step("largest", 0)],
    [Step("minimum", 1, 3.5 * VOXEL)],
    [Step("holes", 0)],
    [Step("holes", 1)],
    [Step("largest"), Step("largest", 1), Step("minimum", 0, 2.5 * VOXEL), Step("holes", 1), Step("holes", 0)],
]


def random_map(scheme, shape, seed):
    """Small and large pieces of every class, which enclose one another; with even seeds in two halves."""
    random = np.random.default_rng(seed)
    classes = np.where(random.random(shape) < (0.08, 0.35)[seed % 2], random.integers(1, len(scheme.values), shape), 0)
    coarse = random.integers(0, len(scheme.values), [size // 3 + 1 for size in shape])
    for axis, size in enumerate(shape):
        coarse = coarse.repeat(3, axis).take(range(size), axis)
    solid = random.random(shape) < 0.75
    if seed % 2 == 0:
        solid[shape[0] // 2 : shape[0] // 2 + 2] = False
    return np.where(solid, coarse, classes).astype(np.uint8)


@pytest.mark.parametrize("rows", [2**22, 30])
@pytest.mark.parametrize("shape", [(13, 11), (7, 9, 8)])
@pytest.mark.parametrize("steps", STEPS, ids=range(len(STEPS)))
@pytest.mark.parametrize("name", SCHEMES)
def test_steps_do_what_they_do_voxel_by_voxel(name, steps, shape, rows, monkeypatch):
    monkeypatch.setattr(components, "AT_ONCE", rows)
    scheme = SCHEMES[name]
    steps = [Step(s.kind, None if s.label is None else scheme.names[s.label], s.volume) for s in steps]
    painted = scheme.painted or [index for (index,) in scheme.targets.values()]
    changed = 0
    for seed in range(4):
        classes = random_map(scheme, shape, seed)
        before, expected = classes.copy(), classes
        for step in steps:
            expected = done_to(expected, step.kind, step.label, step.volume, VOXEL, scheme.targets, painted)
        assert np.array_equal(postprocess(classes, steps, scheme, VOXEL), expected)
        assert np.array_equal(classes, before)
        changed += (expected != before).any()
    assert changed


def test_the_largest_organ_stays_and_tumours_are_left_alone():
    classes = np.array([[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 2, 0]], np.uint8)
    found = postprocess(classes, [Step("largest", "organ")], PLAIN)
    assert found.tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [0, 0, 2, 0]]


def test_the_foreground_is_one_whatever_its_labels():
    classes = np.array([[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [2, 2, 0, 1]], np.uint8)
    found = postprocess(classes, [Step("largest")], PLAIN)
    assert found.tolist() == [[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_of_two_largest_the_first_stays():
    assert postprocess(np.array([[1, 0, 1]], np.uint8), [Step("largest", "organ")], PLAIN).tolist() == [[1, 0, 0]]


def test_holes_are_filled_where_they_are_background():
    ring = np.array([[1, 1, 1, 1], [1, 0, 2, 1], [1, 1, 1, 1], [1, 0, 1, 1]], np.uint8)
    found = postprocess(ring, [Step("holes", "organ")], PLAIN)
    assert found.tolist() == [[1, 1, 1, 1], [1, 1, 2, 1], [1, 1, 1, 1], [1, 0, 1, 1]]


def test_a_region_without_its_island_is_what_lies_around():
    classes = np.array([[3, 3, 1, 3, 1, 2]], np.uint8)
    assert postprocess(classes, [Step("largest", "live")], NESTED).tolist() == [[3, 3, 1, 2, 1, 2]]
    assert postprocess(classes, [Step("largest", "core")], NESTED).tolist() == [[3, 3, 1, 1, 1, 1]]


def test_what_is_left_of_a_region_is_seen_by_the_next_step():
    """The island of the right side stays one of the left, by a class that was nowhere before."""
    classes = np.array([[3, 3, 0, 2, 0, 4, 4, 4]], np.uint8)
    steps = [Step("largest", "right"), Step("largest", "edge")]
    assert postprocess(classes, steps[:1], CROSSED).tolist() == [[3, 3, 0, 1, 0, 4, 4, 4]]
    assert postprocess(classes, steps, CROSSED).tolist() == [[3, 3, 0, 0, 0, 4, 4, 4]]


def test_volumes_are_those_of_the_grid():
    """Three voxels of 2.5 mm^3 are less than 8 mm^3, four are not."""
    affine = np.diag([0.5, 1, 5, 1]) @ np.array([[0, 1, 0, 9], [1, 0, 0.3, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    assert voxel_volume(affine) == pytest.approx(2.5)
    assert voxel_volume(np.eye(3)) == 1
    classes = np.zeros((9, 3, 1), np.uint8)
    classes[:3, 0], classes[5:, 0] = 1, 1
    found = postprocess(classes, [Step("minimum", "organ", 8.0)], PLAIN, voxel_volume(affine))
    assert found[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_an_empty_map_stays_empty(scheme):
    steps = [Step("largest"), Step("minimum", scheme.names[0], 3), Step("holes", scheme.names[1])]
    assert not postprocess(np.zeros((3, 4, 5), np.uint8), steps, scheme).any()


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="no label 'liver'; known are organ, tumour"):
        postprocess(np.zeros((3, 4), np.uint8), [Step("largest", "liver")], PLAIN)


def test_memory_holds_few_bytes_per_voxel(monkeypatch):
    """Two maps of a byte, a number of four, a mask: nothing is indexed by all numbers at once."""
    monkeypatch.setattr(components, "AT_ONCE", 2**16)
    classes = np.zeros((128, 96, 80), np.uint8)
    classes[1:-1, 1:-1, 1:-1] = 1
    classes[::7, ::5, ::3] = 0
    steps = [Step("largest", "organ"), Step("minimum", "organ", 50.0), Step("holes", "organ")]
    tracemalloc.start()
    postprocess(classes, steps, PLAIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9.5 * classes.size
