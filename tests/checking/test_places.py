"""Every case of a copy has files of its own."""

import json
from pathlib import Path

import numpy as np

from dlka_med.checking.check import check_dataset
from dlka_med.checking.fix import fix_dataset
from dlka_med.checking.places import inside
from dlka_med.data.cases import read_dataset
from tests.checking.datasets import LABELS, SHAPE, replant, save, volumes, voxels


def fixed(root, out) -> dict[str, tuple]:
    """Voxels of image and label by case of the copy."""
    fix_dataset(check_dataset(root, workers=0), out, workers=0)
    dataset = read_dataset(out)
    for case in (*dataset.cases, *dataset.test):
        assert all(out in path.parents for path in (*case.images, case.label) if path is not None)
    return {case.id: (voxels(case.images[0]), voxels(case.label)) for case in dataset.cases}


def test_paths_inside_are_told_from_those_outside(tmp_path):
    root = tmp_path / "data"
    assert inside(root, root / "a" / ".." / "..b" / "c.png") == Path("..b/c.png")
    assert inside(root, root / ".." / "c.png") is None
    assert inside(root, root) == Path()


def test_files_from_outside_are_named_by_their_case(tmp_path):
    root, random, expected, training = tmp_path / "data", np.random.default_rng(0), {}, []
    save(root / "imagesTs" / "unused.nii.gz", np.zeros(SHAPE, np.uint8))
    for index in range(4):
        folder = tmp_path / "scans" / f"subject{index}"
        image, label = random.random(SHAPE, np.float32), random.integers(0, 3, SHAPE, dtype=np.uint8)
        save(folder / f"subject{index}.nii.gz", image)
        save(folder / "seg.nii.gz", label)
        expected[f"subject{index}"] = image, label
        training.append({"image": str(folder / f"subject{index}.nii.gz"), "label": str(folder / "seg.nii.gz")})
    save(tmp_path / "scans" / "later" / "t1.nii.gz", random.random(SHAPE, np.float32))
    description = {
        "modality": {"0": "MRI"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "training": training,
        "test": [str(tmp_path / "scans" / "later" / "t1.nii.gz")],
    }
    (root / "dataset.json").write_text(json.dumps(description))
    found = fixed(root, tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, arrays in expected.items():
        for ours, theirs in zip(found[name], arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [case.id for case in read_dataset(tmp_path / "out").test] == ["t1"]


def test_a_place_that_is_taken_is_not_taken_again(tmp_path):
    planted = volumes(tmp_path / "data")
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    outside = tmp_path / "case_0.nii.gz"
    planted.image(0).rename(outside)
    for index in (2, 3):
        replant(planted.label(index), np.zeros_like)
    save(tmp_path / "seg.nii.gz", np.ones(SHAPE, np.uint8))
    training[0] = {"image": str(outside), "label": str(tmp_path / "seg.nii.gz")}
    training[1]["label"] = "./labelsTr/case_0.nii.gz"
    training[3]["label"] = training[2]["label"]
    planted.describe(training=training)
    found = fixed(planted.root, tmp_path / "out")
    np.testing.assert_array_equal(found["case_0"][0], voxels(outside))
    assert (found["case_0"][1] == 1).all()
    np.testing.assert_array_equal(found["case_1"][1], voxels(planted.label(0)))
    labels = [case.label for case in read_dataset(tmp_path / "out").cases]
    assert len(set(labels)) == len(labels) == 6
