"""Windows in a moving band against MONAI's sliding window over the whole image."""

from math import prod

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from dlka_med.inference.windows import Layout, Load, slabs_of_logits

CPU = torch.device("cpu")
SHAPES = [(23, 17), (9, 40), (8, 8), (5, 30), (30, 5), (13, 10, 21), (9, 30, 12), (6, 5, 25), (5, 5, 5), (8, 16, 24)]
PATCHES = {2: (8, 7), 3: (8, 7, 6)}


def random_network(dims: int, classes: int = 3) -> nn.Module:
    """Sees its neighbours, and where in the window it is."""
    torch.manual_seed(0)
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(2, classes, 3, padding=1)

    def forward(x):
        with torch.no_grad():
            return conv(x) + torch.linspace(-1, 1, x.shape[-1])

    return forward


def whole(slabs, layout) -> torch.Tensor:
    """All slabs together, which must follow each other, with the axes of the image."""
    parts, following = [], 0
    for start, logits in slabs:
        assert start == following
        following += logits.shape[1]
        parts.append(logits.clone())
    assert following == layout.shape[layout.axis]
    return torch.cat(parts, dim=1).movedim(1, layout.axis + 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_equal_those_of_monai(shape, overlap, batch):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    patch, network = PATCHES[len(shape)], random_network(len(shape))
    monai = SlidingWindowInferer(patch, batch, overlap, mode="gaussian")
    expected = monai(torch.from_numpy(image)[None], network)[0]
    layout = Layout.of(shape, patch, overlap)
    found = whole(slabs_of_logits(image, layout, network, CPU, Load(batch)), layout)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_lies_around_a_small_image_is_empty_in_each_channel():
    image, seen = np.ones((2, 3, 4), np.float32), []
    layout = Layout.of((3, 4), (6, 4), 0.5)
    forward = lambda windows: seen.append(windows) or windows.clone()  # noqa: E731
    found = whole(slabs_of_logits(image, layout, forward, CPU, Load(), empty=(-4, 9)), layout)
    (window,) = seen[0]
    for channel, around in zip(window, (-4, 9), strict=True):
        np.testing.assert_array_equal(channel[:, 0], [around, 1, 1, 1, around, around])
    torch.testing.assert_close(found, torch.ones(2, 3, 4))


@pytest.mark.parametrize(("shape", "axis"), [((40, 20, 20), 0), ((20, 40, 20), 1), ((20, 20, 40), 2), ((4, 9, 8), 1)])
def test_the_band_moves_along_the_axis_that_takes_the_least(shape, axis):
    layout = Layout.of(shape, (8, 8, 8), 0.5)
    assert layout.axis == axis
    across = prod(shape) // shape[axis]
    assert layout.band_bytes(5) == 4 * 6 * min(8, shape[axis]) * across


def test_thin_windows_go_through_slices():
    layout = Layout.of((12, 20, 30), (12, 20, 1), 0.5)
    assert (layout.axis, layout.count, layout.rows) == (2, 30, 1)


class Held(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that is made while it is active."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **kwargs or {})
        if isinstance(answer, torch.Tensor):
            self.largest = max(self.largest, answer.untyped_storage().nbytes())
        return answer


def test_nothing_larger_than_the_band_is_ever_made():
    classes, layout = 20, Layout.of((10, 12, 80), (8, 8, 8), 0.5)
    image = np.zeros((1, *layout.shape), np.float32)
    forward = lambda windows: windows.expand(-1, classes, -1, -1, -1).clone()  # noqa: E731
    with Held() as held:
        for _ in slabs_of_logits(image, layout, forward, CPU, Load()):
            pass
    assert held.largest == layout.band_bytes(classes)
    assert held.largest < 4 * classes * prod(layout.shape) / 8


def hungry(most: int, forward):
    """A network that has no room for more windows than `most` at once."""

    def limited(windows):
        if len(windows) > most:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried {len(windows)} windows.\nand more")
        return forward(windows)

    return limited


def test_a_lack_of_memory_is_answered_with_fewer_windows_at_once(caplog):
    image = np.random.default_rng(0).normal(size=(2, 20, 9)).astype(np.float32)
    network, layout, load, steps = random_network(2), Layout.of((20, 9), (8, 7), 0.5), Load(8), []
    expected = whole(slabs_of_logits(image, layout, network, CPU, Load(8)), layout)
    slabs = slabs_of_logits(image, layout, hungry(2, network), CPU, load, progress=lambda *step: steps.append(step))
    torch.testing.assert_close(whole(slabs, layout), expected)
    assert load.windows == 2
    assert steps == [(done, layout.count) for done in range(2, layout.count + 1, 2)]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"not enough memory (CUDA out of memory. Tried {n} windows.): fewer windows pass the network at once "
        f"({n // 2}) from here on"
        for n in (8, 4)
    ]


def test_then_with_sums_on_the_cpu_and_then_it_is_told(caplog):
    """ "cpu:0" stands for a GPU: it is a device, and not where sums are moved to."""
    image = np.random.default_rng(0).normal(size=(2, 20, 9)).astype(np.float32)
    network, layout, load = random_network(2), Layout.of((20, 9), (8, 7), 0.5), Load(2)
    expected = whole(slabs_of_logits(image, layout, network, CPU, Load(1)), layout)
    failures = iter([False, False, True, True] + [False] * 99)

    def fails_in_the_middle(windows):
        if next(failures):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return network(windows)

    slabs = slabs_of_logits(image, layout, fails_in_the_middle, torch.device("cpu:0"), load)
    torch.testing.assert_close(whole(slabs, layout), expected)
    assert load == Load(1, sums_on_cpu=True)
    assert "logits are summed on the CPU from here on" in caplog.text
    with pytest.raises(torch.cuda.OutOfMemoryError):
        whole(slabs_of_logits(image, layout, hungry(0, network), torch.device("cpu:0"), load), layout)


@pytest.mark.gpu
def test_a_band_too_large_for_the_gpu_lies_on_the_cpu(monkeypatch):
    image = np.random.default_rng(0).normal(size=(2, 20, 9)).astype(np.float32)
    torch.manual_seed(0)
    network, layout, gpu = nn.Conv2d(2, 3, 3, padding=1).cuda(), Layout.of((20, 9), (8, 7), 0.5), torch.device("cuda")
    with torch.no_grad():
        expected = whole(slabs_of_logits(image, layout, network, gpu, Load(2)), layout)
        assert expected.is_cuda
        monkeypatch.setattr("dlka_med.inference.windows.free_memory", lambda _: 1000)
        found = whole(slabs_of_logits(image, layout, network, gpu, Load(2)), layout)
    assert not found.is_cuda
    torch.testing.assert_close(found, expected.cpu())


def test_other_errors_are_none_of_it():
    image, layout, load = np.zeros((1, 8, 7), np.float32), Layout.of((8, 7), (8, 7), 0), Load(4)
    with pytest.raises(RuntimeError, match="channels"):
        whole(slabs_of_logits(image, layout, random_network(2), CPU, load), layout)
    assert load == Load(4)


def test_an_image_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="3 axes"):
        Layout.of((4, 4), (4, 4, 4), 0.5)
