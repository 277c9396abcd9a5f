"""Calibration against loops that follow the definitions."""

import itertools
import math

import numpy as np
import pytest

from dlka_med.metrics import Reliability, near_foreground


def bin_of(confidence, bins):
    """m of the bin ((m - 1) / M, m / M] that holds the confidence; 0 lies in the first."""
    return next(m for m in range(bins) if confidence <= (m + 1) / bins)


def by_definition(probabilities, labels, target=None, bins=15):
    """ECE, MCE, NLL and Brier score, voxel by voxel."""
    held = [[] for _ in range(bins)]
    nll = brier = 0.0
    for voxel, label in enumerate(labels):
        chances = [float(row[voxel]) for row in probabilities]
        said = max(range(len(chances)), key=chances.__getitem__) if target is None else target
        held[bin_of(chances[said], bins)].append((chances[said], said == label))
        nll -= math.log(chances[label]) / len(labels)
        brier += sum((chance - (k == label)) ** 2 for k, chance in enumerate(chances)) / len(labels)
    gaps = [abs(sum(c for c, _ in one) / len(one) - sum(r for _, r in one) / len(one)) for one in held if one]
    shares = [len(one) / len(labels) for one in held if one]
    return sum(g * s for g, s in zip(gaps, shares, strict=True)), max(gaps), nll, brier


def random_voxels(classes=4, voxels=300, seed=0):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.4), voxels).T
    return probabilities, random.integers(0, classes, voxels)


def figures(found):
    return found.ece, found.mce, found.nll, found.brier


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("target", [None, 0, 3])
def test_figures_follow_the_definitions(target, bins):
    probabilities, labels = random_voxels()
    found = Reliability.of(probabilities, labels, target=target, bins=bins)
    assert figures(found) == pytest.approx(by_definition(probabilities, labels, target, bins))
    assert found.total == 300


def test_cases_joined_are_all_voxels_at_once():
    probabilities, labels = random_voxels()
    whole = Reliability.of(probabilities, labels)
    parts = [Reliability.of(probabilities[:, p], labels[p]) for p in (slice(0, 7), slice(7, 200), slice(200, None))]
    joined = sum(parts, Reliability.empty())
    assert figures(joined) == pytest.approx(figures(whole))
    np.testing.assert_array_equal(joined.voxels, whole.voxels)


def test_a_weight_stands_for_as_many_voxels():
    (few, few_labels), (many, many_labels) = random_voxels(voxels=40), random_voxels(voxels=90, seed=1)
    weighed = Reliability.of(few, few_labels, weight=3) + Reliability.of(many, many_labels)
    repeated = Reliability.of(np.hstack([few] * 3 + [many]), np.concatenate([few_labels] * 3 + [many_labels]))
    assert figures(weighed) == pytest.approx(figures(repeated))


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (0.2, 0), (0.2000001, 1), (0.4, 1), (0.6, 2), (1.0, 4)])
def test_a_border_belongs_to_the_bin_below(confidence, place):
    found = Reliability.of(np.array([[1 - confidence], [confidence]]), np.array([1]), target=1, bins=5)
    assert found.voxels.nonzero()[0].tolist() == [place]


@pytest.mark.parametrize("bins", [3, 7, 10, 15])
def test_every_edge_belongs_to_the_bin_below(bins):
    edges = np.arange(1, bins + 1) / bins
    found = Reliability.of(np.stack([1 - edges, edges]), np.ones(bins, int), target=1, bins=bins)
    assert found.voxels.tolist() == [1] * bins


def test_calibrated_probabilities_have_no_error():
    """Of ten voxels with a confidence of 0.7, seven are right."""
    probabilities = np.array([[0.7] * 10, [0.3] * 10])
    found = Reliability.of(probabilities, np.array([0] * 7 + [1] * 3))
    assert found.ece == pytest.approx(0, abs=1e-12)
    assert Reliability.of(probabilities, np.array([1] * 10)).ece == pytest.approx(0.7)
    confidence, accuracy = found.means
    assert (np.nanmax(confidence), np.nanmax(accuracy)) == pytest.approx((0.7, 0.7))
    assert np.isnan(confidence).sum() == 14


def test_no_voxel_has_no_figure():
    found = Reliability.of(np.empty((3, 0)), np.empty(0, int))
    assert figures(found) == figures(Reliability.empty()) == (None,) * 4
    assert found.total == 0


def test_one_class_is_always_right():
    assert figures(Reliability.of(np.ones((1, 5)), np.zeros(5, int))) == (0, 0, 0, 0)


def test_what_is_ignored_counts_nowhere():
    probabilities, labels = random_voxels()
    ignored = labels.copy()
    ignored[::3] = 255
    found = Reliability.of(probabilities, ignored, ignore_index=255)
    kept = ignored != 255
    assert figures(found) == pytest.approx(by_definition(probabilities[:, kept], labels[kept]))
    assert figures(Reliability.of(probabilities, np.full(300, 255), ignore_index=255)) == (None,) * 4


def test_a_probability_of_nothing_is_finite():
    found = Reliability.of(np.array([[1.0], [0.0]]), np.array([1]))
    assert 700 < found.nll < 710
    assert (found.ece, found.brier) == (1, 2)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 3)), np.zeros(2, int), r"\(K, N\)"),
        (np.ones(3), np.zeros(3, int), r"\(K, N\)"),
        (np.ones((2, 3)), np.array([0, 1, 2]), "below 2"),
        (np.full((2, 1), 1.5), np.array([0]), "between 0 and 1"),
        (np.full((2, 1), np.nan), np.array([0]), "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        Reliability.of(probabilities, labels)


@pytest.mark.parametrize("shape", [(9, 12), (7, 9, 8)])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_near_is_within_the_margin_along_every_axis(shape, margin):
    random = np.random.default_rng(0)
    prediction, reference = (random.random((2, *shape)) < 0.01).astype(bool)
    prediction.flat[0] = True  # at the border
    given = prediction.copy()
    foreground = np.argwhere(prediction | reference)
    expected = np.zeros(shape, bool)
    for voxel in itertools.product(*map(range, shape)):
        expected[voxel] = (np.abs(foreground - voxel).max(axis=1) <= margin).any()
    np.testing.assert_array_equal(near_foreground(prediction, reference, margin), expected)
    np.testing.assert_array_equal(prediction, given)


def test_nothing_is_near_nothing():
    empty = np.zeros((4, 5), bool)
    assert not near_foreground(empty, empty).any()
    with pytest.raises(ValueError, match="margin"):
        near_foreground(empty, empty, -1)
