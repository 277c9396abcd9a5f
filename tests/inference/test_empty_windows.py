"""Empty windows pass the network once, and nothing changes by it."""

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.inference.empty_windows import OnceIfEmpty
from dlka_med.inference.windows import Layout, Load, slabs_of_logits

CPU = torch.device("cpu")


class Counting:
    """A network that sees its neighbours and where it is, and counts the windows that pass it."""

    def __init__(self, dims):
        torch.manual_seed(0)
        self.conv, self.windows = (nn.Conv2d if dims == 2 else nn.Conv3d)(2, 3, 3, padding=1), []

    def __call__(self, x):
        self.windows += [window.clone() for window in x]
        with torch.no_grad():
            return self.conv(x) + torch.linspace(-1, 1, x.shape[-1])


def blank(windows: torch.Tensor, empty) -> list[bool]:
    values = torch.tensor(empty).reshape(1, -1, *[1] * (windows.ndim - 2))
    return (windows == values).flatten(1).all(1).tolist()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("pattern", ["nothing", "empty", "01", "10", "0110100", "1110111", "0001"])
def test_logits_are_those_of_all_windows_and_the_empty_one_passes_once(dims, batch, pattern):
    """1 stands for an empty window."""
    empty, random = (-1.5, 0.25), torch.Generator().manual_seed(1)
    signs = {"nothing": "000", "empty": "11111"}.get(pattern, pattern)
    windows = torch.randn(len(signs), 2, *(7, 6, 5)[:dims], generator=random)
    for window, sign in zip(windows, signs, strict=True):
        window[:, 0], window[0] = torch.tensor(empty).reshape(2, *[1] * (dims - 1)), empty[0]
        if sign == "1":
            window[...] = torch.tensor(empty).reshape(2, *[1] * dims)
    network, plain = Counting(dims), Counting(dims)
    once = OnceIfEmpty(network, empty)
    found = torch.cat([once(part) for part in windows.split(batch)])
    torch.testing.assert_close(found, plain(windows))
    assert blank(windows, empty) == [sign == "1" for sign in signs]
    passed = blank(torch.stack(network.windows), empty)
    assert passed.count(True) == min(signs.count("1"), 1)
    assert passed.count(False) == signs.count("0")
    assert once.spared == max(signs.count("1") - 1, 0)


def test_logits_that_are_changed_later_leave_the_kept_ones_alone():
    once = OnceIfEmpty(lambda windows: windows + 1)
    for _ in range(3):
        logits = once(torch.zeros(2, 1, 3, 4))
        torch.testing.assert_close(logits, torch.ones(2, 1, 3, 4))
        logits.zero_()


@pytest.mark.parametrize("empty", [(), (-2.0, 3.0)])
@pytest.mark.parametrize("load", [1, 3])
def test_an_image_with_an_empty_surrounding_keeps_its_logits(empty, load):
    shape, patch = (40, 33), (8, 6)
    around = np.array(empty or (0, 0), np.float32).reshape(2, 1, 1)
    image = np.broadcast_to(around, (2, *shape)).copy()
    image[:, 15:24, 12:20] = np.random.default_rng(0).normal(size=(2, 9, 8))
    layout, network, plain = Layout.of(shape, patch, 0.5), Counting(2), Counting(2)
    slabs = slabs_of_logits(image, layout, network, CPU, Load(load), empty=empty)
    found = torch.cat([logits.clone() for _, logits in slabs], dim=1)
    # With other values for empty voxels no window is empty: the way before.
    slabs = slabs_of_logits(image, layout, plain, CPU, Load(load), empty=(77.0, 77.0))
    expected = torch.cat([logits.clone() for _, logits in slabs], dim=1)
    torch.testing.assert_close(found, expected)
    assert len(plain.windows) == layout.count
    assert len(network.windows) < layout.count / 2
