"""Wrong arguments are refused by name, and backends are chosen in order or by name."""

import re
from types import SimpleNamespace

import pytest
import torch

from dlka_med.ops import deform_conv
from dlka_med.ops.backends import BACKENDS

X = torch.zeros(2, 4, 5, 6)
GOOD = {
    "x": X,
    "offset": torch.zeros(2, 36, 5, 6),
    "weight": torch.zeros(6, 2, 3, 3),
    "bias": torch.zeros(6),
    "mask": torch.zeros(2, 18, 5, 6),
    "padding": 1,
    "groups": 2,
    "offset_groups": 2,
}
SHAPES = [
    ({"x": torch.zeros(4, 5)}, "x: expected shape (batch, channels, *spatial), got (4, 5)"),
    ({"x": torch.zeros(2, 5, 5, 6)}, "x: expected channels divisible by groups=2, got shape (2, 5, 5, 6)"),
    ({"x": torch.zeros(2, 0, 5, 6)}, "x: expected channels divisible by groups=2, got shape (2, 0, 5, 6)"),
    ({"offset_groups": 3}, "x: expected channels divisible by offset_groups=3, got shape (2, 4, 5, 6)"),
    ({"offset": torch.zeros(2, 18, 5, 6)}, "offset: expected shape (2, 36, 5, 6), got (2, 18, 5, 6)"),
    ({"offset": torch.zeros(2, 36, 6, 5)}, "offset: expected shape (2, 36, 5, 6), got (2, 36, 6, 5)"),
    ({"offset": torch.zeros(1, 36, 5, 6)}, "offset: expected shape (2, 36, 5, 6), got (1, 36, 5, 6)"),
    ({"mask": torch.zeros(2, 9, 5, 6)}, "mask: expected shape (2, 18, 5, 6), got (2, 9, 5, 6)"),
    ({"weight": torch.zeros(6, 4, 3, 3)}, "weight: expected shape (6, 2, 3, 3), got (6, 4, 3, 3)"),
    ({"weight": torch.zeros(5, 2, 3, 3)}, "weight: expected output channels divisible by groups=2"),
    ({"weight": torch.zeros(6, 2, 3)}, "weight: expected 4 axes (out, channels / groups, *kernel)"),
    ({"bias": torch.zeros(4)}, "bias: expected shape (6,), got (4,)"),
    ({"kernel_size": (3, 5)}, "kernel_size: expected (3, 3), that of weight, got (3, 5)"),
    ({"weight": None}, "kernel_size: expected with weight=None, got None"),
    ({"weight": None, "kernel_size": 3}, "groups: expected 1 with weight=None, got 2"),
    ({"dilation": 4}, "x: expected a spatial shape that holds the kernel (3, 3)"),
    ({"stride": 0}, "stride: expected integers of at least 1, got 0"),
    ({"padding": -1}, "padding: expected integers of at least 0, got -1"),
    ({"dilation": (1, 1, 1)}, "dilation: expected an integer or 2 integers, got (1, 1, 1)"),
    ({"groups": 0}, "groups: expected integers of at least 1, got 0"),
    ({"bias": torch.zeros(6, device="meta")}, "bias: expected device cpu, that of x, got meta"),
    ({"backend": "cuda"}, "backend: expected one of numba_cpu, triton_gpu, reference, got 'cuda'"),
]
TYPES = [
    ({"x": X.long()}, "x: expected a floating-point dtype, got torch.int64"),
    ({"offset": None}, "offset: expected a tensor, got NoneType"),
    ({"weight": X.to(torch.complex64)}, "weight: expected a floating-point dtype, got torch.complex64"),
    ({"stride": 1.5}, "stride: expected an integer or 2 integers, got 1.5"),
    ({"padding": (1, True)}, "padding: expected an integer or 2 integers, got (1, True)"),
    ({"padding": "same"}, "padding: expected an integer or 2 integers, got 'same'"),
]


def test_the_arguments_that_the_others_spoil_are_good():
    assert deform_conv(**GOOD).shape == (2, 6, 5, 6)


@pytest.mark.parametrize(("changes", "message"), SHAPES, ids=[message for _, message in SHAPES])
def test_what_does_not_fit_is_a_value_error(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        deform_conv(**(GOOD | changes))


@pytest.mark.parametrize(("changes", "message"), TYPES, ids=[message for _, message in TYPES])
def test_what_is_of_another_kind_is_a_type_error(changes, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        deform_conv(**(GOOD | changes))


@pytest.fixture
def fakes(monkeypatch):
    """Two backends before the reference: one that refuses, and one that answers with its argument x."""
    table = {
        "refuses": SimpleNamespace(why_not=lambda *arguments: "it is Sunday"),
        "echoes": SimpleNamespace(why_not=lambda *arguments: None, run=lambda x, *arguments: x),
    } | dict(BACKENDS)
    for name in list(BACKENDS):
        monkeypatch.delitem(BACKENDS, name)
    for name, module in table.items():
        monkeypatch.setitem(BACKENDS, name, module)


@pytest.mark.usefixtures("fakes")
def test_unnamed_takes_the_first_that_can():
    assert deform_conv(**GOOD) is X


@pytest.mark.usefixtures("fakes")
def test_named_runs_or_says_why_not():
    assert deform_conv(**GOOD, backend="reference").shape == (2, 6, 5, 6)
    with pytest.raises(ValueError, match="backend refuses: it is Sunday"):
        deform_conv(**GOOD, backend="refuses")


@pytest.mark.usefixtures("fakes")
def test_if_all_refuse_every_reason_is_told(monkeypatch):
    for name in set(BACKENDS) - {"refuses", "echoes"}:
        monkeypatch.delitem(BACKENDS, name)
    monkeypatch.setattr(BACKENDS["echoes"], "why_not", lambda *arguments: "no echo")
    with pytest.raises(ValueError, match="backend refuses: it is Sunday; backend echoes: no echo"):
        deform_conv(**GOOD)
