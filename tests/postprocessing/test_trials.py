"""What a trial tells is what comes out when its steps are done."""

import numpy as np
import pytest

from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.inference import components
from dlka_med.inference.postprocess import Step, boxes_of, postprocess
from dlka_med.postprocessing.choice import steps_of
from dlka_med.postprocessing.learn import stages_of
from dlka_med.postprocessing.trials import Family, HeldMap, confusion, try_family
from tests.brute_force import flood

SCHEMES = {
    "plain": LabelScheme.of({"background": 0, "organ": 1, "tumour": 5, "ignore": 9}),
    "nested": LabelScheme.of({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "live": 3, "ignore": 9}, [1, 2, 3]),
    "crossed": LabelScheme.of({"background": 0, "left": [1, 2], "right": [2, 3], "ignore": 9}, [1, 3]),
}


def pair(scheme, shape, seed):
    """A reference of which some is unknown, and a prediction that differs from it here and there."""
    random = np.random.default_rng(seed)
    reference = random.integers(0, len(scheme.values), [size // 3 + 1 for size in shape])
    for axis, size in enumerate(shape):
        reference = reference.repeat(3, axis).take(range(size), axis)
    reference[shape[0] // 2] = 0
    prediction = np.where(random.random(shape) < 0.15, random.integers(0, len(scheme.values), shape), reference)
    prediction[random.random(shape) < 0.2] = 0
    reference = np.where(random.random(shape) < 0.2, IGNORED, reference)
    return prediction.astype(np.uint8), reference.astype(np.uint8)


def dice(prediction, reference, members):
    known = reference != IGNORED
    ours, theirs = (np.isin(one, members) & known for one in (prediction, reference))
    return 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) if ours.any() or theirs.any() else 1


def tried(family, scheme, prediction, reference):
    return try_family(family, prediction, reference, scheme, boxes_of(prediction), confusion(prediction, reference))


@pytest.mark.parametrize("rows", [2**22, 25])
@pytest.mark.parametrize("shape", [(17, 11), (9, 5, 7)])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_dice_of_every_step_is_foretold(name, shape, rows, monkeypatch):
    monkeypatch.setattr(components, "AT_ONCE", rows)
    scheme, voxel, changed = SCHEMES[name], 2.5, set()
    for seed in range(3):
        prediction, reference = pair(scheme, shape, seed)
        for family in (one for stage in stages_of(scheme) for one in stage):
            trial = tried(family, scheme, prediction, reference)
            names = family.scored(scheme)
            for step in [None, *steps_of(family, [trial], [voxel])]:
                after = prediction if step is None else postprocess(prediction, [step], scheme, voxel)
                taken = np.zeros(len(trial.sizes), bool) if step is None else step.takes(trial.sizes, voxel)
                expected = [dice(after, reference, scheme.targets[one]) for one in names]
                np.testing.assert_allclose(trial.dice(taken), expected, rtol=1e-12)
                others = set(scheme.names) - set(names)
                for one in others:
                    mask = [scheme.mask(one, classes) for classes in (prediction, after)]
                    assert np.array_equal(*mask)
                if (after != prediction).any():
                    changed.add((family, step.kind))
    assert {kind for _, kind in changed} == {"largest", "minimum", "holes"}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("label", [None, 0, 1])
def test_true_components_touch_the_reference_and_false_ones_do_not(name, label):
    scheme = SCHEMES[name]
    prediction, reference = pair(scheme, (19, 13), seed=2)
    label = None if label is None else scheme.names[label]
    members = range(1, len(scheme.values)) if label is None else scheme.targets[label]
    wanted, known = np.isin(reference, members), reference != IGNORED
    found = {"true": [], "false": []}
    for part in flood(np.isin(prediction, members), corners=True):
        if any(wanted[place] for place in part):
            found["true"].append(len(part))
        elif any(known[place] for place in part):
            found["false"].append(len(part))
    trial = tried(Family(label), scheme, prediction, reference)
    for kind, sizes in found.items():
        counted = getattr(trial, kind)
        assert counted.sum() == len(sizes)
        if label is not None:
            assert sorted(np.repeat(trial.sizes, counted)) == sorted(sizes)
    goes = Step("largest", label).takes(trial.sizes, 1)
    known_ones = len(found["true"]) + len(found["false"])
    assert (trial.true + trial.false)[goes].sum() == known_ones - 1


def test_what_is_empty_on_both_sides_counts_as_right():
    scheme = SCHEMES["plain"]
    reference, prediction = np.zeros((2, 5, 6), np.uint8)
    trial = tried(Family("organ"), scheme, prediction, reference)
    assert trial.dice(np.zeros(1, bool)).tolist() == [1]
    prediction[2, 3] = 1
    trial = tried(Family("organ"), scheme, prediction, reference)
    assert trial.dice(np.array([False, False])).tolist() == [0]
    assert trial.dice(np.array([False, True])).tolist() == [1]


@pytest.mark.parametrize("shape", [(17, 11), (9, 5, 7)])
def test_a_map_that_is_kept_small_tells_the_same(shape):
    scheme = SCHEMES["plain"]
    prediction, reference = pair(scheme, shape, seed=0)
    wide = [np.pad(one, 4) for one in (prediction, reference)]
    held = HeldMap(*wide, voxel=1, patient="ann")
    assert held.prediction.shape == held.reference.shape
    assert all(size <= old for size, old in zip(held.prediction.shape, shape, strict=True))
    steps = [Step("largest", "organ"), Step("holes", "organ")]
    held.change(steps, scheme)
    expected = postprocess(wide[0], steps, scheme)
    for name in scheme.names:
        members = scheme.targets[name]
        assert dice(held.prediction, held.reference, members) == dice(expected, wide[1], members)


def test_an_empty_map_is_kept():
    held = HeldMap(*np.zeros((2, 4, 5, 3), np.uint8), voxel=1, patient="ann")
    assert held.prediction.shape == (1, 1, 1)
    assert not held.prediction.any()
