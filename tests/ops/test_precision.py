import pytest
import torch

from dlka_med.ops.precision import autocast_off


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_is_off_inside_and_as_before_outside(enabled):
    a = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        with autocast_off("cpu"):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == (torch.bfloat16 if enabled else torch.float32)


def test_devices_without_autocast():
    with autocast_off("meta"):
        assert (torch.ones(2, 2, device="meta") @ torch.ones(2, 2, device="meta")).dtype == torch.float32
