import itertools

import pytest

from dlka_med.data.growth import grown


@pytest.mark.parametrize(
    ("progress", "size"),
    [
        (0.0, (24, 32, 8, 9)),
        (0.25, (32, 40, 8, 9)),
        (0.4, (32, 48, 8, 9)),
        (0.5, (40, 48, 8, 9)),
        (0.599, (40, 56, 8, 9)),
        (0.6, (40, 56, 10, 9)),
        (1.0, (40, 56, 10, 9)),
    ],
)
def test_patches_grow_from_half_to_full(progress, size):
    """The third axis has one step between, the last none."""
    assert grown((40, 56, 10, 9), progress, 0.6, (8, 8, 4, 8)) == size


def test_without_growth_they_are_full_from_the_start():
    assert grown((40, 56, 40), 0.0, 0.0, (8, 8, 8)) == (40, 56, 40)


def test_they_never_shrink_and_are_of_whole_units():
    sizes = [grown((41, 57, 33), step / 1000, 1.0, (8, 8, 8)) for step in range(1001)]
    pairs = itertools.pairwise(sizes)
    assert all(a <= b for first, second in pairs for a, b in zip(first, second, strict=True))
    assert (sizes[0], sizes[-1]) == ((24, 32, 16), (41, 57, 33))
    assert {n % 8 for size in sizes[:-100] for n in size} == {0}


def test_the_deepest_map_keeps_two_voxels_per_axis():
    assert grown((32, 64, 16), 0.0, 1.0, (16, 16, 16)) == (32, 32, 16)
