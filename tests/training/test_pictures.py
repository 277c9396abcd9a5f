"""What the pictures of validation cases are made of."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.config.labels import LabelScheme
from dlka_med.data.channel_files import Case
from dlka_med.training.pictures import Pictures


@pytest.fixture
def drawn(monkeypatch):
    """What overlays are drawn from."""
    seen = []
    monkeypatch.setattr("dlka_med.training.pictures.overlay", lambda *a, **k: seen.append((*a, k)))
    return seen


def pictures_of(cases, labels, order=None, channels=("MRI",)):
    dataset = SimpleNamespace(channels=channels, scheme=LabelScheme.of(labels, order))
    return Pictures(SimpleNamespace(cases=cases, config=SimpleNamespace(dataset=dataset)))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SLA", "AIR"])
def test_a_volume_is_drawn_upright(tmp_path, drawn, codes):
    """However its axes are stored, a right upper front corner of 1x2x3 mm voxels comes out the same."""
    upright = np.zeros((3, 4, 5), np.float32)
    upright[2, 3, 4] = 7
    classes = (upright > 0).astype(np.uint8)
    turns = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    stored = nib.Nifti1Image(upright, np.diag([1, 2, 3, 1])).as_reoriented(turns)
    nib.save(stored, tmp_path / "a.nii.gz")
    found = nib.apply_orientation(classes, turns)

    pictures = pictures_of({"a": Case("a", (tmp_path / "a.nii.gz",))}, {"background": 0, "ball": 4})
    pictures.keep("a", found, 0 * found)
    pictures.draw(tmp_path)
    image, reference, prediction, labels, path, options = drawn[0]
    assert np.array_equal(image, upright)
    assert np.array_equal(prediction, classes)
    assert not reference.any()
    assert labels == {"ball": 1}
    assert path.parent == tmp_path
    assert list(options["spacing"]) == pytest.approx([1, 2, 3])
    assert options["title"] == "a"


def test_a_colour_image_is_drawn_as_it_is(tmp_path, drawn):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pictures = pictures_of(
        {"a": Case("a", (tmp_path / "a.png",))}, {"background": 0, "cell": 1}, channels=("R", "G", "B")
    )
    classes = (pixels[..., 0] > 99).astype(np.uint8)
    pictures.keep("a", classes, 1 - classes)
    pictures.draw(tmp_path)
    image, reference, prediction, *_ = drawn[0]
    assert np.array_equal(image, np.moveaxis(pixels, -1, 0))
    assert np.array_equal(prediction, classes)
    assert np.array_equal(reference, 1 - classes)


def test_values_of_one_region_share_its_name(tmp_path, drawn):
    """Whole (1, 2, 3) and core (2, 3) are regions: 1 is drawn as whole, 2 and 3 as core, ignored voxels stay."""
    Image.fromarray(np.zeros((1, 5), np.uint8)).save(tmp_path / "a.png")
    labels = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "ignore": 9}
    pictures = pictures_of({"a": Case("a", (tmp_path / "a.png",))}, labels, (1, 2))
    classes = np.array([[0, 1, 2, 3, 255]], np.uint8)
    pictures.keep("a", classes, classes)
    pictures.draw(tmp_path)
    _, _, prediction, names, *_ = drawn[0]
    assert names == {"whole": 1, "core": 2}
    assert prediction.tolist() == [[0, 1, 2, 2, 255]]


def test_the_same_two_cases_are_drawn_each_time(tmp_path, drawn):
    for name in "abcd":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    pictures = pictures_of(
        {name: Case(name, (tmp_path / f"{name}.png",)) for name in "abcd"}, {"background": 0, "cell": 1}
    )
    nothing = np.zeros((4, 4), np.uint8)
    for cases, expected in (("abcd", "ab"), ("dcba", "ba"), ("", "")):
        for name in cases:
            pictures.keep(name, nothing, nothing)
        assert list(pictures.draw(tmp_path)) == list(expected)
