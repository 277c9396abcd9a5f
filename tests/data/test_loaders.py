import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.config.training import Augmentation
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import Case
from dlka_med.data.loaders import PatchDataset, cut, patch_loader
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
SETTINGS = Preprocessing(intensity=(Intensity(kind="none"),))
OPTIONS = {"patch_size": (6, 8, 6), "batch_size": 2, "steps": 3, "oversampling": 0.5, "seed": 5}


@pytest.fixture
def cache(tmp_path):
    return PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], LABELS)


def batches(loader, epoch: int) -> list[dict[str, torch.Tensor]]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in ("image", "label")
    )


def test_workers_do_not_change_the_batches(cache, random_cases):
    cases = random_cases(4)
    cache.fill(cases)
    alone, helped = (
        patch_loader(cache, cases, augmentation=Augmentation(), workers=workers, **OPTIONS) for workers in (0, 2)
    )
    expected = [batches(alone, epoch) for epoch in range(3)]
    assert [len(epoch) for epoch in expected] == [3, 3, 3]
    assert not same(expected[0], expected[1])
    for epoch in (0, 1, 2, 1):
        assert same(batches(helped, epoch), expected[epoch])
    resumed = patch_loader(cache, cases, augmentation=Augmentation(), epoch=2, **OPTIONS)
    assert same(list(resumed), expected[2])
    other = patch_loader(cache, cases, augmentation=Augmentation(), **OPTIONS | {"seed": 6})
    assert not same(list(other), expected[0])
    batch = expected[0][0]
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 1, 6, 8, 6), torch.float32)
    assert (batch["label"].shape, batch["label"].dtype) == ((2, 1, 6, 8, 6), torch.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_may_have_patches_of_another_size(cache, random_cases, workers):
    """Workers that outlive the epoch follow."""
    cases, sizes = random_cases(2), iter([(4, 4, 4), None, (2, 8, 6)])
    cache.fill(cases)
    augmentation = Augmentation(rotate_probability=1.0, scale_probability=1.0)
    loader = patch_loader(
        cache, cases, augmentation=augmentation, workers=workers, size_of_epoch=lambda: next(sizes), **OPTIONS
    )
    shapes = [{batch[key].shape[1:] for batch in batches(loader, epoch) for key in batch} for epoch in range(3)]
    assert shapes == [{(1, 4, 4, 4)}, {(1, 6, 8, 6)}, {(1, 2, 8, 6)}]


@pytest.mark.slow
def test_spawned_workers(cache, random_cases):
    cases = random_cases(2)
    cache.fill(cases)
    alone, spawned = (
        patch_loader(cache, cases, augmentation=Augmentation(), workers=workers, **OPTIONS) for workers in (0, 1)
    )
    spawned.multiprocessing_context = "spawn"
    assert same(batches(spawned, 1), batches(alone, 1))


def test_ranks_share_the_epoch(cache, random_cases):
    cases = random_cases(4)
    one = list(patch_loader(cache, cases, augmentation=None, **OPTIONS | {"batch_size": 4}))
    ranks = [list(patch_loader(cache, cases, augmentation=None, rank=rank, world=2, **OPTIONS)) for rank in range(2)]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))


def test_the_random_state_of_the_training_is_left_alone(cache, random_cases):
    state = torch.get_rng_state()
    list(patch_loader(cache, random_cases(2), augmentation=Augmentation(), workers=1, **OPTIONS))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_case_equally_often(cache, random_cases):
    cases = random_cases(5)
    dataset = PatchDataset(cache, cases, (3, 3, 3), 10, 0, None, seed=0)
    values = {case.id: set(cache.get(case).image.ravel().tolist()) for case in cases}

    def drawn(epoch):
        firsts = [dataset[epoch, index]["image"].flatten()[0].item() for index in range(10)]
        return [next(name for name, own in values.items() if first in own) for first in firsts]

    assert sorted(drawn(0)) == sorted([*values] * 2)
    assert drawn(0)[:5] != drawn(0)[5:] or drawn(0) != drawn(1)
    assert sorted(drawn(1)) == sorted([*values] * 2)


def test_oversampled_patches_are_centred_on_each_class(cache, make_case):
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    label[4:24, 4:24, 4:24] = 1
    label[11, 17, 9] = 5
    case = make_case("a", np.random.default_rng(0).normal(size=label.shape), label)
    dataset = PatchDataset(cache, [case], (5, 5, 5), 200, 1, None, seed=0)
    centres = [dataset[0, index]["label"][0, 2, 2, 2].item() for index in range(200)]
    assert set(centres) == {1, 2}
    assert 70 < centres.count(2) < 130
    plain = PatchDataset(cache, [case], (5, 5, 5), 200, 0, None, seed=0)
    assert sum(bool((plain[0, index]["label"] == 2).any()) for index in range(200)) < 20


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.33, 33), (0.5, 50), (1, 100)])
def test_the_share_of_oversampled_patches(cache, random_cases, share, expected):
    dataset = PatchDataset(cache, random_cases(1), (5, 5, 5), 100, share, None, seed=0)
    chosen = [dataset._is_oversampled(index) for index in range(100)]
    assert sum(chosen) == expected
    assert abs(sum(chosen[:50]) - expected / 2) <= 1


def test_patches_lie_anywhere_inside(cache, make_case):
    image = np.arange(1, 7 * 8 * 9 + 1, dtype=np.float32).reshape(7, 8, 9)
    case = make_case("a", image, np.zeros((7, 8, 9), dtype=np.uint8))
    dataset = PatchDataset(cache, [case], (6, 6, 8), 300, 0.5, None, seed=0)
    starts = set()
    for index in range(300):
        patch = dataset[0, index]["image"][0].numpy()
        start = np.unravel_index(int(patch[0, 0, 0]) - 1, image.shape)
        np.testing.assert_array_equal(patch, cut(image[None], start, (6, 6, 8))[0])
        starts.add(start)
    assert len(starts) == 2 * 3 * 2


def test_small_cases_are_centred_in_what_an_empty_voxel_becomes(tmp_path, make_case):
    """Of each channel by itself: one with an empty surrounding, which is cropped away, and a CT."""
    random = np.random.default_rng(0)
    image = np.stack([random.normal(50, 5, (6, 9, 5)), random.normal(0, 300, (6, 9, 5))]).astype(np.float32)
    image[:, :1], image[:, 5:] = 0, 0
    label = np.ones((6, 9, 5), dtype=np.uint8)
    ct = Intensity(kind="ct", lower=-100, upper=200, mean=50, std=25)
    settings = Preprocessing(intensity=(Intensity(kind="zscore_nonzero"), ct))
    cache = PreparedCache(tmp_path / "cache", settings, ["MRI", "CT"], LABELS)
    case, inside = make_case("a", image, label), image[:, 1:5]
    mean, std = inside[0].mean(), inside[0].std()
    for share in (0, 1):
        patch = PatchDataset(cache, [case], (7, 6, 8), 10, share, None, seed=0)[0, 3]
        mask = np.zeros((7, 6, 8), dtype=bool)
        mask[1:5, :, 1:6] = True
        np.testing.assert_array_equal(patch["label"][0].numpy(), mask)
        mri, ct = patch["image"].numpy()
        np.testing.assert_allclose(mri[~mask], (0 - mean) / std, rtol=1e-4)
        np.testing.assert_allclose(ct[~mask], -6, rtol=1e-6)
        assert np.abs(mri[mask]).max() < 5
        assert -6 <= ct[mask].min() < ct[mask].max() <= 6


def test_patches_are_normalised_as_whole_cases_are(tmp_path, random_cases):
    """By the numbers of the case, not of the patch; and the files may be gone."""
    (case,) = random_cases(1)
    settings = Preprocessing(intensity=(Intensity(kind="robust"),))
    cache = PreparedCache(tmp_path / "cache", settings, ["MRI"], LABELS)
    cache.fill([case])
    for file in (*case.images, case.label):
        file.unlink()
    whole = cache.get(case).normalised(settings.intensity).image[0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (4, 4, 4)).reshape(-1, 4, 4, 4)
    dataset = PatchDataset(cache, [case], (4, 4, 4), 5, 0.5, None, seed=0)
    for index in range(5):
        patch = dataset[0, index]["image"][0].numpy()
        assert np.abs(windows - patch).max((1, 2, 3)).min() < 1e-6


def test_warped_patches_see_the_case_around_them(cache, make_case):
    shape = (40, 40, 40)
    case = make_case("a", np.full(shape, 3.0), np.ones(shape, dtype=np.uint8))
    off = {name: 0 for name in Augmentation.model_fields if name.endswith("probability")}
    options = Augmentation(**off | {"rotate_probability": 1, "scale_probability": 1, "scale_range": (0.8, 0.9)})
    dataset = PatchDataset(cache, [case], (9, 10, 11), 40, 0.5, options, seed=0)
    full = [bool((dataset[0, index]["label"] == 1).all()) for index in range(40)]
    assert sum(full) > 15, "only at the border of the case a warped patch needs padding"


def test_mistakes(cache, make_case, random_cases):
    with pytest.raises(InputError, match="there are no training cases"):
        patch_loader(cache, [], augmentation=None, **OPTIONS)
    flat = PatchDataset(cache, random_cases(1), (5, 5), 4, 0, None, seed=0)
    with pytest.raises(InputError, match=r"patch_size \(5, 5\) does not fit case case_0"):
        flat[0, 0]
    bare = make_case("bare", np.ones((6, 6, 6)))
    with pytest.raises(InputError, match="case bare has no label"):
        PatchDataset(cache, [bare], (5, 5, 5), 4, 0, None, seed=0)[0, 0]


def test_the_traceback_of_the_worker_reaches_the_user(cache, make_case):
    case = make_case("bare", np.ones((6, 6, 6)))
    loader = patch_loader(cache, [case], augmentation=None, workers=1, **OPTIONS)
    with pytest.raises(InputError, match=r"(?s)worker process 0.*Traceback.*__getitem__.*case bare has no label"):
        list(loader)


@pytest.mark.parametrize("start", [(-3, 0), (2, 5), (-9, 1), (7, 7), (-2, -2)])
def test_cut(start):
    array = np.random.default_rng(0).normal(size=(2, 5, 6))
    padded = np.stack(
        [np.pad(channel, 20, constant_values=value) for channel, value in zip(array, (3, -7), strict=True)]
    )
    x, y = start[0] + 20, start[1] + 20
    outside = np.array([3, -7])
    np.testing.assert_array_equal(cut(array, start, (8, 4), outside), padded[:, x : x + 8, y : y + 4])


SCRIPT = """
import signal, sys
from pathlib import Path
from dlka_med.config.dataset import Preprocessing
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import Case
from dlka_med.data.loaders import patch_loader

image, label, folder = map(Path, sys.argv[1:])
cache = PreparedCache(folder, Preprocessing(), ["MRI"], {"background": 0, "body": 1, "core": 5})
options = dict(patch_size=(4, 4, 4), batch_size=1, steps=9, oversampling=0, augmentation=None, seed=0)
loader = patch_loader(cache, [Case("a", (image,), label)], workers=1, **options)
batches = iter(loader)
next(batches)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
print("ready", flush=True)
sys.stdin.readline()
print(len(list(batches)), flush=True)
"""


@pytest.mark.slow
def test_signals_to_the_group_leave_the_worker_and_the_end_of_a_script_does_not(random_cases, tmp_path):
    (case,) = random_cases(1)
    command = [sys.executable, "-c", SCRIPT, *map(str, (*case.images, case.label, tmp_path / "cache"))]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as script:
        try:
            assert script.stdout.readline() == "ready\n"
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(script.pid, number)
            time.sleep(0.5)
            assert script.communicate("go\n", timeout=20) == ("8\n", "")
            assert script.returncode == 0
        finally:
            script.kill()


HANG_UPS = """
import multiprocessing, os, socket
from multiprocessing.connection import Client
from multiprocessing.resource_sharer import DupFd
from dlka_med.data.loaders import _follow_the_training

_follow_the_training(0)
served = DupFd(os.open(os.devnull, os.O_RDONLY))
address, _ = served._id
for reads in (0, 1, 1000):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(address)
        caller.recv(reads)
with Client(address, authkey=multiprocessing.current_process().authkey) as caller:
    caller.send("no key and no process")
os.close(served.detach())
"""


def test_a_worker_tells_its_faults_but_not_that_the_training_hung_up():
    """As an interrupted training does in the middle of fetching a batch."""
    done = subprocess.run([sys.executable, "-c", HANG_UPS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert "ValueError: too many values to unpack" in done.stderr


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", None])
def test_slices_of_volumes_in_the_plane_that_was_asked_for(tmp_path, make_case, plane, orientation):
    """The value of a voxel is its coordinate across the plane, so a slice has one value."""
    affine = np.array([[0, 0, 1.0, 5], [-2, 0, 0, 5], [0, 3, 0, 5], [0, 0, 0, 1]])  # stored as P, S, R
    shape, world = (6, 8, 7), {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    coordinates = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + 100
    label = np.zeros(shape, np.uint8)
    label[1:5, 2:6, 1:6] = 1
    settings = SETTINGS.model_copy(update={"orientation": orientation, "crop_foreground": False})
    cache = PreparedCache(tmp_path / "slices", settings, ["MRI"], LABELS)
    case = make_case("a", coordinates[world].astype(np.float32), label, affine)
    dataset = PatchDataset(cache, [case], (5, 4), 60, 0.5, None, seed=0, slices=plane)
    seen, centres = set(), []
    for index in range(60):
        patch = dataset[0, index]
        assert (patch["image"].shape, patch["label"].shape) == ((1, 5, 4), (1, 5, 4))
        assert len(patch["image"].unique()) == 1, "but for zeros around small slices, of which there are none"
        seen.add(patch["image"].max().item())
        centres.append(patch["label"][0, 2, 2].item())
    assert seen == set(np.unique(coordinates[world]))
    assert sum(centres[1::2]) == 30, "every second patch lies about a labelled voxel"
    augmented = PatchDataset(cache, [case], (5, 4), 60, 0.5, Augmentation(), seed=0, slices=plane)
    assert augmented[0, 1]["image"].shape == (1, 5, 4)
    flat = PatchDataset(cache, [case], (5, 4), 60, 0.5, None, seed=0)
    with pytest.raises(InputError, match=r"patch_size \(5, 4\) does not fit case a"):
        flat[0, 0]


def test_patches_of_2d_images(tmp_path, save):
    pixels = np.arange(1, 6 * 9 * 3 + 1, dtype=np.uint8).reshape(6, 9, 3)
    case = Case("a", (save(tmp_path / "a.png", pixels),), save(tmp_path / "labels/a.png", pixels[..., 0] % 2))
    settings = Preprocessing(intensity=SETTINGS.intensity * 3)
    cache = PreparedCache(tmp_path / "cache", settings, ["R", "G", "B"], {"background": 0, "odd": 1})
    dataset = PatchDataset(cache, [case], (4, 5), 30, 0.5, None, seed=0)
    for index in range(30):
        patch = dataset[0, index]
        ((row, column),) = np.argwhere(pixels[..., 0] == patch["image"][0, 0, 0].item())
        found = pixels[row : row + 4, column : column + 5]
        np.testing.assert_array_equal(patch["image"], np.moveaxis(found, -1, 0))
        np.testing.assert_array_equal(patch["label"][0], found[..., 0] % 2)


@pytest.mark.parametrize("around", [0, 9])
def test_patches_of_sparse_labels_lie_about_what_is_annotated(tmp_path, make_case, around):
    """Two of forty slices are annotated, or a structure alone; else most patches would teach nothing."""
    label = np.full((12, 12, 40), 9, np.uint8)
    label[:, :, [10, 30]] = around
    label[4:8, 4:8, 10] = 1
    case = make_case("sparse", np.zeros(label.shape, np.float32), label)
    cache = PreparedCache(tmp_path / "cache", SETTINGS, ["MRI"], {"background": 0, "body": 1, "ignore": 9})
    loader = patch_loader(cache, [case], augmentation=None, **OPTIONS | {"steps": 20, "oversampling": 0.25})
    labels = torch.cat([batch["label"] for batch in loader])
    assert set(labels.unique().tolist()) == ({0, 1, 255} if around == 0 else {1, 255})
    assert (labels != 255).flatten(1).any(1).all()
    assert cache.open(case).classes == (1,)
    assert cache.open(case).counts == {0: 2 * 144 - 16 if around == 0 else 0, 1: 16}
    assert cache.measured(case).foreground.shape == (1, 16)
