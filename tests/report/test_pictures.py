import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dlka_med.evaluation.figures import UNKNOWN, Panel
from dlka_med.report import pictures
from dlka_med.report.bands import BANDS
from dlka_med.report.outlines import outline
from dlka_med.report.pictures import OUTLINES, SIDE, SLICES, planes_of

from .test_outlines import filled

LABELS = {"front": 3, "back": 7}


def strip(plane):
    """Decoded picture, (slices, rows, columns)."""
    written = base64.b64decode(plane.uri.removeprefix("data:image/webp;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(written)).convert("L"))
    assert pixels.shape == (plane.rows * len(plane.numbers), plane.columns)
    return pixels.reshape(len(plane.numbers), plane.rows, plane.columns)


def panel(shape=(23, 31, 19), spacing=(1.0, 2.0, 4.0)):
    reference = np.zeros(shape, np.uint8)
    reference[6:12, 8:20, 5:13] = 3
    reference[12:16, 8:20, 5:13] = 7
    prediction = np.roll(reference, 1, axis=0)
    image = np.zeros((1, *shape), np.float32)
    image[0, -2:, -2:, -2:] = 1  # right, front, top
    return Panel("case", image, reference, prediction, spacing)


def test_the_planes_of_a_volume_are_seen_as_their_letters_say():
    """The bright corner lies right, front and top."""
    axial, coronal, sagittal = planes_of(panel(), LABELS)
    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    corners = {"axial": ("A", "R"), "coronal": ("S", "R"), "sagittal": ("S", "A")}
    for plane in (axial, coronal, sagittal):
        last = strip(plane)[-1]
        assert last[0, -1] == 255
        assert last[-1, 0] == 0
        assert (plane.letters["top"], plane.letters["right"]) == corners[plane.name]
    assert axial.height == pytest.approx(100 * 31 * 2 / 23)
    assert sagittal.height == pytest.approx(100 * 19 * 4 / (31 * 2))


def test_outlines_are_those_of_the_slice_that_is_named():
    made = panel()
    axial = planes_of(made, LABELS)[0]
    for place, number in enumerate(axial.numbers):
        reference, prediction = (one[:, :, number].T[::-1] for one in (made.reference, made.prediction))
        assert axial.reference[place] == [outline(reference == value) for value in (3, 7)]
        assert axial.prediction[place] == [outline(prediction == value) for value in (3, 7)]
        both = (reference > 0) & (prediction > 0) & (reference != prediction)
        missed, false = (reference > 0) & (prediction == 0), (reference == 0) & (prediction > 0)
        assert axial.errors[place] == [outline(missed), outline(false), outline(both)]
    assert axial.total == 19
    assert any(axial.errors[axial.start])


def test_nothing_is_an_error_where_the_reference_says_nothing():
    """And the voxels that it leaves out belong to no label and do not widen the picture."""
    made = panel()
    reference = made.reference.astype(int)
    reference[:, 14:] = UNKNOWN
    some = replace(made, reference=reference)
    for plane, axis in zip(planes_of(some, LABELS), (2, 1, 0), strict=True):
        for place, number in enumerate(plane.numbers):
            seen, prediction = (one.take(number, axis).T[::-1] for one in (reference, made.prediction))
            missed, false = (seen > 0) & (prediction == 0), (seen == 0) & (prediction > 0)
            both = (seen > 0) & (prediction > 0) & (seen != prediction)
            assert plane.errors[place] == [outline(missed), outline(false), outline(both)]
            assert plane.reference[place] == [outline(seen == value) for value in (3, 7)]
    (none,) = planes_of(
        Panel("none", np.zeros((1, 60, 90)), np.full((60, 90), UNKNOWN), np.zeros((60, 90), int)), LABELS
    )
    assert none.errors == [["", "", ""]]
    assert [plane.total for plane in planes_of(some, LABELS)] == [plane.total for plane in planes_of(made, LABELS)]
    assert [p.rows for p in planes_of(some, LABELS)] == [p.rows for p in planes_of(made, LABELS)]


def test_uncertainty_is_that_of_the_slice_that_is_named():
    """In each slice the voxels from a band on are those that its outline holds, enlarged or not."""
    made = panel()
    entropy = np.zeros(made.reference.shape, np.float32)
    entropy[5:9, 9:14, 4:16], entropy[6:8, 10:13, 7:9] = 0.6, 1.2
    for plane, axis in zip(planes_of(replace(made, uncertainty=entropy), LABELS), (2, 1, 0), strict=True):
        rows, columns = (factor // size for factor, size in zip(plane.uncertainty.grid, plane.grid, strict=True))
        assert (rows, columns) == (3, 3)
        for place, number in enumerate(plane.numbers):
            seen = entropy.take(number, axis).T[::-1]
            for start, path in zip(BANDS, plane.uncertainty.paths[place], strict=True):
                middles = filled(path, plane.uncertainty.grid)[1::3, 1::3]
                assert (middles == (seen >= start)).all()
        assert plane.moving["uncertainty"] == plane.uncertainty.paths
    assert all("uncertainty" not in plane.moving for plane in planes_of(made, LABELS))


def test_numbers_stand_in_their_labels():
    made = panel()
    for plane, axis in zip(planes_of(made, LABELS), (2, 1, 0), strict=True):
        for place, number in enumerate(plane.numbers):
            reference, prediction = (one.take(number, axis).T[::-1] for one in (made.reference, made.prediction))
            seen = reference if reference.any() else prediction
            for x, y, tag in plane.tags[place]:
                row, column = int(y / 100 * seen.shape[0]), int(x / 100 * seen.shape[1])
                assert seen[row, column] == (3, 7)[tag - 1]
    assert len(planes_of(made, LABELS)[0].tags[5]) == 2
    assert planes_of(made, {"one": 3})[0].tags[5] == []


def test_large_volumes_become_small():
    shape = (500, 40, 70)
    reference = np.zeros(shape, np.uint8)
    reference[20:480, 10:30, 10:60] = 3
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    for plane in planes_of(Panel("large", image, reference, reference, (1.0, 1.0, 1.0)), LABELS):
        assert max(plane.rows, plane.columns) <= SIDE[3]
        assert len(plane.numbers) <= SLICES + 1
        assert plane.numbers[plane.start] in plane.numbers
        assert strip(plane).std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(50, 51, 30), (300, 310)])
def test_crowded_slices_stay_small(shape):
    """Outlines of noise become coarser and fewer, and lie where they were."""
    reference = np.random.default_rng(0).choice([0, 3, 7], shape).astype(np.uint8)
    made = Panel("noise", np.zeros((1, *shape), np.float32), reference, reference, (1.0,) * len(shape))
    for plane in planes_of(made, LABELS):
        told = sum(
            len(path) for kind in (plane.reference, plane.prediction, plane.errors) for one in kind for path in one
        )
        assert told < 1.3 * OUTLINES
        assert plane.grid[0] < plane.rows or len(plane.numbers) < min(plane.total, SLICES)
        reached = max(int(x) for path in plane.reference[0] for x in re.findall(r"M(\d+) ", path))
        assert reached / 2 > 0.9 * plane.grid[1]


def test_coarse_outlines_lie_where_the_picture_is(monkeypatch):
    """A number of pixels that is no multiple of those of which one counts."""
    monkeypatch.setattr(pictures, "OUTLINES", 0)
    reference = np.random.default_rng(0).choice([0, 7], (47, 47, 9)).astype(np.uint8)
    reference[30:45] = 3
    made = Panel("noise", np.zeros((1, *reference.shape), np.float32), reference, reference, (1.0,) * 3)
    axial = planes_of(made, LABELS)[0]
    assert (axial.columns, axial.grid) == (47, (7, 7))
    ((path, _),) = axial.reference
    _, columns = np.nonzero(filled(path, axial.grid))
    assert columns.min() / 7 == pytest.approx(30 / 47, abs=0.5 / 7)
    assert (columns.max() + 1) / 7 == pytest.approx(45 / 47, abs=0.5 / 7)


def test_far_surroundings_are_cut_away():
    shape = (100, 90, 80)
    reference = np.zeros(shape, np.uint8)
    reference[40:60, 40:60, 40:60] = 3
    made = Panel("x", np.zeros((1, *shape), np.float32), reference, reference, (1.0,) * 3)
    axial = planes_of(replace(made, uncertainty=(reference > 0).astype(np.float32)), LABELS)[0]
    assert (axial.rows, axial.columns) == (44, 44)  # 12 voxels on either side
    assert (axial.numbers[0], axial.numbers[-1], axial.total) == (28, 71, 80)
    seen = filled(axial.uncertainty.paths[axial.start][2], axial.uncertainty.grid)[1::3, 1::3]
    assert (seen == filled(axial.reference[axial.start][0], axial.grid)).all()


def test_a_2d_image_stands_as_it_is():
    image = np.zeros((3, 20, 31), np.float32)
    image[0, 0, -1] = 1
    label = np.zeros((20, 31), np.uint8)
    label[3:9, 4:8] = 3
    (plane,) = planes_of(Panel("flat", image, label, np.zeros_like(label), (1.0, 1.0)), LABELS)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(plane.uri.partition(",")[2]))))
    assert picture[0, -1].tolist() == [255, 0, 0]
    assert (plane.name, plane.letters, plane.bar) == ("", {}, (10 / 31, "10 px"))
    assert plane.errors == [[outline(label == 3), "", ""]]


def test_a_case_without_structures_is_shown_whole():
    nothing = np.zeros((9, 8, 7), np.uint8)
    planes = planes_of(Panel("empty", np.zeros((1, 9, 8, 7), np.float32), nothing, nothing, (1.0,) * 3), LABELS)
    assert [plane.numbers for plane in planes] == [tuple(range(7)), tuple(range(8)), tuple(range(9))]
    assert planes[0].start == 3


def test_a_single_slice_has_one_plane():
    label = np.zeros((9, 8, 1), np.uint8)
    label[2:5, 2:5] = 3
    planes = planes_of(Panel("thin", np.zeros((1, 9, 8, 1), np.float32), label, label, (1.0,) * 3), LABELS)
    assert [(plane.name, plane.numbers) for plane in planes] == [("axial", (0,))]
