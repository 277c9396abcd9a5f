"""Devices by name."""

import pytest
import torch

from dlka_med.errors import InputError
from dlka_med.inference.device import find_device


def test_devices_are_found_by_name():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpu", "no device called 'gpu'"),
        ("cuda:77", "cuda:77 is not there"),
        ("meta", "meta cannot be used"),
        pytest.param("mps", "mps cannot be used", marks=pytest.mark.skipif(torch.mps.is_available(), reason="it is")),
        pytest.param("xpu", "xpu cannot be used", marks=pytest.mark.skipif(torch.xpu.is_available(), reason="it is")),
    ],
)
def test_what_is_not_there_is_refused(name, told):
    with pytest.raises(InputError, match=told):
        find_device(name)
