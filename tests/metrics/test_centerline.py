import sys

import numpy as np
import pytest

from dlka_med.errors import InputError
from dlka_med.metrics import cldice
from dlka_med.metrics.centerline import skeleton
from tests.metrics.definitions import components
from tests.metrics.masks_at_random import PAIRS, box

skimage = pytest.importorskip("skimage", reason='NOT TESTED: pip install "dlka_med[metrics]"')


def padded_skeleton(mask):
    """By scikit-image alone, far from the border of the image."""
    around = skimage.morphology.skeletonize(np.pad(mask, 3)).astype(bool)
    return around[(slice(3, -3),) * mask.ndim]


@pytest.fixture(params=[2, 3])
def tube(request):
    """A straight one, 5 wide and 40 long, along the first axis."""
    return box((46, *(15,) * (request.param - 1)), (3, *(5,) * (request.param - 1)), (43, *(10,) * (request.param - 1)))


def test_a_tube_against_itself(tube):
    assert cldice(tube, tube.copy()) == 1


def test_a_thinner_tube_has_the_same_centre_line(tube):
    thin = np.zeros_like(tube)
    thin[(slice(3, 43), *(slice(6, 9),) * (tube.ndim - 1))] = True
    assert cldice(thin, tube) == 1


def test_a_broken_tube_loses_the_gap(tube):
    """Of the whole tube's centre line, 36 voxels long or more, 10 lie in the gap; what is left lies in the tube."""
    broken = tube.copy()
    broken[20:30] = False
    length = skeleton(tube).sum()
    assert 36 <= length <= 40
    share = (length - 10) / length
    assert cldice(broken, tube) == pytest.approx(2 * share / (1 + share))
    assert cldice(tube, broken) == cldice(broken, tube)


def test_a_tube_displaced_beyond_its_radius_shares_nothing(tube):
    """5 wide, its centre line is 2 from its sides; a few voxels at the ends of that in 2D bend away."""
    assert [cldice(np.roll(tube, shift, axis=1), tube) for shift in (1, 2)] == pytest.approx([1, 1], abs=0.05)
    assert cldice(np.roll(tube, 3, axis=1), tube) < 0.05
    assert cldice(np.roll(tube, 4, axis=1), tube) == 0


def test_agrees_with_the_definition():
    for pair in PAIRS:
        masks = pair.prediction, pair.reference
        if not (masks[0].any() and masks[1].any()):
            assert cldice(*masks) == (0 if masks[0].any() or masks[1].any() else None)
            continue
        shares = []
        for mask, other in (masks, masks[::-1]):
            line = list(zip(*np.nonzero(skeleton(mask)), strict=True))
            shares.append(sum(bool(other[voxel]) for voxel in line) / len(line))
        expected = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0
        assert cldice(*masks) == pytest.approx(expected, abs=1e-12)


def test_the_skeleton_is_that_of_scikit_image_with_a_voxel_for_each_component_without():
    lost = 0
    for mask in (pair.reference for pair in PAIRS if pair.reference.any()):
        found, lines = skeleton(mask), padded_skeleton(mask)
        assert not (found & ~mask).any()
        for component in components(mask):
            places = tuple(np.array(sorted(component)).T)
            if lines[places].any():
                np.testing.assert_array_equal(found[places], lines[places])
            else:
                lost += 1
                assert found[places].sum() == 1
    assert lost


def test_a_blob_is_its_middle():
    cube = box((9, 9, 9), (2, 2, 2), (6, 6, 6))
    assert not skimage.morphology.skeletonize(cube).any()
    assert [set(places) <= {3, 4} for places in np.nonzero(skeleton(cube))] == [True] * 3
    assert cldice(cube, cube) == 1


@pytest.mark.parametrize("module", ["skimage", "skimage.morphology"])
def test_without_the_package_the_extra_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    monkeypatch.setitem(sys.modules, module, None)
    mask = np.ones((4, 4), bool)
    with pytest.raises(InputError, match=r'pip install "dlka_med\[metrics\]"'):
        cldice(mask, mask)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="2D or 3D masks, got 1D"):
        cldice(np.ones(4, bool), np.ones(4, bool))
    with pytest.raises(TypeError, match="boolean"):
        cldice(np.ones((4, 4)), np.ones((4, 4), bool))
