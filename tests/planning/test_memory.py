"""Estimates against tensors that are counted by hand, and against what steps hold."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dlka_med.planning.memory import PROCESS, Ledger, activations, case_bytes, estimated_peak, free_memory
from dlka_med.planning.probe import probe

from .configs import config_of, volumes

MIB = 2**20


IMAGES = {"name": "dlka_net_2d", "encoder": "convnext_atto", "depths": [1, 1, 1], "deformation": "depthwise"}
PLANS = {
    "hippocampus": config_of(volumes(), (40, 56, 40)),
    "larger": config_of(volumes(), (64, 64, 64)),
    "thick slices": config_of(volumes(strides=((2, 2, 1), (2, 2, 2), (2, 2, 2))), (96, 96, 16), channels=tuple("abcd")),
    "narrow, recomputed": config_of(volumes(16, norm="instance", checkpointing=True), (80, 80, 48), batch=1),
    "deep": config_of(volumes(depth=2, strides=((4, 4, 2), (2, 2, 2), (2, 2, 2))), (96, 96, 32)),
    "many labels": config_of(volumes(), (48, 48, 32), labels=60),
    "images": config_of(IMAGES | {"supervised_scales": 2}, (192, 192), batch=4, channels=tuple("RGB"), labels=2),
    "large images": config_of(IMAGES | {"supervised_scales": 2}, (448, 320), batch=4, labels=2),
}


def test_tensors_are_counted_while_they_live():
    with FakeTensorMode(), Ledger() as ledger:
        first = torch.empty(MIB)
        assert ledger.held == 4 * MIB
        view = first.view(2, -1)[:, ::2]
        assert ledger.held == 4 * MIB
        second = view + 1
        assert ledger.held == 6 * MIB
        del second
        assert ledger.held == 4 * MIB
        del first, view
    assert (ledger.held, ledger.peak) == (0, 6 * MIB)


def test_nothing_is_computed():
    assert estimated_peak(config_of(volumes(), (256, 256, 256)), "cpu") > 60 * 2**30


@pytest.mark.slow
def test_large_windows_are_scaled_up_from_small_ones(monkeypatch):
    config = config_of(volumes(8), (64, 64, 32))
    whole = estimated_peak(config, "cpu")
    monkeypatch.setattr("dlka_med.planning.memory.WALKED", 2**16)
    assert estimated_peak(config, "cpu") == pytest.approx(whole, rel=0.03)


@pytest.mark.slow
def test_an_estimate_grows_with_the_window_and_shrinks_with_recomputing():
    small, large = (estimated_peak(config_of(volumes(), (n,) * 3), "cpu") for n in (32, 64))
    assert small < large
    assert estimated_peak(config_of(volumes(checkpointing=True), (64,) * 3), "cpu") < large


def test_regions_and_ignored_voxels_hold_little_more():
    plain = config_of(volumes(8), (32, 32, 32))
    regions = {"background": 0, "all": [1, 2], "core": 2, "ignore": 9}
    other = config_of(volumes(8), (32, 32, 32))
    dataset = other.dataset.model_copy(update={"labels": regions, "regions_class_order": (1, 2)})
    one, two = (estimated_peak(each, "cpu") for each in (plain, other.model_copy(update={"dataset": dataset})))
    assert one == pytest.approx(two, rel=0.1)


@pytest.mark.parametrize(
    ("patch", "share"), [((32, 32, 32), 32 / 256), ((96, 512, 512), 96 / 128), ((64, 64), 1 / 256)]
)
def test_a_case_takes_its_image_twice_and_a_band_of_logits(patch, share):
    size, voxels = (128, 200, 256), 2 * 128 * 200 * 256
    expected = PROCESS + 4 * voxels * (2 * 3 + share * (20 + 1))
    assert case_bytes(voxels, 20, 3, size, patch) == pytest.approx(expected)


@pytest.mark.parametrize("device", ["cpu", "mps"])  # a Mac's GPU has the memory of the machine
def test_free_memory_is_some(device):
    assert 2**20 < free_memory(device) < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_estimates_are_within_a_fifth_of_the_peak(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # Threads hold buffers of their own.
    small = {"patch_size": tuple(min(n, 32) for n in PLANS[name].training.patch_size)}
    training = PLANS[name].training.model_copy(update=small)
    # Numba may compile in it, which takes memory that later steps do not.
    probe(PLANS[name].model_copy(update={"training": training}), "cpu")
    measured = probe(PLANS[name], "cpu")
    assert measured.failed is None
    assert estimated_peak(PLANS[name], "cpu") == pytest.approx(measured.peak, rel=0.2)


@pytest.mark.slow
def test_a_window_that_is_predicted_holds_less_than_a_step():
    """At least its image and logits, and of one window whatever the batch; a step keeps the maps of all layers."""
    one, four = (config_of(volumes(8), (32, 32, 32), batch=batch) for batch in (1, 4))
    window, step = activations(one, "cpu", training=False), activations(one, "cpu")
    assert 4 * 32**3 * (1 + len(one.dataset.scheme.values)) < window < step / 2
    assert activations(four, "cpu", training=False) == window
    assert activations(four, "cpu") > 3 * step
