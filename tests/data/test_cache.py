import json
import os
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data import cache as cache_module
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import Case
from dlka_med.data.load import load_label
from dlka_med.data.prepare import prepare
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
SETTINGS = Preprocessing(spacing=(1.2, 1, 1))


@pytest.fixture
def cache(tmp_path):
    return PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], LABELS)


@pytest.fixture
def computed(monkeypatch):
    """Ids of the cases that are prepared, in order."""
    ids = []

    def counted(case, *args):
        ids.append(case.id)
        return prepare(case, *args)

    monkeypatch.setattr(cache_module, "prepare", counted)
    return ids


def ids(cache):
    """Case ids of the entries, which end with a mark of the source folder."""
    return sorted(path.name.rpartition("-")[0] for path in cache.folder.iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_comes_out_is_what_was_prepared(cache, random_cases, workers):
    cases, seen = random_cases(3), []
    cache.fill(cases, workers, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
    for case in cases:
        stored, fresh = cache.get(case), prepare(case, SETTINGS, ["MRI"], LABELS)
        for name in ("image", "label", "affine", "native_affine"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(fresh, name))
            assert getattr(stored, name).dtype == getattr(fresh, name).dtype
        assert (stored.case_id, stored.native_shape) == (fresh.case_id, fresh.native_shape)
        assert (stored.empty, stored.measured.channels) == (fresh.empty, fresh.measured.channels)
        np.testing.assert_array_equal(cache.measured(case).foreground, fresh.measured.foreground)
        np.testing.assert_array_equal(cache.reference(case), load_label(case.label, LABELS))


def test_foreground_voxels(cache, random_cases, monkeypatch, tmp_path):
    (case,) = random_cases(1)
    label = cache.get(case).label
    body, core = cache.open(case).voxels().values()
    for index, voxels in ((1, body), (2, core)):
        assert {tuple(voxel) for voxel in voxels.tolist()} == set(zip(*np.nonzero(label == index), strict=True))
    monkeypatch.setattr(cache_module, "FOREGROUND_VOXELS", 10)
    few = PreparedCache(tmp_path / "few", SETTINGS, ["MRI"], LABELS).open(case)
    assert {index: len(voxels) for index, voxels in few.voxels().items()} == few.counts == {1: 10, 2: len(core)}
    assert all(label[tuple(voxel)] == 1 for voxel in few.voxels()[1])
    shutil.rmtree(few.places.parent)
    with pytest.raises(InputError, match=r"foreground\.npy cannot be read .* removed while they were in use"):
        few.voxels()


def test_cases_without_foreground_or_label(cache, make_case):
    image = np.random.default_rng(0).normal(size=(5, 5, 5))
    empty = make_case("empty", image, np.zeros((5, 5, 5), dtype=np.uint8))
    bare = make_case("bare", image)
    cache.fill([empty, bare])
    assert cache.open(empty).voxels() == cache.open(bare).voxels() == {}
    assert cache.get(bare).label is cache.reference(bare) is None
    assert not cache.get(empty).label.any()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_cases_hold_no_file_open(cache, random_cases):
    """Systems allow a process 1024 of them or fewer, and datasets have more cases."""
    cases = random_cases(3)
    cache.fill(cases)
    before = len(os.listdir("/proc/self/fd"))
    kept = [(cache.open(case), cache.get(case), cache.reference(case)) for case in cases]
    assert len(os.listdir("/proc/self/fd")) == before, kept


def test_only_what_changed_is_computed_again(cache, random_cases, computed, make_case):
    cases = random_cases(3)
    cache.fill(cases)
    cache.fill(cases)
    assert computed == ["case_0", "case_1", "case_2"]
    before = cache.get(cases[1]).image.copy()
    random_label = np.ones((9, 10, 11), dtype=np.uint8)
    make_case("case_1", np.random.default_rng(9).normal(size=(9, 10, 11)), random_label)
    cache.fill(cases)
    assert computed[3:] == ["case_1"]
    assert not np.array_equal(cache.get(cases[1]).image, before)
    stat = cases[2].label.stat()
    os.utime(cases[2].label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    cache.fill(cases)
    assert computed[4:] == ["case_2"]


def test_voxels_in_a_file_of_their_own_may_change(cache, computed, tmp_path):
    path = tmp_path / "a.hdr"
    for value in (1, 2):
        nib.save(nib.Nifti1Pair(np.full((4, 5, 6), value, np.int16), np.eye(4)), path)
        for file in (path, path.with_suffix(".img")):
            os.utime(file, ns=(0, 0 if file == path else value))
        cache.fill([Case("a", (path,))])
    assert computed == ["a", "a"]


def test_the_files_are_not_needed_once_the_cache_is_filled(cache, random_cases, tmp_path):
    cases = random_cases(2)
    cache.fill(cases)
    images = [cache.get(case).image for case in cases]
    another = PreparedCache(cache.root, SETTINGS, ["MRI"], LABELS)
    another.locate(cases)
    for case in cases:
        for file in (*case.images, case.label):
            file.unlink()
    for one in (cache, pickle.loads(pickle.dumps(cache)), another):
        for case, image in zip(cases, images, strict=True):
            np.testing.assert_array_equal(one.get(case).image, image)
            assert one.reference(case).max() == 2
    with pytest.raises(InputError, match="cannot be read"):
        PreparedCache(cache.root, SETTINGS, ["MRI"], LABELS).locate(cases)


def test_intensities_share_entries(cache, random_cases, computed):
    """CT statistics of a fold and kinds of standardisation change nothing; only what clips before resampling does."""
    (case,) = random_cases(1)
    ct = Intensity(kind="ct", lower=80, upper=120, mean=100, std=7)
    for kind in ("auto", (Intensity(kind="zscore"),), (Intensity(kind="none"),), (ct,), (Intensity(kind="ct"),)):
        settings = SETTINGS.model_copy(update={"intensity": kind})
        PreparedCache(cache.root, settings, ["MRI"], LABELS).fill([case])
    assert len(computed) == 1
    robust = SETTINGS.model_copy(update={"intensity": (Intensity(kind="robust"),)})
    PreparedCache(cache.root, robust, ["MRI"], LABELS).fill([case])
    assert len(computed) == 2


def test_the_size_is_kept_and_cases_in_use_stay(random_cases, tmp_path, caplog):
    cases = random_cases(6)
    roomy = PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], LABELS)
    roomy.fill(cases)
    entry = sum(file.stat().st_size for file in next(roomy.folder.iterdir()).iterdir())
    for number, case in enumerate(cases):
        os.utime(roomy._entry(case) / "facts.json", (number, number))
    del roomy
    limited = PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], LABELS, gib=3.5 * entry / 2**30)
    limited.fill(cases[:1])
    assert ids(limited) == ["case_0", "case_4", "case_5"], "the oldest is in use, the next three had to go"
    assert not caplog.records
    limited.fill(cases)
    assert len(ids(limited)) == 6
    assert "more than" in caplog.text
    other = PreparedCache(tmp_path / "cache", SETTINGS, ["CT-like"], LABELS, gib=2.5 * entry / 2**30)
    other.fill(cases[:1])
    assert len(ids(limited)) == 6
    assert len(ids(other)) == 1
    del limited
    other.fill(cases[:1])
    assert len(list(other.root.glob("prepared-*/case*"))) == 2
    assert len(ids(other)) == 1


def test_settings_live_side_by_side(cache, random_cases, computed, tmp_path):
    (case,) = random_cases(1)
    kinds = [
        (SETTINGS.model_copy(update={"spacing": None}), ["MRI"], LABELS),
        (SETTINGS.model_copy(update={"crop_foreground": False}), ["MRI"], LABELS),
        (SETTINGS, ["CT-like"], LABELS),
        (SETTINGS, ["MRI"], {**LABELS, "other": 3}),
    ]
    caches = [cache, *(PreparedCache(tmp_path / "cache", *kind) for kind in kinds)]
    for _ in range(2):
        for one in caches:
            one.fill([case])
    assert len(computed) == 5
    renamed = PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], {"empty": 0, "a": 1, "b": 5})
    renamed.fill([case])
    assert len(computed) == 5


def test_an_interrupted_fill_leaves_whole_entries_only(cache, random_cases, computed, monkeypatch):
    cases, save = random_cases(3), np.save

    def interrupted(path, array, **options):
        if len(computed) == 2 and Path(path).name == "label.npy":
            raise KeyboardInterrupt
        save(path, array, **options)

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(cases)
    assert ids(cache) == ["case_0"]
    monkeypatch.setattr(np, "save", save)
    cache.fill(cases)
    assert computed == ["case_0", "case_1", "case_1", "case_2"]


def test_damaged_entries_are_computed_again(cache, random_cases, computed):
    (case,) = random_cases(1)
    good = cache.get(case).image.copy()
    (entry,) = cache.folder.iterdir()

    def rewrite(name, content):
        (entry / name).unlink()
        (entry / name).write_bytes(content)

    facts = json.loads((entry / "facts.json").read_text())
    del facts["shape"]
    image = (entry / "image.npy").read_bytes()
    damages = [
        ("image.npy", image[:-8]),
        ("image.npy", b""),
        ("image.npy", (entry / "label.npy").read_bytes()),
        ("label.npy", pickle.dumps([1, 2])),
        ("facts.json", b"{"),
        ("facts.json", json.dumps(facts).encode()),
        ("facts.json", b"[]"),
    ]
    for count, (name, content) in enumerate(damages, 2):
        rewrite(name, content)
        again = PreparedCache(cache.root, SETTINGS, ["MRI"], LABELS)
        np.testing.assert_array_equal(again.get(case).image, good)
        assert len(computed) == count
    (entry / "foreground.npy").unlink()
    cache.fill([case])
    assert len(computed) == len(damages) + 2


def test_mistakes_are_all_named_and_the_rest_is_kept(cache, random_cases, computed):
    cases = random_cases(4)
    cases[1].images[0].write_bytes(b"")
    cases[2].label.unlink()
    with pytest.raises(
        InputError, match=r"(?s)2 of 4 cases.*case_1_0000.nii.gz is empty.*case_2.nii.gz cannot be read"
    ):
        cache.fill(cases)
    assert ids(cache) == ["case_0", "case_3"]


def test_another_process_was_faster(cache, random_cases, monkeypatch):
    (case,) = random_cases(1)

    def beaten(*args):
        monkeypatch.setattr(cache_module, "prepare", prepare)
        PreparedCache(cache.folder.parent, SETTINGS, ["MRI"], LABELS).fill([case])
        monkeypatch.setattr(cache_module.shutil, "rmtree", lambda *args, **options: None)
        return prepare(*args)

    monkeypatch.setattr(cache_module, "prepare", beaten)
    cache.fill([case])
    assert cache.get(case).image.size


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("moment", range(3))
def test_what_another_process_puts_there_at_any_moment_stays(damaged, moment, cache, random_cases):
    (case,) = random_cases(1)
    if damaged:
        PreparedCache(cache.root, SETTINGS, ["MRI"], LABELS).fill([case])
        next(cache.folder.glob("case_0-*/image.npy")).write_bytes(b"")
    looks, theirs, read = [], [], cache._read

    def overtaken(wanted):
        found = read(wanted)
        if len(looks) == moment:
            cache._read = read
            PreparedCache(cache.root, SETTINGS, ["MRI"], LABELS).fill([case])
            theirs.append(next(cache.folder.glob("case_0-*")).stat().st_mtime_ns)
        looks.append(found)
        return found

    cache._read = overtaken
    cache.open(case)
    assert theirs == [next(cache.folder.glob("case_0-*")).stat().st_mtime_ns]
    assert len(list(cache.folder.iterdir())) == 1


def test_case_ids_as_long_as_file_names_may_be(cache, random_cases, tmp_path):
    (case,) = random_cases(1)
    cases = []
    for end in "ab":
        path = tmp_path / f"{'脑' * 82}{end}.nii.gz"
        cases.append(
            replace(case, id=path.name.removesuffix(".nii.gz"), images=(Path(shutil.copy(case.images[0], path)),))
        )
    cache.fill(cases)
    assert len(list(cache.folder.iterdir())) == 2
    assert [cache.get(case).case_id for case in cases] == [case.id for case in cases]


def test_no_permission_to_write(random_cases, tmp_path):
    (tmp_path / "file").touch()
    cache = PreparedCache(tmp_path / "file" / "cache", SETTINGS, ["MRI"], LABELS)
    with pytest.raises(InputError, match="cannot write to the folder"):
        cache.fill(random_cases(1))


def test_a_case_needs_its_files(cache, tmp_path):
    with pytest.raises(InputError, match=r"gone.nii.gz cannot be read \(No such file"):
        cache.get(Case("gone", (tmp_path / "gone.nii.gz",)))


def test_datasets_that_name_their_cases_alike(cache, random_cases, computed, tmp_path):
    (case,) = random_cases(1)
    for part in ("images", "label"):
        folder = tmp_path / part
        folder.mkdir()
        files = case.images if part == "images" else (case.label,)
        copies = tuple(Path(shutil.copy(file, folder)) for file in files)
        other = replace(case, images=copies) if part == "images" else replace(case, label=copies[0])
        computed.clear()
        for _ in range(2):
            cache.get(case), cache.get(other)
        assert len(computed) == 1 + (part == "images")


def test_what_a_killed_process_left_is_removed(cache, random_cases):
    old, new = cache.folder / ".writing-1-case", cache.folder / ".writing-2-case"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "image.npy").touch()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    cache.fill(random_cases(1))
    assert not old.exists()
    assert new.exists()
