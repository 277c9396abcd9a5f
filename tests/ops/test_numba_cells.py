"""Where compiled kernels are kept."""

import pytest

from dlka_med.ops.backends import numba_cells


def test_where_nothing_can_be_kept_on_disk_a_warning_is_the_price():
    """Numba finds no folder for a function that stands in no file."""
    space = {}
    exec(compile("def double(x):\n    return 2 * x", "<nowhere>", "exec"), space)
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        double = numba_cells.compiled(space["double"])
    assert double(21) == 42
