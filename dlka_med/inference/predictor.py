"""A network and the way it sees whole images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, combinations
from math import ceil, prod
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from dlka_med.config.record import Plane
from dlka_med.config.schema import RunConfig
from dlka_med.data.prepare import Prepared
from dlka_med.data.slices import slice_axis
from dlka_med.errors import InputError
from dlka_med.inference.memory import free_memory
from dlka_med.inference.restore import check_temperature, restore_probabilities, restore_slabs
from dlka_med.inference.temperature import temperature_of
from dlka_med.inference.windows import GPU_SHARE, Layout, Load, Progress, slabs_of_logits
from dlka_med.run_folder import RunFolder

Precision = Literal["fp32", "bf16", "fp16"]


class Predictor:
    """Predicts whole images with overlapping windows and Gaussian weights, in 2D or 3D.

    Only `network.forward` is called: (B, C, *patch_size) -> logits (B, K, *patch_size). While it predicts,
    the network is in eval mode and without gradients; every module's mode is put back afterwards. An image smaller
    than the window is padded on all sides with what an empty voxel of it is, and its logits are cropped back.

    `load`, which may be set, is how much `segment` does at once; where memory lacks it does less by itself.

    Args:
        network: any segmentation network; it is moved to `device`.
        patch_size: voxels of the window, one number per spatial axis.
        overlap: share of the window that neighbouring windows have in common, 0 <= overlap < 1.
        mirror_axes: spatial axes of test-time mirroring: logits are averaged over all combinations of flips.
        batch_size: windows per forward pass.
        device: where the network runs; None: where its parameters are.
        slices: a window of two axes sees volumes slice by slice in this plane; None: images of its own dims.
        painted: the network tells regions apart (sigmoid): the class index that each paints, in this order, over the
            ones before; None: classes, of which the likeliest counts (softmax).
        precision: in which the network runs, as in training; fp16 needs a GPU, bf16 there one that has it, else fp32.
        temperature: by which logits are divided before they become probabilities (`dlka calibrate`); label maps do
            not depend on it.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        patch_size: Sequence[int],
        overlap: float = 0.5,
        mirror_axes: Sequence[int] = (),
        batch_size: int = 1,
        device: str | torch.device | None = None,
        slices: Plane | None = None,
        painted: Sequence[int] | None = None,
        precision: Precision = "fp32",
        temperature: float = 1.0,
    ):
        self.patch_size = tuple(int(size) for size in patch_size)
        dims = len(self.patch_size)
        if dims not in (2, 3) or min(self.patch_size) < 1:
            raise ValueError(f"patch_size needs 2 or 3 positive numbers, got {self.patch_size}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be at least 0 and less than 1, got {overlap}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        check_temperature(temperature)
        self.mirror_axes = tuple(sorted(set(mirror_axes)))
        if any(not 0 <= axis < dims for axis in self.mirror_axes):
            raise ValueError(f"mirror_axes must be among 0 to {dims - 1}, got {self.mirror_axes}")
        parameter = next(chain(network.parameters(), network.buffers()), None)
        self.device = torch.device(device or (parameter.device if parameter is not None else "cpu"))
        self.network = network.to(self.device)
        self.overlap, self.batch_size, self.slices = overlap, batch_size, slices
        self.painted, self.temperature = painted, temperature
        self.load = Load(batch_size)
        self.dtype = _dtype(precision, self.device)

    @classmethod
    def of_run(cls, network: nn.Module, config: RunConfig, **changes: Any) -> "Predictor":
        """The predictor that a config describes, but for `changes` of its arguments."""
        described = {
            "patch_size": config.training.patch_size,
            "overlap": config.inference.overlap,
            "mirror_axes": config.inference.mirror_axes,
            "batch_size": config.inference.batch_size,
            "slices": config.dataset.slices,
            "painted": config.dataset.scheme.painted,
            "precision": config.training.precision,
        }
        return cls(network, **described | changes)

    @classmethod
    def of_folder(cls, run: RunFolder, **changes: Any) -> "Predictor":
        """The predictor of a run folder: its network, config and, where it was calibrated, temperature.

        Raises:
            InputError: the weights are missing or damaged, or the run was calibrated for other weights.
            ValueError: `changes` out of range.
        """
        temperature = temperature_of(run)
        return cls.of_run(run.load_network(), run.config, **{"temperature": temperature} | changes)

    def logits(self, image: Tensor, progress: Progress | None = None, empty: Sequence[float] = ()) -> Tensor:
        """Logits (K, *S), float32, of an image (C, *S).

        `empty` are the values around it, one per channel; without them they are 0. The logits lie on the network's
        device, or on the CPU if they are too large for a GPU. `progress` is called with the number of windows done
        and of all windows after each forward pass.

        Raises:
            ValueError: the image has another number of axes than the window.
        """
        return self._logits(image[None], progress, empty)[0]

    def _logits(self, images: Tensor, progress: Progress | None, empty: Sequence[float]) -> Tensor:
        """Logits (N, K, *S) of images (N, C, *S)."""
        if images.ndim != len(self.patch_size) + 2:
            raise ValueError(f"expected images (N, C, *S) for windows of {self.patch_size}, got {tuple(images.shape)}")
        images, inside = self._widened(images.float(), empty)
        # Not inference_mode: what a network caches while it predicts must stay usable in training.
        with _evaluating(self.network), torch.no_grad(), self._fast():
            inferer = SlidingWindowInferer(
                self.patch_size,
                sw_batch_size=self.batch_size,
                overlap=self.overlap,
                mode="gaussian",
                sw_device=self.device,
                device=self._sum_device(images),
            )
            logits = inferer(
                images, self._forward(self._flips, len(images) * self._windows(images.shape[2:]), progress)
            )
            return logits[inside]

    def _widened(self, images: Tensor, empty: Sequence[float]) -> tuple[Tensor, tuple[slice, ...]]:
        """Images (N, C, *S) at least as large as the window, and where in them the given ones are."""
        sizes, places = [], []
        for size, patch in zip(images.shape[2:], self.patch_size, strict=True):
            sizes.append(max(size, patch))
            places.append(slice(first := (sizes[-1] - size) // 2, first + size))
        inside = (slice(None), slice(None), *places)
        if sizes == list(images.shape[2:]):
            return images, inside
        values = images.new_tensor(empty or [0.0] * images.shape[1]).reshape(-1, *[1] * len(sizes))
        wide = values.expand(len(images), -1, *sizes).clone()
        wide[inside] = images
        return wide, inside

    def segment(self, prepared: Prepared, progress: Progress | None = None) -> np.ndarray:
        """Class indices, uint8, on the case's native grid.

        Memory holds the logits of as many rows of the image as windows overlap, not of all of it.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        layout = self.layout(prepared.image.shape[1:], prepared.affine)
        with self.evaluating():
            slabs = slabs_of_logits(
                prepared.image,
                layout,
                self.window_forward(prepared.affine),
                self.device,
                replace(self.load),
                empty=prepared.empty,
                progress=progress,
            )
            grids = layout.shape, prepared.affine, prepared.native_affine, prepared.native_shape
            return restore_slabs(_finite(slabs, prepared.case_id), layout.axis, *grids, painted=self.painted)

    def probabilities(self, prepared: Prepared, progress: Progress | None = None) -> np.ndarray:
        """Probabilities (K, *S) of classes, or of regions, float32, on the case's native grid.

        Calibrated where `temperature` is that of the run. On a resampled grid the likeliest class can differ from
        `segment` in single voxels between two structures: a temperature moves the border of interpolated
        probabilities, and label maps are made without it.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        logits = self.prepared_logits(prepared, progress)
        grids = prepared.affine, prepared.native_affine, prepared.native_shape
        return restore_probabilities(logits, *grids, regions=self.painted is not None, temperature=self.temperature)

    def prepared_logits(self, prepared: Prepared, progress: Progress | None = None) -> Tensor:
        """Logits (K, *S), float32, on the prepared grid of a case.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        image = torch.from_numpy(np.array(prepared.image, dtype=np.float32))
        if self.slices is None:
            logits = self.logits(image, progress, prepared.empty)
        else:
            axis = slice_axis(prepared.affine, self.slices) + 1
            logits = self._logits(image.movedim(axis, 0), progress, prepared.empty).movedim(0, axis)
        _refuse_broken(logits, prepared.case_id)
        return logits

    def layout(self, shape: Sequence[int], affine: np.ndarray) -> Layout:
        """The windows over an image (*S); a window that sees slices is one voxel thick across them."""
        patch = list(self.patch_size)
        if self.slices is not None:
            patch.insert(slice_axis(affine, self.slices), 1)
        return Layout.of(shape, patch, self.overlap)

    def window_forward(self, affine: np.ndarray) -> Callable[[Tensor], Tensor]:
        """Windows (B, C, *patch) of the layout -> logits (B, K, *patch), float32, averaged over the mirrored ones."""
        forward = self._forward(self._flips, 0, None)
        axis = None if self.slices is None else slice_axis(affine, self.slices) + 2

        def through_network(windows: Tensor) -> Tensor:
            with self._fast():
                return forward(windows) if axis is None else forward(windows.squeeze(axis)).unsqueeze(axis)

        return through_network

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in eval mode, and no gradients."""
        with _evaluating(self.network), torch.no_grad():
            yield

    @property
    def _flips(self) -> list[tuple[int, ...]]:
        return [flip for n in range(len(self.mirror_axes) + 1) for flip in combinations(self.mirror_axes, n)]

    def _forward(
        self, flips: list[tuple[int, ...]], total: int, progress: Progress | None
    ) -> Callable[[Tensor], Tensor]:
        done = 0

        def forward(windows: Tensor) -> Tensor:
            nonlocal done
            logits = None
            for flip in flips:
                axes = [axis + 2 for axis in flip]
                one = self.network(windows.flip(axes))  # a copy: of one window MONAI gives a view, and changes logits
                one = (one.flip(axes) if axes else one).float()
                logits = one if logits is None else logits + one
            done += len(windows)
            if progress is not None:
                progress(done, total)
            return logits / len(flips) if len(flips) > 1 else logits

        return forward

    def _windows(self, shape: Sequence[int]) -> int:
        """How many windows MONAI lays over an image."""
        steps = [max(int(patch * (1 - self.overlap)), 1) for patch in self.patch_size]
        beyond = [max(size - patch, 0) for size, patch in zip(shape, self.patch_size, strict=True)]
        return prod(ceil(rest / step) + 1 for rest, step in zip(beyond, steps, strict=True))

    def _sum_device(self, batch: Tensor) -> torch.device:
        """Where the windows are summed up; as much memory again is left for what is done with the logits."""
        if self.device.type != "cuda":
            return self.device
        window = torch.zeros(1, batch.shape[1], *self.patch_size, device=self.device)
        classes = self.network(window).shape[1]
        voxels = len(batch) * prod(
            max(size, patch) for size, patch in zip(batch.shape[2:], self.patch_size, strict=True)
        )
        needed = voxels * (2 * classes + 1) * 4
        return self.device if needed < GPU_SHARE * free_memory(self.device) else torch.device("cpu")

    @contextmanager
    def _fast(self) -> Iterator[None]:
        """The precision of the network, and cuDNN's search for the fastest kernels: all windows have one size."""
        searching = torch.backends.cudnn.benchmark
        repeatable = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        torch.backends.cudnn.benchmark = searching or not repeatable
        half = self.dtype != torch.float32
        try:
            with torch.autocast(self.device.type, self.dtype) if half else nullcontext():
                yield
        finally:
            torch.backends.cudnn.benchmark = searching


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "bf16" and (device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())):
        return torch.bfloat16
    return torch.float16 if precision == "fp16" and device.type == "cuda" else torch.float32


def _finite(slabs: Iterable[tuple[int, Tensor]], case_id: str) -> Iterator[tuple[int, Tensor]]:
    for start, logits in slabs:
        _refuse_broken(logits, case_id)
        yield start, logits


def _refuse_broken(logits: Tensor, case_id: str) -> None:
    if not logits.sum().isfinite():
        raise InputError(
            f"case {case_id}: the network gives NaN or infinite logits, its weights are broken: "
            "train again with a lower learning rate, or in fp32"
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every module as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
