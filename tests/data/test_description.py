"""dataset.json: names, values, and files that other programs wrote."""

import codecs
import re

import pytest

from dlka_med.config.labels import MAX_LABELS
from dlka_med.data.cases import read_dataset
from dlka_med.data.description import channel_order, read_description, segments_of
from dlka_med.errors import InputError


def rewrite(root, encode) -> None:
    file = root / "dataset.json"
    file.write_bytes(encode(file.read_text()))


def test_a_byte_order_mark_is_no_part_of_the_text(decathlon):
    root = decathlon(["a", "b"])
    (root / "groups.csv").write_bytes(codecs.BOM_UTF8 + b"a,p1\r\nb,p2\r\n")
    expected = read_dataset(root)
    rewrite(root, lambda text: codecs.BOM_UTF8 + text.encode())
    assert read_dataset(root) == expected
    assert [case.group for case in expected.cases] == ["p1", "p2"]
    rewrite(root, lambda text: text.removeprefix("\ufeff").encode("utf-16"))
    with pytest.raises(InputError, match=r"dataset\.json is saved as UTF-16"):
        read_dataset(root)


def test_groups_of_another_encoding_are_named(decathlon):
    root = decathlon(["a"])
    (root / "groups.csv").write_bytes("a,p1\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"groups\.csv is saved as UTF-16"):
        read_dataset(root)


@pytest.mark.parametrize("value", [True, "1", 1.0, 1.5, -1, None, [], [[1, 2]], {"v": 1}, 65536])
def test_a_value_is_a_whole_number(decathlon, value):
    root = decathlon(["a"], labels={"background": 0, "liver": value})
    with pytest.raises(InputError, match=r"dataset\.json: the (label|region) 'liver'") as told:
        read_dataset(root)
    assert repr(value) in str(told.value)


def test_as_many_labels_as_a_byte_holds_beside_one_value(decathlon):
    labels = {f"l{value}": value for value in range(MAX_LABELS)}
    assert len(labels) == 255
    assert read_dataset(decathlon(["a"], labels=labels)).labels == labels
    for more in (256, 257):
        with pytest.raises(InputError, match=rf"dataset\.json: there are {more} labels, but .* 255 is the most"):
            read_dataset(decathlon(["a"], labels={f"l{value}": value for value in range(more)}))
    with pytest.raises(InputError, match=r"dataset\.labels: there are 256 labels"):
        read_dataset(decathlon(["a"]), labels={f"l{value}": value for value in range(256)})


@pytest.mark.parametrize("name", [None, 1, True, ["T1"], "", "  "])
def test_a_channel_is_named_by_text(decathlon, name):
    with pytest.raises(InputError, match=rf"name of channel 0 must be text, got {re.escape(repr(name))}"):
        read_dataset(decathlon(["a"], modality={"0": name}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ('{"labels": {"a": ' + "1" * 5000 + "}}", "cannot be read"),
        ("[" * 200_000, "cannot be read"),
    ],
)
def test_json_that_python_cannot_hold_is_named(tmp_path, text, words):
    file = tmp_path / "dataset.json"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"dataset\.json .*{words}"):
        read_description(file)


def test_a_folder_called_like_the_description_is_named(tmp_path):
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(InputError, match=r"dataset\.json cannot be read: Is a directory"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("entry", ["a" * 5000, "b\0.nii.gz", "imagesTr", "", ".", 5, ["x" * 5000]])
@pytest.mark.parametrize("key", ["image", "label"])
def test_paths_that_are_no_files_are_named_in_few_words(decathlon, key, entry):
    good = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    with pytest.raises(InputError, match=r"dataset\.json") as told:
        read_dataset(decathlon(["a"], training=[good | {key: entry}]))
    assert len(str(told.value)) < 1500


def test_test_images_are_a_list(decathlon):
    with pytest.raises(InputError, match="test must be a list of images, got 5"):
        read_dataset(decathlon(["a"], test=5))


@pytest.mark.parametrize("root", ["a" * 5000, "a\0b"])
def test_a_root_that_cannot_be_is_named_in_few_words(root):
    with pytest.raises(InputError, match="is not a folder") as told:
        read_dataset(root)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize(
    ("declared", "wanted", "order"),
    [
        (["ADC", "T2"], ["ADC", "T2"], None),
        (["ADC", "T2"], ["T2", "ADC"], (1, 0)),
        (["a", "b", "c"], ["c", "a", "b"], (2, 0, 1)),
        (["adc ", "T2  w"], ["t2 W", "ADC"], (1, 0)),
        (["MRI", "MRI"], ["mri", "MRI"], None),
    ],
)
def test_channels_are_found_by_name(tmp_path, declared, wanted, order):
    facts = {"channel_names": {str(index): name for index, name in enumerate(declared)}}
    for renamed in (True, False):
        assert channel_order(tmp_path, facts, wanted, renamed=renamed) == order


@pytest.mark.parametrize(
    ("declared", "wanted"),
    [(["MRI"], ["CT"]), (["ADC", "T2"], ["ADC", "T1"]), (["A", "A", "B"], ["B", "A", "A"])],
)
def test_other_channels_are_refused_unless_renamed(tmp_path, declared, wanted):
    facts = {"modality": {str(index): name for index, name in enumerate(declared)}}
    with pytest.raises(InputError) as told:
        channel_order(tmp_path / "dataset.json", facts, wanted, renamed=False)
    assert str(declared) in str(told.value)
    assert str(wanted) in str(told.value)
    assert channel_order(tmp_path, facts, wanted, renamed=True) is None


@pytest.mark.parametrize("facts", [{}, {"modality": ["MRI"]}, {"modality": {"0": "MRI", "2": "T2"}}])
def test_nothing_is_compared_where_nobody_named_the_channels(tmp_path, facts):
    assert channel_order(tmp_path, facts, ["CT"], renamed=False) is None


def test_colours_and_codes_of_labels(tmp_path):
    facts = {"segments": {"liver": {"color": [1, 2, 255], "code": ["10200004", "SCT", "Liver"]}, "b": {}}}
    found = segments_of(tmp_path, facts, {"background": 0, "liver": 1, "b": 2})
    assert (found["liver"].color, found["liver"].code) == ((1, 2, 255), ("10200004", "SCT", "Liver"))
    assert (found["b"].color, found["b"].code) == (None, None)
    assert segments_of(tmp_path, {}, {"background": 0, "liver": 1}) is None


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ({"spleen": {}}, "'spleen' is no label; labels are background, liver"),
        ({"liver": {"color": [1, 2, 256]}}, r"liver\.color\.2: .*255"),
        ({"liver": {"color": [1, 2]}}, r"liver\.color"),
        ({"liver": {"code": ["1" * 17, "SCT", "Liver"]}}, r"liver\.code\.0: .*16 characters"),
        ({"liver": {"colour": [1, 2, 3]}}, r"liver\.colour"),
        (["liver"], "dictionary"),
    ],
)
def test_colours_and_codes_that_cannot_be(tmp_path, segments, said):
    with pytest.raises(InputError, match=rf"dataset\.json: segments: .*{said}"):
        segments_of(tmp_path / "dataset.json", {"segments": segments}, {"background": 0, "liver": 1})
