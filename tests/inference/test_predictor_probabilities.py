"""Probabilities of whole cases, and label maps that do not depend on the temperature."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import build_run_network

from .test_predict import make_run

NATIVE = {"whole": np.eye(4), "resampled": np.diag([0.7, 0.7, 0.7, 1])}


def network_of(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.GELU(), nn.Conv3d(8, classes, 1))


def case(native, shape=(6, 7, 8)):
    image = 4 * np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    native_shape = tuple(int(size / native[0, 0]) for size in shape)
    return Prepared("a", image, None, np.eye(4), native_shape, native)


@pytest.mark.parametrize("grid", NATIVE)
@pytest.mark.parametrize("painted", [None, (1, 2, 3)])
def test_label_maps_are_the_same_at_every_temperature(grid, painted):
    prepared = case(NATIVE[grid])
    maps = [
        Predictor(network_of(), patch_size=(6, 6, 6), painted=painted, temperature=temperature).segment(prepared)
        for temperature in (1.0, 0.2, 7.5)
    ]
    assert len(np.unique(maps[0])) > 2
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_likeliest_class_is_that_of_the_label_map(temperature):
    prepared = case(np.eye(4))
    predictor = Predictor(network_of(), patch_size=(6, 6, 6), temperature=temperature)
    np.testing.assert_array_equal(predictor.probabilities(prepared).argmax(0), predictor.segment(prepared))
    regions = Predictor(network_of(), patch_size=(6, 6, 6), painted=(1, 2, 3), temperature=temperature)
    found = regions.probabilities(prepared)
    expected = np.zeros(prepared.native_shape, np.uint8)
    for index, chance in zip((1, 2, 3), found, strict=True):
        expected[chance > 0.5] = index
    np.testing.assert_array_equal(regions.segment(prepared), expected)


def test_logits_are_divided_by_the_temperature():
    prepared, network = case(np.eye(4)), network_of()
    predictor = Predictor(network, patch_size=(6, 7, 8), temperature=2.5)
    with torch.no_grad():
        logits = network(torch.from_numpy(prepared.image)[None])[0]
    found = predictor.probabilities(prepared)
    np.testing.assert_allclose(found, (logits / 2.5).softmax(0), atol=1e-5)
    assert (found.shape, found.dtype) == ((3, 6, 7, 8), np.float32)
    torch.testing.assert_close(predictor.prepared_logits(prepared), logits, atol=1e-5, rtol=1e-5)


def test_a_2d_network_has_probabilities_of_a_volume():
    prepared, network = case(np.eye(4)), nn.Conv2d(1, 2, 1)
    found = Predictor(network, patch_size=(8, 8), slices="coronal", temperature=3).probabilities(prepared)
    with torch.no_grad():
        slices = torch.from_numpy(prepared.image).movedim(2, 0)
        expected = (network(slices) / 3).softmax(1).movedim(0, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_broken_weights_have_no_probabilities():
    network = nn.Conv3d(1, 2, 1)
    network.weight.data[0] = torch.nan
    with pytest.raises(InputError, match=r"case a.*NaN"):
        Predictor(network, patch_size=(4, 4, 4)).probabilities(case(np.eye(4)))


def test_a_temperature_is_positive():
    with pytest.raises(ValueError, match="temperature"):
        Predictor(nn.Identity(), patch_size=(4, 4, 4), temperature=0)


def test_a_run_folder_gives_its_temperature(tmp_path):
    run = make_run(tmp_path / "run")
    run.save_weights(build_run_network(run.config).state_dict())
    assert Predictor.of_run(run.path).temperature == 1
    digest = hashlib.sha256(run.weights_file.read_bytes()).hexdigest()
    run.calibration_file.write_text(json.dumps({"temperature": 1.7, "weights": {"run": digest}}))
    predictor = Predictor.of_run(str(run.path), overlap=0.25)
    assert (predictor.temperature, predictor.overlap, predictor.patch_size) == (1.7, 0.25, (6, 6, 6))
    assert Predictor.of_run(run.path, temperature=1.0).temperature == 1
