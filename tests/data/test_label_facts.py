"""Values of label maps and the sizes of what they mark."""

import numpy as np
import pytest

from dlka_med.data.case_facts import FileFacts
from dlka_med.data.label_facts import MAX_VALUES, colour_facts, label_facts

FILE = FileFacts("label.nii.gz")


@pytest.mark.parametrize("lowest", [0, -3])
@pytest.mark.parametrize("shape", [(9, 10), (7, 8, 9)])
def test_voxels_and_boxes_are_counted(shape, lowest):
    label = np.random.default_rng(0).integers(lowest, 6, shape).astype(np.float32)
    facts = label_facts(FILE, label)
    values, counts = np.unique(label, return_counts=True)
    assert facts.voxels == dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    for entry in facts.values:
        if entry.value:
            places = np.argwhere(label == entry.value)
            assert entry.extent == tuple(np.ptp(places, axis=0) + 1)
    assert (facts.unlisted, facts.fractional, facts.not_finite) == (0, 0, 0)


def test_runs_are_the_longest_unbroken_rows():
    label = np.zeros((8, 9, 10), np.uint8)
    label[1:7, 2, 3] = 1
    label[1, 2:5, 3] = 1
    label[1, 7, [0, 1, 3, 4, 5, 6, 8]] = 1
    [_, entry] = label_facts(FILE, label).values
    assert (entry.runs, entry.components) == ((6, 3, 4), 4)


def test_what_is_no_whole_number_is_counted_apart():
    label = np.array([[0, 1, 1.5, np.nan], [np.inf, 1.00001, 1e9, 2]], np.float32)
    facts = label_facts(FILE, label)
    assert facts.voxels == {0: 1, 1: 2, 2: 1}
    assert (facts.fractional, facts.not_finite) == (2, 2)


def test_an_image_is_no_endless_list_of_values():
    label = np.arange(4000, dtype=np.uint16).reshape(40, 100)
    facts = label_facts(FILE, label)
    assert len(facts.values) == MAX_VALUES
    assert facts.unlisted == 4000 - MAX_VALUES


def test_colours_are_counted():
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1, :2] = (255, 0, 16)
    assert colour_facts(FILE, pixels).colours == (("#000000", 18), ("#ff0010", 2))


def test_the_digest_is_of_values_and_size_alone():
    label = np.random.default_rng(0).integers(0, 3, (7, 8, 9), dtype=np.uint8)
    other = label.copy()
    other[3, 3, 3] += 1
    digest = label_facts(FILE, label).digest
    assert digest == label_facts(FILE, np.asfortranarray(label.astype(np.float32))).digest
    assert digest not in ("", label_facts(FILE, other).digest, label_facts(FILE, label.reshape(7, 9, 8)).digest)
    half, quarter = np.full((2, 2), 0.5, np.float32), np.full((2, 2), 0.25, np.float32)
    assert label_facts(FILE, half).digest != label_facts(FILE, quarter).digest
    pixels = np.zeros((4, 5, 3), np.uint8)
    assert colour_facts(FILE, pixels).digest != colour_facts(FILE, pixels + np.uint8(1)).digest
