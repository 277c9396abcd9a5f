"""Tensors by name into a network, in whole or in part."""

import pytest
import torch
from torch import nn

from dlka_med.networks import load_matching


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_all_tensors(network):
    tensors = {name: torch.full_like(t, 2) for name, t in network.state_dict().items()}
    report = load_matching(network, tensors)
    assert report.complete
    assert report.summary == "4 tensors loaded"
    assert all(torch.equal(t, tensors[name]) for name, t in network.state_dict().items())


def test_a_part(network):
    before = {name: t.clone() for name, t in network.state_dict().items()}
    tensors = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(4), "2.bias": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"2 missing: 1.weight; 1.bias\n1 unexpected: 2.bias\n1 of wrong"):
        load_matching(network, tensors)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    report = load_matching(network, tensors, partial=True)
    assert report.loaded == ("0.weight",)
    assert report.misshapen == {"0.bias": ((4,), (3,))}
    assert not report.complete
    changed = {name for name, t in network.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"0.weight"}


def test_nothing_that_fits_is_an_error_even_in_part(network):
    with pytest.raises(ValueError, match="4 missing"):
        load_matching(network, {"a": torch.zeros(1)}, partial=True)
