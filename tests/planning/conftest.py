"""Datasets in numbers, without a file."""

from collections.abc import Callable

import pytest

from dlka_med.planning.choice import Budget
from dlka_med.planning.summary import Channel, Structure, Summary

GIB = 2**30


def _summary(
    size=(35, 51, 36), spacing=(1.0, 1.0, 1.0), *, cases=20, groups=None, channels=("MRI",), labels=2, **changes
) -> Summary:
    dims = len(size)
    extent = tuple(0.4 * n * mm for n, mm in zip(size, spacing, strict=True))
    structures = tuple(Structure(f"part_{n}", cases, 0.03, extent, 1.0, 12.0) for n in range(labels))
    values = {
        "root": "somewhere",
        "name": "Some set",
        "dims": dims,
        "cases": cases,
        "groups": cases if groups is None else groups,
        "outputs": labels + 1,
        "labels": labels,
        "channels": tuple(Channel(name, (100.0, 20.0, 40.0, 160.0), 0.0) for name in channels),
        "structures": structures,
        "spacings": (spacing,) * cases,
        "sizes": (size,) * cases,
    }
    return Summary(**values | changes)


@pytest.fixture
def summary() -> Callable[..., Summary]:
    """`summary(size, spacing, ...)`: equal cases; further arguments replace fields."""
    return _summary


@pytest.fixture
def cpu() -> Budget:
    """20 minutes of two cores."""
    return Budget("cpu", 16 * GIB, minutes=20)


@pytest.fixture
def gpu() -> Budget:
    """1000 epochs of a large GPU."""
    return Budget("cuda", 78 * GIB, epochs=1000, cores=16, precision="bf16")
