"""Pictures of kernel points: what is drawn is there, where it belongs."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.image import imread

from dlka_med.evaluation.figures_deformation import (
    MOVED,
    Aim,
    Field,
    Ground,
    plot_fields,
    plot_lengths,
    plot_points,
)


def share_of(color, picture):
    return (np.abs(picture[..., :3] - to_rgb(color)).max(-1) < 0.03).mean()


def ground(dims, channels=1):
    labels = np.zeros((20, 30, 12)[:dims], np.uint8)
    labels[5:12, 8:20] = 1
    image = np.random.default_rng(0).random((channels, *labels.shape))
    return Ground(image, labels, {1: "<b>&"}, (1.0, 0.5, 2.0)[:dims])


def aim(dims, groups=1, step=4.0, off=0.0, weight=None):
    """Nine points, of which each group's move `step` along the second axis and `off` along the third."""
    place = (9, 14, 6)[:dims]
    rest = np.array(np.meshgrid((-2, 0, 2), (-2, 0, 2))).reshape(2, -1).T
    start = np.zeros((groups, 9, dims)) + place
    start[..., :2] += rest
    moved = start.copy()
    moved[..., 1] += step
    if dims == 3:
        moved[..., 2] += off
    homes = np.indices((20, 30, 12)[:dims]).astype(float)
    return Aim(place, (1.0,) * dims, start, moved, weight, homes, np.zeros_like(homes))


@pytest.mark.parametrize(("dims", "channels", "groups"), [(2, 1, 1), (2, 3, 4), (3, 1, 2)])
def test_every_group_has_its_colour(tmp_path, dims, channels, groups):
    weight = np.linspace(0, 1, 9 * groups).reshape(groups, 9)
    aims = [aim(dims, groups, weight=None if groups == 1 else weight)]
    plot_points(ground(dims, channels), {"layer": aims, "other": aims}, "$title", tmp_path / "x.png")
    picture = imread(tmp_path / "x.png")
    for group in range(groups - 1, -1, -1):
        shown = share_of(MOVED[group], picture) > 1e-5
        assert shown
    assert [share_of(color, picture) > 1e-5 for color in MOVED[groups:]] == [False] * (4 - groups)


@pytest.mark.parametrize(
    ("codes", "planes"),
    [
        ((), [[]] * 2),
        (("R", "A"), ["P A L R"] * 2),  # rows run down to the right of the body, columns to its front
        (("L", "S", "A"), ["R L S I", "I S A P", "R L A P", "R L S I"]),
    ],
)
def test_letters_say_where_axes_run(tmp_path, monkeypatch, codes, planes):
    """At the left, right, top and bottom; the axes of a volume run up, the rows of a 2D image down."""
    seen = []
    told = "dlka_med.evaluation.figures_deformation.save"
    monkeypatch.setattr(told, lambda figure, path, dpi: seen.extend(figure.axes))
    dims = len(codes) or 2
    plot_points(replace(ground(dims), codes=codes), {"x": [aim(dims)]}, "title", tmp_path / "x.png")
    for axes, wanted in zip(seen, planes, strict=True):
        at = {tuple(np.round(text.get_position(), 1)): text.get_text() for text in axes.texts}
        found = [at[place] for place in ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0)) if place in at]
        assert found == (wanted.split() if codes else [])
    if dims == 3:
        titles = [axes.get_title().partition(",")[0] for axes in seen[1:]]
        assert titles == ["sagittal 9", "axial 14", "coronal 6"]


def test_the_legend_of_a_narrow_picture_is_whole(tmp_path, monkeypatch):
    figures = []
    told = "dlka_med.evaluation.figures_deformation.save"
    monkeypatch.setattr(told, lambda figure, path, dpi: figures.append(figure))
    plot_points(ground(2), {"x": [aim(2, groups=4)]}, "title", tmp_path / "x.png")
    (figure,) = figures
    figure.savefig(tmp_path / "x.png")
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_points_off_the_slice_are_faint(tmp_path):
    for name, off in (("on", 0.4), ("off", 3.0)):
        plot_points(ground(3), {"layer": [aim(3, off=off)]}, "", tmp_path / f"{name}.png")
    on, off = (share_of(MOVED[0], imread(tmp_path / f"{name}.png")) for name in ("on", "off"))
    assert off < 0.8 * on


def test_histograms_of_layers_and_labels(tmp_path):
    lengths = {"a": {"all": np.arange(9.0), "b": np.arange(3.0), "none": np.empty(0)}, "c": {"all": np.zeros(4)}}
    plot_lengths(lengths, "mm", tmp_path / "x.png")
    assert np.ptp(imread(tmp_path / "x.png")) > 0.5


def test_a_layer_without_positions_says_so(tmp_path, monkeypatch):
    """As in a volume of one slice, where all kernels of a coarse layer stand outside."""
    figures = []
    told = "dlka_med.evaluation.figures_deformation.save"
    monkeypatch.setattr(told, lambda figure, path, dpi: figures.append(figure))
    plot_lengths({"a": {"all": np.empty(0), "b": np.empty(0)}, "c": {"all": np.ones(4)}}, "mm", tmp_path / "x.png")
    empty, full = figures[0].axes
    (text,) = empty.texts
    assert "no kernel of this layer stands in the image" in text.get_text()
    figures[0].draw_without_rendering()
    inside = empty.get_window_extent().extents
    box = text.get_window_extent().extents
    assert (box[:2] >= inside[:2]).all()
    assert (box[2:] <= inside[2:]).all()
    assert not empty.patches
    assert [text.get_text() for legend in figures[0].legends for text in legend.get_texts()] == ["all"]
    assert not full.texts


def test_values_of_a_region_share_a_colour_and_a_name(tmp_path, monkeypatch):
    """Also where it is called as something else of the picture."""
    figures = []
    told = "dlka_med.evaluation.figures_deformation.save"
    monkeypatch.setattr(told, lambda figure, path, dpi: figures.append(figure))
    labels = ground(2).labels.copy()
    labels[5:12, 12:16], labels[12:15, 8:20] = 2, 3
    shown = replace(ground(2), labels=labels, names={1: "place", 2: "core", 3: "place"})
    plot_points(shown, {"x": [aim(2)]}, "title", tmp_path / "x.png")
    (legend,) = figures[0].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["kernel point at rest", "where it reads", "place", "place", "core"]
    told = [to_rgb(line.get_color()) for line in legend.get_lines()[-2:]]
    drawn = [
        to_rgb(one.get_edgecolor()[0, :3]) for one in figures[0].axes[0].collections if isinstance(one, ContourSet)
    ]
    assert drawn == told


def test_names_are_no_formulas(tmp_path):
    """Of layers, labels and cases alike: a picture is drawn, with what was written."""
    name = r"_$\foo$ &"
    plot_points(replace(ground(2), names={1: name}), {name: [aim(2)]}, name, tmp_path / "points.svg")
    plot_lengths({name: {"all": np.arange(9.0), name: np.arange(3.0)}}, "mm", tmp_path / "lengths.svg")
    for picture, times in (("points", 3), ("lengths", 2)):
        text = (tmp_path / f"{picture}.svg").read_text(encoding="utf-8")
        assert text.count(r">_$\foo$ &amp;") == times


def test_names_that_no_font_has_are_not_warned_of(tmp_path):
    plot_points(ground(2), {"layer": [aim(2)]}, "\U0010abcd", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dims", [2, 3])
def test_fields_and_their_circles(tmp_path, dims):
    place, shape = (9, 14, 6)[:dims], (16, 16, 8)[:dims]
    seen = np.zeros(shape)
    seen[tuple(n // 2 for n in shape)] = 1
    field = Field(
        place, tuple(at - n // 2 for at, n in zip(place, shape, strict=True)), seen, 0 * seen, 3.0, float("nan")
    )
    plot_fields(ground(dims), [field, field], tmp_path / "x.png")
    picture = imread(tmp_path / "x.png")
    third = picture.shape[1] // 3
    bright = [
        np.abs(picture[40:, part : part + third, :3] - to_rgb("#fcfdbf")).max(-1).min() for part in (third, 2 * third)
    ]
    assert bright[0] < 0.1 < bright[1]
    plot_fields(ground(dims), [field], tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert ">as it is: 95 % within 3.0 mm<" in text
    assert ">all offsets zero: no gradient<" in text
