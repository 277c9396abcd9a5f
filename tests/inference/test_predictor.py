"""Whole images through windows: agreement with one plain forward pass."""

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.restore import restore

SIZES = {2: (13, 10), 3: (9, 12, 7)}


def pointwise(dims: int, channels: int = 2, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return {2: nn.Conv2d, 3: nn.Conv3d}[dims](channels, classes, 1)


class Tilted(nn.Module):
    """Logits that depend on the place in the window: mirroring changes them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, x.shape[2]).reshape(-1, *[1] * (x.ndim - 3))
        return torch.cat([x, x * ramp], dim=1)


class Batched(nn.Module):
    """Counts forward passes and remembers their batch sizes."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return x


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("patch", [4, 5, 16])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_of_a_pointwise_network_equal_one_forward(dims, patch, mirror):
    """Whatever the windows, their overlap and mirroring: a 1x1 conv sees the same voxels."""
    network, image = pointwise(dims), torch.randn(2, *SIZES[dims])
    predictor = Predictor(network, patch_size=(patch,) * dims, mirror_axes=range(dims) if mirror else (), batch_size=3)
    found = predictor.logits(image)
    assert found.shape == (3, *SIZES[dims])
    assert not found.requires_grad
    torch.testing.assert_close(found, network(image[None])[0].detach(), rtol=1e-5, atol=1e-5)


def test_one_window_that_covers_the_image_is_the_plain_forward():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 3, 3, padding=1))
    image = torch.randn(1, 8, 6, 10)
    found = Predictor(network, patch_size=(8, 6, 10)).logits(image)
    torch.testing.assert_close(found, network(image[None])[0].detach())


def test_an_image_smaller_than_the_window_is_padded_with_zeros_about_its_centre():
    torch.manual_seed(0)
    network, image = nn.Conv3d(1, 2, 5, padding=2), torch.randn(1, 3, 8, 5)
    found = Predictor(network, patch_size=(8, 8, 8)).logits(image)
    padded = nn.functional.pad(image, (1, 2, 0, 0, 2, 3))
    torch.testing.assert_close(found, network(padded[None])[0, :, 2:5, :, 1:6].detach())


@pytest.mark.parametrize("slices", [None, "axial"])
def test_what_lies_around_an_image_is_empty_in_each_channel(slices):
    torch.manual_seed(0)
    dims = 3 if slices is None else 2
    image, affine = torch.randn(2, 3, 8, 5), np.eye(4)
    network = (nn.Conv3d if dims == 3 else nn.Conv2d)(2, 2, 5, padding=2)
    patch = (8, 8, 8) if slices is None else (8, 8)
    wide = torch.stack([nn.functional.pad(image[i], (1, 2, 0, 0, 2, 3), value=(-4.0, 9.0)[i]) for i in range(2)])
    with torch.no_grad():
        if slices is None:
            expected = network(wide[None])[0, :, 2:5, :, 1:6].argmax(0)
        else:
            expected = network(wide[..., 1:6].movedim(-1, 0)).argmax(1).movedim(0, -1)[2:5]
    prepared = Prepared("a", image.numpy(), None, affine, (3, 8, 5), affine, empty=(-4.0, 9.0))
    found = Predictor(network, patch_size=patch, slices=slices).segment(prepared)
    np.testing.assert_array_equal(found, expected)


def test_overlapping_windows_are_weighted_by_a_gaussian():
    """A network that says which window it sees: the nearer centre weighs more."""
    numbers = iter(range(10))

    class Number(nn.Module):
        def forward(self, x):
            return torch.full_like(x, float(next(numbers)))

    found = Predictor(Number(), patch_size=(8, 8), overlap=0.5).logits(torch.ones(1, 12, 8))[0, :, 4]
    profile = np.exp(-((np.arange(8) - 3.5) ** 2) / 2)  # sigma is an eighth of the window
    first, second = np.pad(profile, (0, 4)), np.pad(profile, (4, 0))
    np.testing.assert_allclose(found.numpy(), second / (first + second), atol=2e-3)


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
def test_mirroring_averages_over_all_flips(axes):
    image = torch.randn(1, 6, 5, 4)
    found = Predictor(Tilted(), patch_size=(6, 5, 4), mirror_axes=axes).logits(image)
    # Only the first axis is tilted: ramp and mirrored ramp average to one half everywhere.
    torch.testing.assert_close(found, torch.cat([image, image / 2]))
    plain = Predictor(Tilted(), patch_size=(6, 5, 4), mirror_axes=(1, 2)).logits(image)
    torch.testing.assert_close(plain, Tilted()(image[None])[0])


def test_every_module_gets_its_mode_back_even_after_an_error():
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm3d(1), nn.Conv3d(1, 2, 1))
    network[1].eval()
    image = torch.randn(1, 6, 6, 6) + 5
    predictor = Predictor(network, patch_size=(4, 4, 4))
    torch.testing.assert_close(predictor.logits(image), predictor.logits(image))
    with pytest.raises(RuntimeError):
        predictor.logits(torch.randn(3, 6, 6, 6))
    assert [m.training for m in network] == [True, False, True]
    assert network.training
    assert not network[1].running_mean.any()


def test_what_the_network_caches_while_it_predicts_serves_in_training():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.grid = nn.Conv3d(1, 1, 1), None

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.ones_like(x) * 2
            return self.conv(x) * self.grid

    network = Cache()
    Predictor(network, patch_size=(4, 4, 4)).logits(torch.randn(1, 4, 4, 4))
    network(torch.randn(1, 1, 4, 4, 4)).sum().backward()
    assert network.conv.weight.grad is not None


@pytest.mark.parametrize("shape", [(9, 12, 7), (4, 4, 4), (5, 4, 3), (30, 5, 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.8])
def test_progress_counts_every_window_and_batches_are_full(shape, overlap):
    steps, network = [], Batched()
    image = torch.randn(1, *shape)
    before = image.clone()
    predictor = Predictor(
        network,
        patch_size=(4, 5, 4),
        overlap=overlap,
        batch_size=4,
    )
    torch.testing.assert_close(predictor.logits(image, lambda *step: steps.append(step)), image)
    assert torch.equal(image, before)
    total = sum(network.batches)
    assert steps == [(sum(network.batches[: i + 1]), total) for i in range(len(network.batches))]
    assert set(network.batches[:-1]) <= {4}


def test_segment_returns_classes_on_the_native_grid():
    """Native axes are x, y, z mirrored; the prepared image is a crop of the flipped native one."""
    native = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    flip = np.array([[-1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    affine = flip @ np.diag([1, 1, 1, 1.0])
    affine[1:3, 3] += (2, 1)
    prepared = Prepared("a", native[::-1, 2:7, 1:][None], None, affine, native.shape, np.eye(4))
    network = nn.Conv3d(1, 2, 1, bias=False)
    network.weight.data = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1)
    expected = np.zeros(native.shape, np.uint8)
    expected[:, 2:7, 1:] = native[:, 2:7, 1:] > 0
    np.testing.assert_array_equal(Predictor(network, patch_size=(4, 4, 4)).segment(prepared), expected)
    network.weight.data[0] = torch.nan
    with pytest.raises(InputError, match=r"case a.*NaN"):
        Predictor(network, patch_size=(4, 4, 4)).segment(prepared)


GRIDS = {
    "the image's own": (np.diag([1.2, 0.9, 1.1, 1]), np.eye(4)),
    "turned and cropped": (
        np.diag([1, 1.0, 1, 1]),
        np.array([[0, -1, 0, 8], [0, 0, 1, -1], [1, 0, 0, -2], [0, 0, 0, 1.0]]),
    ),
    "resampled": (np.eye(4), np.array([[0.6, 0, 0, 0.1], [0, 1.4, 0, 0.3], [0, 0, 0.8, 0.2], [0, 0, 0, 1]])),
    "thick slices": (np.diag([0.5, 0.5, 2.5, 1]), np.diag([0.9, 0.9, 0.7, 1])),
}


def test_a_network_that_returns_its_input_leaves_the_image_alone():
    image = torch.randn(2, 9, 12, 7)
    before = image.clone()
    found = Predictor(nn.Identity(), patch_size=(4, 4, 4)).logits(image)
    torch.testing.assert_close(found, before)
    assert torch.equal(image, before)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mirror", [(), (0, 2)])
@pytest.mark.parametrize("classes", [3, 118])
def test_segment_gives_the_labels_of_all_logits_at_once(grid, mirror, classes):
    torch.manual_seed(0)
    network, image = nn.Conv3d(2, classes, 3, padding=1), torch.randn(2, 9, 21, 12)
    affine, to_prepared = GRIDS[grid]
    native_affine, native_shape = affine @ to_prepared, (14, 12, 15)
    predictor = Predictor(network, patch_size=(6, 6, 6), mirror_axes=mirror, batch_size=3)
    expected = restore(predictor.logits(image), affine, native_affine, native_shape)
    found = predictor.segment(Prepared("a", image.numpy(), None, affine, native_shape, native_affine))
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > min(classes, 50) - 1


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("mirror", [(), (0, 1)])
@pytest.mark.parametrize("grid", GRIDS)
def test_segment_gives_the_labels_of_all_logits_of_slices(plane, mirror, grid):
    torch.manual_seed(0)
    affine, to_prepared = GRIDS[grid]
    image, native_shape = torch.randn(2, 9, 17, 12).numpy(), (14, 12, 15)
    prepared = Prepared("a", image, None, affine, native_shape, affine @ to_prepared, empty=(1.0, -2.0))
    network = nn.Conv2d(2, 5, 3, padding=1)
    predictor = Predictor(network, patch_size=(10, 6), slices=plane, mirror_axes=mirror, batch_size=4, overlap=0.75)
    expected = restore(predictor.prepared_logits(prepared), affine, affine @ to_prepared, native_shape)
    np.testing.assert_array_equal(predictor.segment(prepared), expected)


def test_a_prepared_image_that_cannot_be_written_is_predicted_and_left_alone():
    image = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
    image.flags.writeable = False
    before = image.copy()
    Predictor(pointwise(3), patch_size=(4, 4, 4)).segment(Prepared("a", image, None, np.eye(4), (6, 5, 4), np.eye(4)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patch_size": (4,)},
        {"patch_size": (4, 0, 4)},
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"batch_size": 0},
        {"mirror_axes": (3,)},
        {"mirror_axes": (-1,)},
        {"precision": "half"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Predictor(nn.Identity(), **{"patch_size": (4, 4, 4)} | arguments)


def test_an_image_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="windows"):
        Predictor(nn.Identity(), patch_size=(4, 4, 4)).logits(torch.zeros(4, 4, 4))


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_a_2d_network_predicts_a_volume_slice_by_slice(plane):
    torch.manual_seed(0)
    network, image = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 6, 7, 5)
    axis = {"sagittal": 2, "coronal": 0, "axial": 1}[plane]  # of an image stored as A, S, L
    affine = np.array([[0, 0, -1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    with torch.no_grad():
        slices = [network(part[None])[0] for part in image.unbind(axis + 1)]
    expected = torch.stack(slices, dim=axis + 1).argmax(0)
    done = []
    predictor = Predictor(network, patch_size=(8, 8), batch_size=4, slices=plane)
    prepared = Prepared("a", image.numpy(), None, affine, (6, 7, 5), affine)
    found = predictor.segment(prepared, lambda count, total: done.append((count, total)))
    np.testing.assert_array_equal(found, expected)
    assert done[-1] == (image.shape[axis + 1],) * 2
    assert len(done) == -(-image.shape[axis + 1] // 4), "windows of several slices share a forward pass"


class Watched(nn.Module):
    """Remembers how it is called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        self.dtypes, self.searching = set(), set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        self.dtypes.add(y.dtype)
        self.searching.add(torch.backends.cudnn.benchmark)
        return y


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float32)]
)
def test_the_network_runs_in_the_precision_of_its_training(precision, dtype):
    """fp16 has no kernels on a CPU; the logits are summed in float32 whatever the network gives."""
    network, image = Watched(), torch.randn(1, 5, 6, 7)
    found = Predictor(network, patch_size=(4, 4, 4), precision=precision).logits(image)
    assert network.dtypes == {dtype}
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network.layer(image[None])[0].detach(), rtol=0.02, atol=0.02)
    assert not torch.is_autocast_enabled("cpu")


def test_a_run_gives_its_precision():
    config = RunConfig.model_validate(
        {
            "name": "run",
            "dataset": {"root": "data", "labels": {"background": 0, "organ": 1}},
            "network": {"name": "dlka_net_3d"},
            "training": {"patch_size": [32, 64, 64], "precision": "bf16"},
        }
    )
    assert Predictor.of_config(nn.Identity(), config).dtype == torch.bfloat16


def test_the_precision_of_the_caller_is_left_alone():
    network = Watched()
    with torch.autocast("cpu", torch.bfloat16):
        Predictor(network, patch_size=(4, 4, 4)).logits(torch.randn(1, 5, 6, 7))
    assert network.dtypes == {torch.bfloat16}


@pytest.mark.parametrize("repeatable", [False, True])
def test_cudnn_searches_while_it_predicts_unless_results_must_repeat(monkeypatch, repeatable):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", repeatable)
    network = Watched()
    before = torch.backends.cudnn.benchmark
    Predictor(network, patch_size=(4, 4, 4)).logits(torch.randn(1, 5, 6, 7))
    assert network.searching == {not repeatable}
    assert torch.backends.cudnn.benchmark == before
