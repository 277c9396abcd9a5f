import json
import shutil

import numpy as np
import pytest

from dlka_med.data.cases import find_cases, read_dataset
from dlka_med.errors import InputError

VOLUME = np.ones((2, 2, 2), dtype=np.uint8)
PIXELS = np.ones((3, 4), dtype=np.uint8)


def test_decathlon(decathlon):
    root = decathlon(["a_1", "b_2"], name="Organs", test=["./imagesTs/c.nii.gz"])
    dataset = read_dataset(root)
    assert (dataset.name, dataset.channels, dataset.labels) == ("Organs", ("MRI",), {"background": 0, "organ": 1})
    assert [case.id for case in dataset.cases] == ["a_1", "b_2"]
    assert dataset.cases[0].images == (root / "imagesTr/a_1.nii.gz",)
    assert dataset.cases[1].label == root / "labelsTr/b_2.nii.gz"
    assert dataset.test == (), "a distribution without its test images is no mistake"


def test_decathlon_test_images(decathlon, save):
    root = decathlon(["a"], test=["./imagesTs/c.nii.gz", {"image": "imagesTs/d.nii.gz"}])
    save(root / "imagesTs/c.nii.gz", VOLUME)
    with pytest.raises(InputError, match=r"lists imagesTs/d.nii.gz, but there is no"):
        read_dataset(root)
    save(root / "imagesTs/d.nii.gz", VOLUME)
    assert [(case.id, case.label) for case in read_dataset(root).test] == [("c", None), ("d", None)]


def test_nnunet(nnunet, save):
    root = nnunet(["x", "y_0001"], labels={"core": 5, "background": 0, "body": 1})
    for index in range(2):
        save(root / f"imagesTs/z_{index:04d}.nii.gz", VOLUME)
    dataset = read_dataset(root)
    assert (dataset.name, dataset.channels) == ("Dataset001_Test", ("T0", "T1"))
    assert list(dataset.labels.items()) == [("background", 0), ("body", 1), ("core", 5)]
    assert [case.id for case in dataset.cases] == ["x", "y_0001"]
    assert [path.name for path in dataset.cases[1].images] == ["y_0001_0000.nii.gz", "y_0001_0001.nii.gz"]
    assert [case.id for case in dataset.test] == ["z"]


def test_names_of_the_config_win(decathlon):
    root = decathlon(["a"])
    dataset = read_dataset(root, channels=["CT"], labels={"whole": 1, "nothing": 0})
    assert (dataset.channels, dataset.labels) == (("CT",), {"nothing": 0, "whole": 1})
    with pytest.raises(InputError, match="but the config names"):
        read_dataset(root, channels=["T1", "T2"])
    with pytest.raises(InputError, match=r"dataset\.labels"):
        read_dataset(root, labels={"whole": 1})


@pytest.mark.parametrize("declared", [None, ["T1"], {"0": "T1", "7": "T2"}])
def test_channels_of_the_config_make_up_for_those_of_the_file(nnunet, declared):
    root = nnunet(["x"], channel_names=declared)
    with pytest.raises(InputError, match=r"dataset\.json must n.*channels"):
        read_dataset(root)
    dataset = read_dataset(root, channels=["a", "b"])
    assert (dataset.channels, len(dataset.cases[0].images)) == (("a", "b"), 2)
    with pytest.raises(InputError, match=r"dataset\.json must n.*channels|names \[\]"):
        read_dataset(root, channels=[])


@pytest.mark.parametrize("layout", ["decathlon", "nnunet", "pair"])
def test_labels_are_read_without_names_of_channels(request, tmp_path, save, layout):
    if layout == "pair":
        root = tmp_path / "pair"
        for index in range(3):
            save(root / f"images/x_{index:04d}.png", PIXELS)
        save(root / "labels/x.png", PIXELS)
        (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1}}))
    else:
        root = request.getfixturevalue(layout)(["x"], modality=None, channel_names=None)
    with pytest.raises(InputError, match=r"dataset\.json must name the channels"):
        read_dataset(root)
    dataset = read_dataset(root, named=False)
    assert dataset.channels == ()
    assert [(case.id, case.label.name.partition(".")[0]) for case in dataset.cases] == [("x", "x")]


def test_groups(decathlon):
    root = decathlon(["a", "b", "c"])
    groups = root / "groups.csv"
    groups.write_text("case,patient\na,p1\nb,p1\nc,\n")
    assert [case.group for case in read_dataset(root).cases] == ["p1", "p1", None]
    groups.write_text("a,p1\nb,p2\nc,p2\n")
    assert [case.group for case in read_dataset(root).cases] == ["p1", "p2", "p2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,group\na,1\nb,1\nq,2\n", r"groups.csv, line 4: the dataset has no case 'q'"),
        ("case,group\na,1\na,2\nb,1\n", r"line 3: case 'a' is there twice"),
        ("case,group\na\n", r"line 2: expected a case and its group"),
        ("case,group\na,1\n", r"does not name 1 of the cases, the first being 'b'"),
    ],
)
def test_broken_groups(decathlon, text, message):
    root = decathlon(["a", "b"])
    (root / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset(root)
    assert [case.id for case in find_cases(root, ["MRI"])] == ["a", "b"], "predicting needs no groups"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"training": []}, "has no training case"),
        ({"training": [{"image": "imagesTr/a.nii.gz"}]}, "must name its label"),
        ({"training": [{"image": "imagesTr/q.nii.gz", "label": "labelsTr/a.nii.gz"}]}, "lists imagesTr/q.nii.gz"),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}] * 2}, "both case 'a'"),
        ({"training": None}, "of no known layout"),
        ({"modality": {}}, "must name the channels"),
        ({"modality": {"0": "MRI", "2": "CT"}}, "without gaps"),
        ({"labels": {}}, r"dataset\.json: the labels must be declared like"),
        ({"labels": {"1": "organ", "2": "other"}}, "one of them 0"),
        ({"labels": {"background": 0}}, "two values or more"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "share a value"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "share a name"),
        ({"labels": {"background": 0, "a": True}}, "whole number"),
        ({"labels": {"background": 0, "a": 65536}}, "whole number from 0 to 65535, got 65536"),
        ({"labels": {"background": 0, "whole": [0, 2]}}, "'whole' holds the background"),
        ({"labels": {"background": 0, "ignore": 1}}, "two values or more"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [1, 2]}, "one value for each of the 1"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": 1}, "must be a list of values"),
        ({"labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({"labels": {f"l{value}": value for value in range(257)}}, "257 labels"),
    ],
)
def test_broken_facts(decathlon, facts, message):
    with pytest.raises(InputError, match=message):
        read_dataset(decathlon(["a"], **facts))


def test_not_a_dataset(tmp_path, decathlon):
    with pytest.raises(InputError, match="is not a folder"):
        read_dataset(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no dataset.json"):
        read_dataset(tmp_path)
    root = decathlon(["a"])
    (root / "dataset.json").write_text('{"name": "x",\n "labels" }')
    with pytest.raises(InputError, match=r"dataset.json is broken at line 2, column 11"):
        read_dataset(root)
    (root / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        read_dataset(root)


def test_nnunet_incomplete(nnunet, save):
    root = nnunet(["x", "y"])
    missing = root / "imagesTr/y_0001.nii.gz"
    missing.unlink()
    with pytest.raises(InputError, match=r"case y lacks channel 1 \(T1\): there is no .*y_0001.nii.gz"):
        read_dataset(root)
    save(missing, VOLUME)
    save(root / "imagesTr/y_0002.nii.gz", VOLUME)
    with pytest.raises(InputError, match=r"y_0002.nii.gz is channel 2 of case y"):
        read_dataset(root)
    (root / "imagesTr/y_0002.nii.gz").rename(root / "imagesTr/y.nii.gz")
    with pytest.raises(InputError, match=r"y.nii.gz has no channel number"):
        read_dataset(root)
    (root / "imagesTr/y.nii.gz").unlink()
    (root / "labelsTr/x.nii.gz").rename(root / "labelsTr/w.nii.gz")
    with pytest.raises(InputError, match=r"case x has no label: there is no .*labelsTr/x.nii.gz"):
        read_dataset(root)
    save(root / "labelsTr/x.nii.gz", VOLUME)
    with pytest.raises(InputError, match=r"w.nii.gz has no image"):
        read_dataset(root)
    shutil.rmtree(root / "imagesTr")
    with pytest.raises(InputError, match="no folder imagesTr"):
        read_dataset(root)


def test_nuclei(shared_data):
    dataset = read_dataset(shared_data / "Dataset101_Nuclei")
    assert (len(dataset.cases), dataset.channels) == (200, ("R", "G", "B"))
    assert dataset.cases[7].images == (dataset.root / "imagesTr/nuclei_007_0000.png",)
    assert dataset.cases[7].label == dataset.root / "labelsTr/nuclei_007.png"


def test_hippocampus(shared_data):
    dataset = read_dataset(shared_data / "Task04_Hippocampus")
    listed = json.loads((shared_data / "Task04_Hippocampus/dataset.json").read_text())["numTraining"]
    assert len(dataset.cases) == listed
    assert list(dataset.labels) == ["background", "Anterior", "Posterior"]
    assert all(case.group for case in dataset.cases)


def test_colours_in_one_file_or_a_file_per_channel(nnunet, save):
    root = nnunet(["x"], channels=1, ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    assert read_dataset(root).cases[0].images == (root / "imagesTr/x_0000.png",)
    for index in (1, 2):
        save(root / f"imagesTr/x_000{index}.png", PIXELS)
    assert len(read_dataset(root).cases[0].images) == 3
    (root / "imagesTr/x_0001.png").unlink()
    with pytest.raises(InputError, match=r"case x lacks channel 1 \(G\)"):
        read_dataset(root)


def test_images_of_several_endings(nnunet, save):
    root = nnunet(["x", "y"], channels=1, ending=".jpg")
    for name in "xy":
        (root / f"labelsTr/{name}.jpg").unlink()
        save(root / f"labelsTr/{name}.png", PIXELS)
    assert [case.label.name for case in read_dataset(root).cases] == ["x.png", "y.png"]
    save(root / "imagesTr/z_0000.png", PIXELS)
    with pytest.raises(InputError, match=r"z_0000\.png ends with \.png, .* file_ending \.jpg: convert"):
        read_dataset(root)
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace(".jpg", ".bmp"))
    with pytest.raises(InputError, match=r"file_ending '\.bmp' is not supported; use .*\.png"):
        read_dataset(root)


@pytest.mark.parametrize(("ending", "label_ending"), [(".JPG", ".png"), (".png", ".tif"), (".nii.gz", ".nii")])
def test_images_beside_labels(tmp_path, save, ending, label_ending):
    array = VOLUME if ".nii" in ending else PIXELS
    for name in ("a.b", "c"):
        save(tmp_path / f"images/{name}{ending}", array)
        save(tmp_path / f"labels/{name}{label_ending}", array)
    names = {"channels": ["x"], "labels": {"background": 0, "cell": 1}}
    dataset = read_dataset(tmp_path, **names)
    assert [case.id for case in dataset.cases] == ["a.b", "c"]
    assert dataset.cases[0].label == tmp_path / f"labels/a.b{label_ending}"
    assert (dataset.channels, dataset.labels) == (("x",), names["labels"])
    assert [(case.id, case.label) for case in find_cases(tmp_path, **names)] == [("a.b", None), ("c", None)]
    with pytest.raises(InputError, match=r"name the channels in the config, like dataset\.channels"):
        read_dataset(tmp_path, labels=names["labels"])
    with pytest.raises(InputError, match=r"declare the labels in the config, like dataset\.labels"):
        read_dataset(tmp_path, channels=["x"])
    facts = {"channel_names": {"0": "y"}, "labels": {"background": 0, "nucleus": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert read_dataset(tmp_path).channels == ("y",)

    save(tmp_path / f"images/d{ending}", array)
    with pytest.raises(InputError, match=r"case d has no label: there is no .*labels.d"):
        read_dataset(tmp_path)
    (tmp_path / f"images/d{ending}").unlink()
    save(tmp_path / f"labels/e{label_ending}", array)
    with pytest.raises(InputError, match=rf"e{label_ending} has no image"):
        read_dataset(tmp_path)
    save(tmp_path / "labels/c.png" if ".nii" in ending else tmp_path / "labels/c.nii", PIXELS)
    with pytest.raises(InputError, match="two label maps of one case"):
        read_dataset(tmp_path)


def test_equal_stems_are_one_case_each_whatever_their_numbers(tmp_path, save):
    names = {"channels": ["R", "G", "B"], "labels": {"background": 0, "cell": 1}}
    stems = [f"frame_{index:04d}" for index in range(3)]
    for name in stems:
        save(tmp_path / f"images/{name}.jpg", PIXELS)
        save(tmp_path / f"labels/{name}.png", PIXELS)
    dataset = read_dataset(tmp_path, **names)
    assert [(case.id, case.label.stem, len(case.images)) for case in dataset.cases] == [(n, n, 1) for n in stems]
    assert [case.id for case in find_cases(tmp_path, **names)] == stems
    (tmp_path / "labels/frame_0000.png").unlink()
    with pytest.raises(InputError, match=r"case frame_0000 has no label"):
        read_dataset(tmp_path, **names)
    for name in stems[1:]:
        (tmp_path / f"labels/{name}.png").unlink()
    save(tmp_path / "labels/frame.png", PIXELS)
    assert [(case.id, len(case.images)) for case in read_dataset(tmp_path, **names).cases] == [("frame", 3)]
    for name in stems:
        (tmp_path / f"images/{name}.jpg").unlink()
    with pytest.raises(InputError, match=r"images has no image: expected files that end with .*\.png"):
        read_dataset(tmp_path, **names)


def test_frames_taken_for_channels_are_explained(tmp_path, save):
    rgb, hint = (
        ["R", "G", "B"],
        "if these are separate images, .* none ends in _0000, or tell predict so with --one-file-per-case$",
    )
    frames = [save(tmp_path / f"frame_{index:04d}.png", PIXELS) for index in range(4)]
    with pytest.raises(InputError, match=f"only 3 are declared.*{hint}"):
        find_cases(tmp_path, rgb)
    frames[3].rename(tmp_path / "other.png")
    with pytest.raises(InputError, match=f"has no channel number.*{hint}"):
        find_cases(tmp_path, rgb)
    (tmp_path / "other.png").unlink()
    frames[2].unlink()
    for path in (tmp_path, frames[0]):
        with pytest.raises(InputError, match=f"lacks channel 2.*{hint}"):
            find_cases(path, rgb)


def test_volumes_and_images_are_not_mixed(tmp_path, save):
    save(tmp_path / "a.nii.gz", VOLUME)
    save(tmp_path / "b.png", PIXELS)
    with pytest.raises(InputError, match=r"mixes volumes, such as .*a\.nii\.gz, and 2D images, such as .*b\.png"):
        find_cases(tmp_path, ["x"])


def test_groups_of_another_file(decathlon, tmp_path):
    root = decathlon(["a", "b"])
    (root / "groups.csv").write_text("a,p1\nb,p1\n")
    (tmp_path / "mine.csv").write_text("a,q1\nb,q2\n")
    assert [case.group for case in read_dataset(root, groups=tmp_path / "mine.csv").cases] == ["q1", "q2"]
    with pytest.raises(InputError, match=r"other\.csv cannot be read"):
        read_dataset(root, groups=tmp_path / "other.csv")


def test_find_one_file(tmp_path, save):
    file = save(tmp_path / "scan_0000.nii.gz", VOLUME)
    assert [(case.id, case.images) for case in find_cases(file, ["T1"])] == [("scan", (file,))]
    with pytest.raises(InputError, match="lacks channel 1"):
        find_cases(file, ["T1", "T2"])
    second = save(tmp_path / "scan_0001.nii.gz", VOLUME)
    assert find_cases(second, ["T1", "T2"])[0].images == (file, second)
    whole = save(tmp_path / "other.nii", np.ones((2, 2, 2, 2), dtype=np.uint8))
    assert find_cases(whole, ["T1", "T2"])[0].images == (whole,)
    frame = save(tmp_path / "frame_0007.png", PIXELS)
    assert [(case.id, case.images) for case in find_cases(frame, ["R", "G", "B"])] == [("frame_0007", (frame,))]
    text = tmp_path / "scan.txt"
    text.touch()
    with pytest.raises(InputError, match="is no image file"):
        find_cases(text, ["T1"])


def test_find_in_a_folder(tmp_path, save, nnunet):
    with pytest.raises(InputError, match="does not exist"):
        find_cases(tmp_path / "nowhere", ["T1"])
    with pytest.raises(InputError, match="has no image"):
        find_cases(tmp_path, ["T1"])
    for name in ("BRATS_0001.nii.gz", "BRATS_0002.nii"):
        save(tmp_path / name, VOLUME)
    assert [case.id for case in find_cases(tmp_path, ["T1"])] == ["BRATS_0001", "BRATS_0002"]
    save(tmp_path / "BRATS_0001.nii", VOLUME)
    with pytest.raises(InputError, match="both case 'BRATS_0001'"):
        find_cases(tmp_path, ["T1"])
    root = nnunet(["x"])
    assert [case.id for case in find_cases(root / "imagesTr", ["T0", "T1"])] == ["x"]
    assert [(case.id, case.label) for case in find_cases(root, ["T0", "T1"])] == [("x", None)]
    with pytest.raises(InputError, match=r"declares 2 channels .* names \['T1'\]"):
        find_cases(root, ["T1"])


def test_what_a_dataset_says_is_replaced_for_prediction_too(nnunet):
    root = nnunet(["x"], labels={"background": 0, "organ": 1.5})
    with pytest.raises(InputError, match="must have a whole number"):
        find_cases(root, ["T1", "T2"])
    assert [case.id for case in find_cases(root, ["T0", "T1"], {"background": 0, "organ": 1})] == ["x"]
