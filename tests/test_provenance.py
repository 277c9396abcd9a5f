"""Which cases trained some weights."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case, read_dataset
from dlka_med.errors import InputError
from dlka_med.provenance import FILE, Provenance, fingerprint
from dlka_med.run_folder import RunFolder

SPLIT = {"train": ["ball_0", "ball_1"], "validation": ["ball_2"], "test": []}


@pytest.fixture
def balls(tmp_path):
    """Folder of six cases in the Decathlon layout."""
    root, pairs, labels = tmp_path / "balls", [], {"0": "background", "1": "ball"}
    for number in range(6):
        pairs.append({})
        for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            pairs[-1][key] = f"{folder}/ball_{number}.nii.gz"
            array = np.random.default_rng(number).normal(size=(5, 6, 7)).astype(np.float32)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / pairs[-1][key])
    facts = {"modality": {"0": "MRI"}, "labels": labels, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def known(balls):
    dataset = {"root": str(balls), "channels": ["MRI"], "labels": {"background": 0, "ball": 1}}
    small = {
        "name": "dlka_net_3d",
        "channels": [4, 8],
        "depths": [1, 1],
        "strides": [[2, 2, 2]] * 2,
        "supervised_scales": 1,
    }
    whole = {"name": "run", "dataset": dataset, "network": small, "training": {"patch_size": [8, 8, 8]}}
    return RunConfig.model_validate(whole)


def changed(config, section="training", **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_a_case_is_known_by_its_content(balls, tmp_path):
    first, second = read_dataset(balls).cases[:2]
    copy = Case("renamed", (shutil.copy(first.images[0], tmp_path / "renamed.nii.gz"),))
    assert fingerprint(Case("x", first.images)) == fingerprint(first) != fingerprint(second)
    copy = Case("renamed", (tmp_path / "renamed.nii.gz",))
    namesake = Case("ball_0", second.images)
    assert Provenance().joined([first]).among([first, copy, second, namesake]) == (["ball_0", "renamed"], [])
    assert Provenance().joined([first]).among([namesake, second]) == ([], ["ball_0"])


def test_a_case_is_known_in_any_order_of_its_channels_and_told_when_it_changed(balls):
    first, second = read_dataset(balls).cases[:2]
    two = Case("two", (*first.images, *second.images))
    assert fingerprint(two) == fingerprint(two.reordered((1, 0)))
    known = Provenance(frozenset({("imported", "")})).joined([first, second])
    assert known.outdated([first, second, Case("imported", first.images)]) == []
    assert known.outdated([first, Case(second.id, first.images)]) == [second.id]


def test_a_large_file_is_known_by_its_size_both_ends_and_places_between(tmp_path):
    prints = set()
    for head, middle, tail in (("a", "b", "c"), ("x", "b", "c"), ("a", "b", "x"), ("a", "bb", "c")):
        path = tmp_path / "image.nii"
        path.write_text(head + 200_000 * middle + tail)
        prints.add(fingerprint(Case("x", (path,))))
    assert len(prints) == 4
    with pytest.raises(InputError, match=r"gone\.nii cannot be read"):
        fingerprint(Case("x", (tmp_path / "gone.nii",)))


@pytest.mark.parametrize("size", [40, 200])
def test_volumes_that_differ_inside_alone_are_told_apart(size, tmp_path):
    prints = []
    for seed in (0, 1, 1):
        volume = np.zeros((size,) * 3, dtype=np.float32)
        inside = (slice(size // 4, size // 4 * 3),) * 3
        volume[inside] = np.random.default_rng(seed).normal(size=volume[inside].shape)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "skull_stripped.nii")
        prints.append(fingerprint(Case("x", (tmp_path / "skull_stripped.nii",))))
    assert prints[0] != prints[1] == prints[2]


@pytest.mark.parametrize("ending", [".hdr", ".mhd"])
def test_volumes_beside_a_header_of_their_own_are_told_apart_by_their_voxels(ending, tmp_path):
    prints = []
    for name, seed in (("a", 0), ("b", 1), ("copy of b", 1)):
        volume = np.random.default_rng(seed).integers(0, 100, (6, 7, 8)).astype(np.int16)
        path = tmp_path / f"{name}{ending}"
        if ending == ".hdr":
            nib.save(nib.Nifti1Pair(volume, np.eye(4)), path)
        else:
            voxels = path.with_suffix(".raw")
            voxels.write_bytes(volume.tobytes())
            path.write_text(f"NDims = 3\nDimSize = 8 7 6\nElementType = MET_SHORT\nElementDataFile = {voxels.name}\n")
        prints.append(fingerprint(Case(name, (path,))))
    assert prints[0] != prints[1] == prints[2]


def test_what_is_saved_is_read_again_and_damage_is_named(known, balls, tmp_path):
    run = RunFolder.create(tmp_path / "run", known, SPLIT)
    cases = read_dataset(balls).cases
    said = Provenance(complete=False).joined(cases[:3], cases[3:5])
    said.save(run)
    assert Provenance.of_run(run) == said
    assert said.validated == {fingerprint(case) for case in cases[3:5]}
    assert said.joined(cases[3:]).validated == set(), "those of the last training count"
    for content in ("{", "[]", '{"complete": true}', json.dumps({"complete": True, "cases": ["abc"]})):
        (run.path / FILE).write_text(content)
        with pytest.raises(InputError, match=rf"cannot read .*{FILE}"):
            Provenance.of_run(run)


def test_runs_of_earlier_versions_are_known_by_their_splits_and_starts(known, balls, tmp_path):
    cases = read_dataset(balls).cases
    first = RunFolder.create(tmp_path / "1", known, SPLIT)
    assert Provenance.of_run(first) == Provenance().joined(cases[:2], cases[2:3])

    moved = changed(known, "dataset", root=str(tmp_path / "moved"))
    moved = changed(moved, start_from=str(first.path))
    second = RunFolder.create(tmp_path / "2", moved, SPLIT | {"train": ["ball_4"]})
    found = Provenance.of_run(second)
    assert found == Provenance(Provenance().joined(cases[:2]).cases | {("ball_4", "")}), "no image is at hand"
    assert found.among(cases) == (["ball_0", "ball_1"], ["ball_4"])

    imported = RunFolder.create(tmp_path / "3", known, SPLIT | {"train": []})
    assert Provenance.of_run(imported) == Provenance(complete=False).joined([], cases[2:3])
    for name, start in (("4", imported.path), ("5", tmp_path / "5"), ("6", tmp_path / "gone")):
        child = RunFolder.create(tmp_path / name, changed(known, start_from=str(start)), SPLIT)
        known_of = Provenance().joined(cases[:2], cases[2:3])
        assert Provenance.of_run(child) == replace(known_of, complete=False)


def test_fingerprints_of_both_ends_alone_are_not_trusted(known, balls, tmp_path):
    run, case = RunFolder.create(tmp_path / "run", known, SPLIT), read_dataset(balls).cases[0]
    (run.path / FILE).write_text(json.dumps({"complete": True, "cases": [[case.id, "0123456789abcdef"]]}))
    said = Provenance.of_run(run)
    assert said == Provenance(frozenset({(case.id, "")}))
    assert said.among([case]) == ([], [case.id])
    assert said.outdated([case]) == []
