import pytest
from matplotlib.figure import Figure

from dlka_med.evaluation.marks import directions, draw_marks, round_length


@pytest.mark.parametrize(("extent", "length"), [(21, 5), (30, 10), (35, 10), (3.1, 1), (512, 100), (1.5, 0.5)])
def test_a_bar_is_round_and_at_most_a_third(extent, length):
    assert round_length(extent) == pytest.approx(length)


@pytest.mark.parametrize("extent", [0.013, 0.7, 6, 59, 61, 149, 151, 99999])
def test_a_bar_is_never_short(extent):
    assert extent / 7.6 < round_length(extent) <= extent / 3 * (1 + 1e-6)


def test_letters_say_where_the_axes_of_ras_end():
    assert directions(2) == {"left": "L", "right": "R", "bottom": "P", "top": "A"}
    assert directions(1) == {"left": "L", "right": "R", "bottom": "I", "top": "S"}
    assert directions(0) == {"left": "P", "right": "A", "bottom": "I", "top": "S"}


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_marks_lie_in_the_slice(axis, flipped):
    """The bar is as long as it says, and stands at the foot; a 2D image has no letters."""
    axes = Figure(figsize=(4, 3)).subplots()
    axes.set(xlim=(0, 40), ylim=(30, 0) if flipped else (0, 30))
    draw_marks(axes, 40, 30, "mm", axis, "white", "black")
    (bar,) = axes.lines
    (start, end), heights = bar.get_data()
    assert end - start == 10
    below = [axes.transAxes.inverted().transform(axes.transData.transform((0, height)))[1] for height in heights]
    assert max(below) < 0.1
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["10 mm", *(() if axis is None else directions(axis).values())]
