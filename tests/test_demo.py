"""The demo's dataset, and the whole demo."""

import functools
import json
import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dlka_med import demo as demo_module
from dlka_med.data.cases import read_dataset
from dlka_med.data.load import load_case
from dlka_med.demo import LABELS, Demo, make_brain_dataset, run_demo
from dlka_med.errors import InputError

pytest.importorskip("nilearn", reason='NOT TESTED: pip install "dlka_med[demo]"')


@pytest.fixture(scope="module", autouse=True)
def read_template():
    """The template is read once for all tests; gives what reads it anew."""
    anew = demo_module._template
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "_template", functools.cache(anew))
        yield anew


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    make_brain_dataset(folder, seed=3)
    return folder


def images(dataset, subset):
    return sorted((dataset / f"images{subset}").iterdir())


def corners(folder):
    """World coordinates (mm) of the first and last voxel of each image."""
    spans = []
    for path in sorted(folder.glob("*.nii.gz")):
        image = nib.load(path)
        spans.append(nib.affines.apply_affine(image.affine, [(0, 0, 0), np.subtract(image.shape, 1)]))
    return np.array(spans)


def test_layout_is_that_of_the_decathlon(dataset):
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["labels"] == {str(value): name for name, value in LABELS.items()}
    training = {pair["image"] for pair in description["training"]}
    assert training == {f"./imagesTr/{path.name}" for path in images(dataset, "Tr")}
    assert len(training) == description["numTraining"] >= 15
    assert set(description["test"]) == {f"./imagesTs/{path.name}" for path in images(dataset, "Ts")}
    assert len(description["test"]) >= 3
    for subset in ("Tr", "Ts"):
        for path in images(dataset, subset):
            image, label = nib.load(path), nib.load(dataset / f"labels{subset}" / path.name)
            assert image.shape == label.shape
            assert np.array_equal(image.affine, label.affine)
            assert image.header.get_xyzt_units()[0] == "mm"
            assert set(np.unique(label.dataobj)) <= set(LABELS.values())


def test_groups_name_every_training_case_once(dataset):
    lines = (dataset / "groups.csv").read_text().split()
    cases, groups = zip(*(line.split(",") for line in lines[1:]), strict=True)
    assert sorted(cases) == [path.name.removesuffix(".nii.gz") for path in images(dataset, "Tr")]
    assert len(set(groups)) >= 5


def test_regions_are_disjoint_and_apart(dataset):
    training, test = corners(dataset / "imagesTr"), corners(dataset / "imagesTs")
    assert test[:, 0, 1].min() - training[:, 1, 1].max() > 8
    blocks = np.concatenate([training, test])
    for i, first in enumerate(blocks):
        for second in blocks[i + 1 :]:
            assert (first[1] < second[0]).any() or (second[1] < first[0]).any()


def test_no_block_is_the_mirror_image_of_another(dataset):
    """The template is symmetric about x = 0: both sides of it would show the same voxels twice."""
    spans = np.concatenate([corners(dataset / "imagesTr"), corners(dataset / "imagesTs")])
    assert spans[..., 0].max() < 0.5


def test_labels_are_the_tissues_of_the_template(dataset):
    """White matter is brighter than grey matter on T1, in every block that has enough of both."""
    compared = 0
    for path in images(dataset, "Tr"):
        image = np.asarray(nib.load(path).dataobj)
        label = np.asarray(nib.load(dataset / "labelsTr" / path.name).dataobj)
        if min((label == 1).sum(), (label == 2).sum()) > 1000:
            assert image[label == 2].mean() > 1.1 * image[label == 1].mean()
            compared += 1
    assert compared >= 10


def test_intensities_vary_and_the_seed_repeats_them(dataset, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        make_brain_dataset(tmp_path / name, seed=seed)
    path = images(dataset, "Tr")[0].relative_to(dataset)
    folders = (dataset, tmp_path / "same", tmp_path / "other")
    first, same, other = (np.asarray(nib.load(folder / path).dataobj) for folder in folders)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert np.array_equal(first > 0, other > 0)


def test_an_existing_folder_is_refused(dataset):
    with pytest.raises(InputError, match="exists already"):
        run_demo(dataset)


def test_missing_nilearn_names_the_extra(tmp_path, monkeypatch, read_template):
    monkeypatch.setattr(demo_module, "_template", read_template)
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install \"dlka_med\[demo\]\""):
        make_brain_dataset(tmp_path / "dataset")
    assert list(tmp_path.iterdir()) == []


def test_slices_are_those_of_the_template(tmp_path):
    """Grey PNGs, the front at the top: tissues as in T1, held-out slices apart, groups of neighbours."""
    make_brain_dataset(tmp_path / "dataset", dims=2)
    data = read_dataset(tmp_path / "dataset")
    assert len(data.cases) >= 25
    assert len(data.test) >= 8
    depths = {case.id: int(case.id[-3:]) // 20 for case in data.cases}
    assert len({case.group for case in data.cases}) == len(set(depths.values())) >= 5
    assert {case.group for case in data.cases} == {f"z{20 * depth}" for depth in depths.values()}
    last = max(int(case.id[12:15]) + 120 for case in data.cases)
    assert min(int(case.id[12:15]) for case in data.test) - last == 8
    for case in data.cases[5:25]:
        loaded = load_case(case, data.channels, data.labels)
        assert loaded.image.shape == (1, 120, 80)
        (image,), label = loaded.image, loaded.label
        assert image[label == 2].mean() > 1.1 * image[label == 1].mean()
    for case in data.test:
        image = load_case(case, data.channels).image[0]
        assert (image[:20] > 0).mean() < (image[-20:] > 0).mean(), "the brain ends at the front"


def test_what_to_try_next_can_be_pasted_into_a_shell():
    folder = Path("my brain; it's")
    told = Demo(folder, folder / "run", 0.5, ()).describe()
    commands = [shlex.split(line) for line in told.splitlines() if line.startswith("  dlka ")]
    assert [words[1] for words in commands] == ["train", "predict", "evaluate"]
    assert all(any(word.startswith(str(folder)) for word in words) for words in commands)
    assert all(not word.startswith("it") for words in commands for word in words)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_demo_walks_the_whole_road(tmp_path, dims):
    demo = run_demo(tmp_path / "demo", minutes=1, dims=dims)
    assert demo.dice > 0.5
    assert len(demo.pictures) >= 3
    assert all(picture.stat().st_size > 5000 for picture in demo.pictures)
    assert f"{demo.dice:.3f}" in demo.describe()
