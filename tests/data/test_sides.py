import logging

import numpy as np
import pytest

from dlka_med.config.schema import RunConfig
from dlka_med.data.sides import flip_axes, left_right_axis, mirror_axes, side_note, sided_labels, with_flip_axes
from dlka_med.data.slices import slice_axis

KIDNEYS = {"background": 0, "left kidney": 1, "right kidney": 2}


def run_config(dims=3, labels=KIDNEYS, orientation="RAS", slices=None, mirror=(), **augmentation) -> RunConfig:
    network = {"name": "dlka_net_3d"} if dims == 3 else {"name": "dlka_net_2d", "encoder": "resnet18"}
    return RunConfig.model_validate(
        {
            "name": "sides",
            "dataset": {"root": "x", "labels": labels, "slices": slices},
            "preprocessing": {"orientation": orientation},
            "network": network,
            "training": {"patch_size": (64,) * dims, "augmentation": augmentation},
            "inference": {"mirror_axes": mirror},
        }
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left kidney", "right kidney"),
        ("Kidney (left)", "kidney, RIGHT"),
        ("kidney_left", "kidney_right"),
        ("Parotid_L", "Parotid_R"),
        ("OpticNrvL", "OpticNrvR"),
        ("LeftLung", "RightLung"),
        ("leftlung", "rightlung"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("Left-Hippocampus", "Right-Hippocampus"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("lkid", "rkid"),
        ("LV", "RV"),
        ("l/temporal", "r/temporal"),
        ("left", "right"),
    ],
)
def test_pairs(one, other):
    assert sided_labels(["background", "liver", one, other]) == (one, other)
    assert set(sided_labels([other, "spleen", one])) == {one, other}
    assert sided_labels(["background", one]) is None
    assert sided_labels(["background", other]) is None


@pytest.mark.parametrize(
    "names",
    [
        ["background", "Anterior", "Posterior"],
        ["background", "liver", "tumour"],
        ["background", "nucleus"],
        ["background", "edema", "non-enhancing tumor", "enhancing tumor"],
        ["spleen", "right kidney", "left adrenal gland", "gallbladder", "esophagus", "liver", "stomach", "aorta"],
        ["upper lobe", "lower lobe", "lesion", "1", "2"],
        [],
    ],
)
def test_no_pairs(names):
    assert sided_labels(names) is None


@pytest.mark.parametrize(("orientation", "axis"), [("RAS", 0), ("LPS", 0), ("ARS", 1), ("SPL", 2), (None, None)])
def test_the_axis_from_left_to_right_in_volumes(orientation, axis):
    assert left_right_axis(run_config(orientation=orientation)) == axis


@pytest.mark.parametrize(
    ("orientation", "plane", "axis"),
    [
        ("RAS", "axial", 0),
        ("RAS", "coronal", 0),
        ("RAS", "sagittal", None),
        ("SAL", "axial", 1),
        ("SAL", "coronal", 1),
        ("ALS", "coronal", 0),
        ("ALS", "axial", 1),
        (None, "axial", None),
    ],
)
def test_the_axis_from_left_to_right_in_slices(orientation, plane, axis):
    assert left_right_axis(run_config(2, orientation=orientation, slices=plane)) == axis


def test_the_axis_from_left_to_right_in_pictures_is_that_of_the_columns():
    assert left_right_axis(run_config(2, orientation=None)) == 1


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({}, (1, 2)),
        ({"orientation": "SAL"}, (0, 1)),
        ({"orientation": None}, ()),
        ({"labels": {"background": 0, "tumour": 1}}, (0, 1, 2)),
        ({"labels": {"background": 0, "tumour": 1}, "orientation": None}, (0, 1, 2)),
        ({"dims": 2}, (0,)),
        ({"dims": 2, "slices": "axial"}, (1,)),
        ({"dims": 2, "slices": "sagittal"}, (0, 1)),
        ({"dims": 2, "slices": "sagittal", "orientation": None}, ()),
        ({"flip_axes": [0]}, (0,)),
        ({"flip_axes": [1, 0], "dims": 2}, (0, 1)),
        ({"flip_axes": []}, ()),
        ({"flip_probability": 0}, ()),
        ({"flip_axes": [0, 1], "flip_probability": 0}, ()),
    ],
)
def test_which_axes_training_flips(options, axes):
    assert flip_axes(run_config(**options)) == axes
    resolved = with_flip_axes(run_config(**options))
    assert flip_axes(resolved) == axes
    if "flip_axes" not in options:
        assert resolved.training.augmentation.flip_axes == axes


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, "'left kidney' and 'right kidney' differ by their side: training does not mirror left and right (axis 0)"),
        ({"orientation": None}, "training mirrors no axis"),
        ({"flip_axes": [0]}, "but training.augmentation.flip_axes mirrors left and right (axis 0)"),
        ({"flip_axes": [1]}, None),
        ({"flip_probability": 0}, None),
        ({"dims": 2, "slices": "sagittal"}, None),
        ({"labels": {"background": 0, "tumour": 1}}, None),
    ],
)
def test_a_line_tells_when_sides_matter(options, note):
    found = side_note(run_config(**options))
    assert (found is None) if note is None else (note in found)


@pytest.mark.parametrize(
    ("options", "wanted", "axes", "warning"),
    [
        ({}, True, (1, 2), None),
        ({}, False, (), None),
        ({"mirror": (1,)}, False, (1,), None),
        ({"mirror": (0, 1)}, False, (0, 1), "axis 0"),
        ({}, (0, 2), (0, 2), "axis 0"),
        ({"flip_probability": 0}, (0, 2), (0, 2), "axis 0 and axis 2"),
        ({"flip_axes": [0, 1, 2]}, True, (0, 1, 2), None),
        ({"flip_axes": []}, True, (), "training mirrored no axis"),
    ],
)
def test_mirroring_in_prediction_follows_training(options, wanted, axes, warning, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        assert mirror_axes(run_config(**options), wanted) == axes
    assert warning in caplog.text if warning else not caplog.text


def test_the_axis_of_slices_is_that_of_the_loader():
    """`left_right_axis` names the axis of a slice along which the world's x changes."""
    for orientation, plane in (("RAS", "axial"), ("SAL", "coronal"), ("ALS", "axial")):
        affine = np.zeros((4, 4))
        for axis, code in enumerate(orientation):
            affine[{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code], axis] = 1
        affine[3, 3] = 1
        moves = np.delete(affine[:3, :3], slice_axis(affine, plane), axis=1)
        assert left_right_axis(run_config(2, orientation=orientation, slices=plane)) == np.flatnonzero(moves[0])[0]
