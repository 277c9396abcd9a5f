import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice

from dlka_med.metrics import CONVENTIONS, surface_distances
from tests.metrics.masks_at_random import ball, blobs, box

EMPTY = np.zeros((8, 40), bool)
FULL = box((8, 40), (2, 2), (6, 12))
SPACING = (2.0, 3.0)

# Two rows of 10 pixels in one line, 4 apart: 6 of each overlap, the ends are 1, 2, 3 and 4 pixels away.
REFERENCE, PREDICTION = box((8, 40), (2, 2), (3, 12)), box((8, 40), (2, 6), (3, 16))
LINES = [0] * 6 + [1, 2, 3, 4]


def score(name, prediction, reference, tolerance=1.0):
    return CONVENTIONS[name].score(prediction, reference, SPACING, tolerance)


@pytest.mark.parametrize(
    ("name", "missed", "false_positive", "both_empty"),
    [
        ("synapse-2d", {"dice": 0, "hd95": 0}, {"dice": 1, "hd95": 0}, {"dice": 0, "hd95": 0}),
        ("brats", {"dice": 0, "hd95": 373.12866}, {"dice": 0, "hd95": 373.12866}, {"dice": 1, "hd95": 0}),
        ("decathlon", {"dice": 0, "nsd": 0}, {"dice": 0, "nsd": 0}, {"dice": None, "nsd": None}),
        ("nnunet", {"dice": 0, "iou": 0}, {"dice": 0, "iou": 0}, {"dice": None, "iou": None}),
    ],
)
def test_empty_masks(name, missed, false_positive, both_empty):
    assert score(name, EMPTY, FULL) == pytest.approx(missed)
    assert score(name, FULL, EMPTY) == pytest.approx(false_positive)
    assert score(name, EMPTY, EMPTY) == both_empty


def test_two_lines_by_hand():
    """Synapse pools, and counts voxels: the 19.05th of ranks 0 to 19 is 4. BraTS takes one direction, in mm."""
    assert score("synapse-2d", PREDICTION, REFERENCE) == pytest.approx({"dice": 0.6, "hd95": 4})
    assert score("brats", PREDICTION, REFERENCE) == pytest.approx({"dice": 0.6, "hd95": 3 * (3 + 0.55)})
    assert score("decathlon", PREDICTION, REFERENCE, 6) == pytest.approx({"dice": 0.6, "nsd": 16 / 20})
    assert score("nnunet", PREDICTION, REFERENCE) == pytest.approx({"dice": 0.6, "iou": 6 / 14})


def test_pooling_hides_what_is_far_from_few_voxels_of_one_surface():
    """A speck beside a long line: 1 of 20 voxels of one side is 20 away, of the pool of 39 it is 1."""
    reference = box((8, 40), (2, 0), (3, 19))
    prediction = reference | box((8, 40), (2, 39), (3, 40))
    distances = [0] * 19 + [21]
    assert score("synapse-2d", prediction, reference)["hd95"] == pytest.approx(np.percentile(distances + [0] * 19, 95))
    assert score("brats", prediction, reference)["hd95"] == pytest.approx(3 * np.percentile(distances, 95))
    assert score("synapse-2d", prediction, reference)["hd95"] == 0


def test_synapse_ignores_the_spacing_and_pools_the_distances():
    prediction, reference = blobs((11, 9, 13), 5)
    found = CONVENTIONS["synapse-2d"].score(prediction, reference, (0.7, 0.7, 5.0), 1.0)
    pooled = np.concatenate(surface_distances(prediction, reference, (1, 1, 1)))
    assert found["hd95"] == pytest.approx(np.percentile(pooled, 95))


def test_the_nsd_of_the_decathlon_differs_from_that_weighed_by_area_as_told():
    """MONAI's patches of area are those of the Decathlon's code; at two voxel diagonals the share differs little."""
    spacing = (1.0, 1.0, 2.5)
    masks = [ball((40, 40, 16), centre, radius, spacing) for centre, radius in (((20, 20, 8), 13), ((22, 21, 8), 12))]
    tolerance = 2 * math.hypot(*spacing)
    tensors = [torch.tensor(mask)[None, None].float() for mask in masks]
    for share, allowed in ((0.5, 0.15), (1, 0.1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            area = compute_surface_dice(
                *tensors, [share * tolerance], include_background=True, spacing=spacing, use_subvoxels=True
            ).item()
        found = CONVENTIONS["decathlon"].score(*masks, spacing, share * tolerance)["nsd"]
        assert found == pytest.approx(area, abs=allowed)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_each_tells_its_rule_and_source_and_returns_its_metrics(name):
    convention = CONVENTIONS[name]
    assert convention.rule.endswith(".")
    assert any(str(year) in convention.source for year in range(2017, 2026))
    for prediction in (FULL, EMPTY):
        assert tuple(convention.score(prediction, FULL, SPACING, 1.0)) == convention.metrics


@pytest.mark.parametrize("name", CONVENTIONS)
def test_wrong_masks_are_named(name):
    with pytest.raises(TypeError, match="boolean"):
        score(name, FULL.astype(int), FULL)
    with pytest.raises(ValueError, match="shape"):
        score(name, FULL[1:], FULL)
