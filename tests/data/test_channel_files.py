"""Channels in the order of their names, and files that are no channels."""

import logging
import shutil

import numpy as np
import pytest

from dlka_med.config.dataset import Preprocessing
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import find_cases, read_dataset
from dlka_med.data.load import load_case
from dlka_med.errors import InputError

THREE = {"0": "a", "1": "b", "2": "c"}
LABELS = {"background": 0, "organ": 1}
SHAPE = (4, 3, 5)
VOLUME = np.ones(SHAPE, dtype=np.uint8)


def stored(index: int) -> np.ndarray:
    return np.full(SHAPE, 10 + index, dtype=np.float32)


@pytest.fixture(params=["one file", "a file per channel"])
def three(request, decathlon, nnunet, save):
    """A dataset whose case x has channels a, b, c of the values 10, 11, 12."""
    if request.param == "one file":
        root = decathlon(["x"], modality=THREE)
        save(root / "imagesTr/x.nii.gz", np.stack([stored(index) for index in range(3)], axis=-1))
    else:
        root = nnunet(["x"], channels=3, channel_names=THREE, labels=LABELS)
        for index in range(3):
            save(root / f"imagesTr/x_{index:04d}.nii.gz", stored(index))
    save(root / "labelsTr/x.nii.gz", VOLUME)
    return root


@pytest.mark.parametrize(
    ("wanted", "values"), [("abc", (10, 11, 12)), ("cab", (12, 10, 11)), ("bac", (11, 10, 12)), ("CBA", (12, 11, 10))]
)
def test_channels_arrive_in_the_order_of_their_names(three, wanted, values, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        (training,) = read_dataset(three, channels=wanted).cases
        (predicted,) = find_cases(three, tuple(wanted), LABELS)
    for case in (training, predicted):
        image = load_case(case, tuple(wanted)).image
        np.testing.assert_array_equal(image[:, 0, 0, 0], values)
    assert (f"read in the order {list(wanted)}" in caplog.text) == (wanted != "abc")


def test_the_cache_tells_orders_apart(three, tmp_path):
    plain = Preprocessing(crop_foreground=False, spacing=None)
    cache = PreparedCache(tmp_path / "cache", plain, ("c", "b", "a"), LABELS)
    (case,) = read_dataset(three, channels="cba").cases
    before = cache.get(case).image[:, 0, 0, 0].tolist()
    description = three / "dataset.json"
    description.write_text(description.read_text().replace('"0": "a"', '"0": "c"').replace('"2": "c"', '"2": "a"'))
    (case,) = read_dataset(three, channels="cba").cases
    assert (before, cache.get(case).image[:, 0, 0, 0].tolist()) == ([12, 11, 10], [10, 11, 12])


def test_a_missing_channel_is_called_by_the_name_that_belongs_to_its_number(nnunet):
    root = nnunet(["x"], channels=2, channel_names=THREE)
    with pytest.raises(InputError, match=r"lacks channel 2 \(c\)"):
        read_dataset(root, channels="cab")


def test_other_names_are_another_dataset_unless_the_config_renames_them(three):
    with pytest.raises(InputError, match=r"declares the channels \['a', 'b', 'c'\], but \['a', 'b', 'd'\] are needed"):
        find_cases(three, tuple("abd"), LABELS)
    assert find_cases(three, tuple("abd"), LABELS, renamed=True)[0].order is None
    assert read_dataset(three, channels="abd").channels == ("a", "b", "d")
    with pytest.raises(InputError, match=r"\['a', 'b', 'd'\] are needed"):
        find_cases(three / "imagesTr", tuple("abd"))
    bare = shutil.copytree(three / "imagesTr", three.parent / "bare" / "images")
    assert len(find_cases(bare, tuple("abd"))) == 1, "files alone have no names"


def test_images_that_lie_in_a_dataset_have_its_names(three):
    for path in (three / "imagesTr", sorted((three / "imagesTr").iterdir())[-1]):
        (case,) = find_cases(path, tuple("cab"))
        np.testing.assert_array_equal(load_case(case, tuple("cab")).image[:, 0, 0, 0], (12, 10, 11))


def test_a_missing_channel_of_a_folder_is_called_by_the_name_that_belongs_to_its_number(nnunet):
    root = nnunet(["x"], channels=2, channel_names=THREE)
    with pytest.raises(InputError, match=r"lacks channel 2 \(c\)"):
        find_cases(root / "imagesTr", tuple("cab"))


@pytest.mark.parametrize("ending", [".nii.gz", ".png"])
def test_each_file_may_be_a_case(tmp_path, save, ending):
    array = VOLUME if ending == ".nii.gz" else VOLUME[0]
    files = [save(tmp_path / "in" / f"q_000{index}{ending}", array) for index in range(2)]
    with pytest.raises(InputError, match=r"only 1 are declared.*predict so with --one-file-per-case"):
        find_cases(tmp_path / "in", ["CT"])
    found = find_cases(tmp_path / "in", ["CT"], one_file_per_case=True)
    assert [(case.id, case.images) for case in found] == [("q_0000", (files[0],)), ("q_0001", (files[1],))]
    for channels in (["CT"], ["T1", "T2"]):
        assert find_cases(files[0], channels, one_file_per_case=True) == found[:1]


def test_a_dataset_says_itself_what_its_cases_are(three):
    with pytest.raises(InputError, match=r"is a dataset, .* give the folder of its images"):
        find_cases(three, tuple("abc"), LABELS, one_file_per_case=True)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b"])
def test_a_path_that_cannot_be_is_named_in_few_words(path):
    with pytest.raises(InputError, match="does not exist") as told:
        find_cases(path, ["CT"])
    assert len(str(told.value)) < 600


def test_a_folder_called_like_an_image_is_named(tmp_path):
    (tmp_path / "in" / "x.nii.gz").mkdir(parents=True)
    (case,) = find_cases(tmp_path / "in", ["CT"])
    with pytest.raises(InputError, match=r"x\.nii\.gz is a folder"):
        load_case(case, ["CT"])
