"""Network, spacing, window and strides, against what can be counted by hand."""

from math import inf, prod

import numpy as np
import pytest

from dlka_med.data.resample import keeps_spacing
from dlka_med.planning.choice import Choice
from dlka_med.planning.rules_grid import (
    DOWNSAMPLING,
    coarse_axis,
    coarser_spacing,
    full_spacing,
    network_and_plane,
    patch_and_strides,
    stage_strides,
    window,
    window_axes,
    window_voxels,
)
from dlka_med.planning.summary import Structure


def test_volumes_are_seen_whole_and_images_as_they_are(summary):
    assert [choice.value for choice in network_and_plane(summary(), None)] == ["dlka_net_3d", None]
    assert [choice.value for choice in network_and_plane(summary((256, 256), (1.0, 1.0)), None)] == [
        "dlka_unet",
        None,
    ]


def test_where_it_can_be_afforded_images_get_the_published_network(summary):
    for data, name in ((summary((256, 256), (1.0, 1.0)), "dlka_net_2d"), (summary(), "dlka_net_3d")):
        assert network_and_plane(data, None, published=True)[0].value == name
        assert network_and_plane(data, "dlka_unet", published=True)[0].value == "dlka_unet"


@pytest.mark.parametrize(("thick", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_few_thick_slices_are_seen_one_by_one(summary, thick, plane):
    size, spacing = [200] * 3, [0.5] * 3
    size[thick], spacing[thick] = 9, 7.5
    name, slices = network_and_plane(summary(tuple(size), tuple(spacing)), None)
    assert (name.value, slices.value) == ("dlka_unet", plane)
    assert window_axes(summary(tuple(size), tuple(spacing)), plane) == tuple(a for a in range(3) if a != thick)
    name, slices = network_and_plane(summary(tuple(size), tuple(spacing)), "dlka_net_3d")
    assert (name.value, slices.value) == ("dlka_net_3d", None)


@pytest.mark.parametrize(("flat", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
@pytest.mark.parametrize(("voxels", "mm"), [(1, 1.0), (1, 0.2), (7, 1.0), (5, 3.0)])
def test_an_axis_of_very_few_voxels_is_no_depth_whatever_its_spacing(summary, flat, plane, voxels, mm):
    size, spacing = [96] * 3, [1.0] * 3
    size[flat], spacing[flat] = voxels, mm
    thin = summary(tuple(size), tuple(spacing))
    for wanted in (None, "dlka_net_2d"):
        name, slices = network_and_plane(thin, wanted)
        assert (name.value, slices.value) == (wanted or "dlka_unet", plane)
        assert "by far the fewest voxels" in slices.reason
    assert [choice.value for choice in network_and_plane(thin, "dlka_net_3d")] == ["dlka_net_3d", None]


def test_few_voxels_beat_long_ones(summary):
    name, slices = network_and_plane(summary((96, 80, 1), (1.0, 5.0, 1.0)), None)
    assert (name.value, slices.value) == ("dlka_unet", "axial")


@pytest.mark.parametrize("size", [(7, 6, 5), (24, 24, 8), (27, 40, 7), (2, 2, 2)])
def test_small_volumes_are_volumes(summary, size):
    assert network_and_plane(summary(size), None)[0].value == "dlka_net_3d"


@pytest.mark.parametrize(
    ("size", "spacing", "plane"),
    [
        ((24, 24, 16), (1.0, 1.0, 1.0), "axial"),
        ((24, 16, 24), (1.0, 1.0, 1.0), "coronal"),
        ((24, 24, 24), (1.0, 1.0, 1.0), "axial"),
        ((24, 24, 16), (1.0, 1.001, 0.999), "axial"),  # equal but for rounding
        ((24, 24, 16), (1.0, 1.2, 1.0), "coronal"),
        ((24, 20, 16), (2.0, 2.0, 1.0), "coronal"),
        ((20, 20, 300), (1.0, 1.0, 1.0), "coronal"),
        ((200, 9, 12), (0.5, 7.5, 7.5), "coronal"),
    ],
)
def test_slices_lie_across_long_voxels_then_across_few_then_axial(summary, size, spacing, plane):
    assert network_and_plane(summary(size, spacing), "dlka_net_2d")[1].value == plane


@pytest.mark.parametrize("wanted", ["dlka_unet", "unet", "dynunet", "segresnet", "swin_unetr", "mednext"])
def test_networks_of_any_dims_follow_the_data(summary, wanted):
    for data, plane in (
        (summary(), None),
        (summary((256, 256), (1.0, 1.0)), None),
        (summary((200, 200, 9), (0.5, 0.5, 7.5)), "axial"),
        (summary((1, 96, 96), (1.0, 1.0, 1.0)), "sagittal"),
    ):
        name, slices = network_and_plane(data, wanted)
        assert (name.value, name.reason, slices.value) == (wanted, "asked for", plane)


def test_a_network_of_2d_sees_slices(summary):
    assert [choice.value for choice in network_and_plane(summary(), "timm_unet")] == ["timm_unet", "sagittal"]
    assert [choice.value for choice in network_and_plane(summary((64, 64), (1.0, 1.0)), "timm_unet")] == [
        "timm_unet",
        None,
    ]
    # That is told, not planned.
    assert network_and_plane(summary((64, 64), (1.0, 1.0)), "dlka_net_3d")[0].value == "dlka_unet"


def test_many_thick_slices_stay_a_volume(summary):
    assert network_and_plane(summary((300, 300, 40), (0.7, 0.7, 5.0)), None)[0].value == "dlka_net_3d"


def test_the_median_spacing_is_taken(summary):
    spacings = ((0.7, 0.7, 1.0), (0.8, 0.8, 1.5), (0.9, 0.9, 2.0))
    assert full_spacing(summary(cases=3, spacings=spacings)).value == (0.8, 0.8, 1.5)
    assert full_spacing(summary((64, 64), (1.0, 1.0))).value is None


def test_nothing_is_resampled_where_that_is_said(summary):
    def keeps(*spacings):
        choice = full_spacing(summary(cases=len(spacings), spacings=spacings))
        kept = all(keeps_spacing(np.array(one), np.array(choice.value)) for one in spacings)
        assert kept == ("nothing is resampled" in choice.reason)
        return kept

    assert keeps((0.78125, 0.78125, 12.3456), (0.78125, 0.78125, 12.3460))
    assert not keeps((1.0, 1.0, 1.0), (1.0, 1.0, 1.005), (1.0, 1.0, 1.005))


def test_axes_that_become_no_coarser_keep_their_spacing(summary):
    body = summary((500, 500, 60), (0.5, 0.5, 8.1234))
    coarse = coarser_spacing(body, full_spacing(body), (0, 1, 2), 10**6, ())
    assert coarse.value[0] > 0.5
    assert coarse.value[2] == 8.1234


def test_thick_slices_keep_the_thin_ones_of_their_spacing(summary):
    spacings = tuple((0.5, 0.5, thick) for thick in (2.0, 3.0, 4.0, 5.0, 6.0))
    assert full_spacing(summary(cases=5, spacings=spacings)).value == (0.5, 0.5, 2.4)  # 10th percentile
    # Even if some are finer than the pixels, no slice becomes thinner than these.
    odd = tuple((1.0, 1.0, thick) for thick in (0.2, 0.2, 4.0, 4.0, 4.0))
    assert full_spacing(summary(cases=5, spacings=odd)).value == (1.0, 1.0, 1.0)


def test_a_window_that_covers_little_makes_the_grid_coarser(summary):
    body = summary((500, 500, 600), (0.8, 0.8, 1.0))
    full = full_spacing(body)
    thick = (Structure("organ", 20, 0.01, (100.0,) * 3, 1.0, 100.0),)
    coarse = coarser_spacing(body, full, (0, 1, 2), 10**6, thick)
    size = body.size_at(coarse.value)
    assert 0.24 < 10**6 / prod(size) < 0.26
    assert coarse.value[0] == coarse.value[2]  # the finest axes first, then all
    assert "coarser than 0.8x0.8x1" in coarse.reason
    # The structures bound it: five voxels stay.
    thin = (Structure("vessel", 20, 0.01, (100.0,) * 3, 1.0, 6.0),)
    assert coarser_spacing(body, full, (0, 1, 2), 10**6, thin).value == (1.2, 1.2, 1.2)
    finest = (Structure("nerve", 20, 0.01, (100.0,) * 3, 1.0, 2.0),)
    assert coarser_spacing(body, full, (0, 1, 2), 10**6, finest) == full
    assert coarser_spacing(body, full, (0, 1, 2), 10**8, thick) == full


def test_photographs_become_coarser_in_pixels(summary):
    photographs = summary((1000, 1000), (1.0, 1.0), channels=("R", "G", "B"))
    coarse = coarser_spacing(photographs, Choice(None, ""), (0, 1), 40_000, photographs.present[:0])
    assert coarse.value == (2.5, 2.5)  # 400 x 400, of which 40 000 are a quarter


def test_only_the_plane_of_slices_becomes_coarser(summary):
    slices = summary((1000, 1000, 9), (0.5, 0.5, 7.5))
    coarse = coarser_spacing(slices, full_spacing(slices), (0, 1), 40_000, ())
    assert coarse.value == (1.25, 1.25, 7.5)


def test_a_window_is_equally_long_in_mm_and_no_larger_than_the_case():
    assert window((35, 51, 36), (1, 1, 1), inf) == (35, 51, 36)
    found = window((500, 500, 200), (0.75, 0.75, 3.0), 10**6)
    assert prod(found) == pytest.approx(10**6, rel=1e-6)
    assert [n * mm for n, mm in zip(found, (0.75, 0.75, 3.0), strict=True)] == pytest.approx([found[0] * 0.75] * 3)
    assert window((400, 400, 10), (1, 1, 5.0), 64_000)[2] == pytest.approx(10)


@pytest.mark.parametrize(
    ("size", "spacing", "strides"),
    [
        ((35, 51, 36), (1, 1, 1), ((2, 2, 2),) * 3),
        ((128, 128, 64), (0.76, 0.76, 3.0), ((4, 4, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))),
        ((64, 64, 9), (0.5, 0.5, 7.5), ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))),
        ((16, 16, 3), (1, 1, 1), ((2, 2, 1), (2, 2, 1))),
        ((5, 5, 5), (1, 1, 1), ((1, 1, 1), (1, 1, 1))),
    ],
)
def test_strides_follow_spacing_and_size(size, spacing, strides):
    assert stage_strides(size, spacing, DOWNSAMPLING["dlka_net_3d"]) == strides


@pytest.mark.parametrize(
    ("name", "size", "spacing", "strides"),
    [
        ("unet", (128, 128, 64), (0.76, 0.76, 3.0), ((2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))),
        ("unet", (64, 128), (1, 1), ((2, 2),) * 4),
        ("unet", (100, 20), (0.5, 3.0), ((2, 1), (2, 1), (2, 2), (2, 2))),
        ("dynunet", (160, 128, 96), (1, 1, 1), (*[(2, 2, 2)] * 4, (2, 2, 1))),
        ("segresnet", (64, 64, 9), (0.5, 0.5, 7.5), ((2, 2, 2),) * 3),
        ("segresnet", (16, 16, 16), (1, 1, 1), ((2, 2, 2),) * 2),
        ("mednext", (64, 64, 64), (1, 1, 1), ((2, 2, 2),) * 4),
        ("mednext", (8, 8, 8), (1, 1, 1), ((2, 2, 2),)),
        ("swin_unetr", (20, 20, 20), (1, 1, 1), ((32, 32, 32),)),
        ("timm_unet", (20, 20), (1, 1), ((32, 32),)),
    ],
)
def test_strides_are_those_that_a_network_can_have(name, size, spacing, strides):
    assert stage_strides(size, spacing, DOWNSAMPLING[name]) == strides


@pytest.mark.parametrize(
    ("size", "spacing", "voxels"),
    [
        ((35, 51, 36), (1, 1, 1), inf),
        ((122, 101, 30), (1.5, 1.5, 5.0), 90_000),
        ((512, 512, 9), (0.5, 0.5, 7.5), 200_000),
        ((6, 5, 4), (1, 1, 1), inf),
        ((300, 40, 7), (1.0, 1.0, 1.0), 30_000),
    ],
)
def test_windows_are_multiples_of_the_total_strides(size, spacing, voxels):
    patch, strides = patch_and_strides(size, spacing, voxels, DOWNSAMPLING["dlka_net_3d"])
    total = [prod(steps) for steps in zip(*strides, strict=True)]
    assert len(strides) >= 2
    assert all(n % unit == 0 and (n >= 4 * unit or unit == 1) for n, unit in zip(patch, total, strict=True))
    assert prod(patch) <= 1.05 * voxels


def test_the_shipped_windows_come_out():
    volumes, images = DOWNSAMPLING["dlka_net_3d"], DOWNSAMPLING["dlka_net_2d"]
    assert patch_and_strides((35, 51, 36), (1, 1, 1), inf, volumes) == ((40, 56, 40), ((2, 2, 2),) * 3)
    assert patch_and_strides((256, 320), (1, 1), 44_000, images)[0] == (192, 192)
    assert patch_and_strides((20, 1000), (1, 1), 10**6, images)[0] == (64, 1024)


def test_a_window_leaves_a_training_its_steps(summary):
    one_thing, second = summary(), 180_000
    # A whole case while 500 steps remain, else what leaves 1000 of them.
    assert window_voxels(one_thing, 64_000, second, 1000, 2) == 64_000
    assert window_voxels(one_thing, 640_000, second, 1000, 2) == second * 1000 / 2 / 1000
    many = summary(structures=(Structure("cell", 20, 0.1, (200.0, 200.0), 40.0, 20.0),))
    assert window_voxels(many, 100_000, second, 1000, 2) == second * 1000 / 2 / 1000
    assert window_voxels(one_thing, 640_000, second, inf, 2) == inf


def test_an_axis_three_times_as_long_is_not_coarse():
    """As preparing has it; 3 * 0.7 is a little less than 2.1."""
    assert coarse_axis((0.7, 0.7, 2.1)) is None
    assert coarse_axis((0.7, 2.2, 0.7)) == 1
    assert coarse_axis((4.0, 5.0, 1.0)) == 1
