"""Random changes of a training patch, those of nnU-Net (Isensee et al. 2021, supplementary note 4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from monai.transforms.utils import create_rotate
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from dlka_med.config.training import Augmentation
from dlka_med.data.resample import ANISOTROPY
from dlka_med.data.warp import warped

Patch = dict[str, torch.Tensor]


class TrainingTransform:
    """Draws the spatial change first, so that the caller cuts just as much of the case as it needs.

    Usage: `set_random_state(seed)`, `size = source_size(spacing)`, cut a patch of that size, call. Rotation
    and scaling are one resampling (`dlka_med.data.warp`) of a patch so large that it fills the corners.
    Every channel draws its own intensity changes, but for the coarse scan, which all channels share. Results
    depend on the seed alone.

    Args:
        augmentation: `flip_axes` beyond the patch's are left out; None stands for all axes.
    """

    def __init__(self, patch_size: Sequence[int], augmentation: Augmentation):
        self.patch_size = tuple(patch_size)
        self.augmentation = augmentation
        self.matrix: np.ndarray | None = None
        self.random = np.random.default_rng()

    def set_random_state(self, seed: int) -> "TrainingTransform":
        """Choose the draws that follow."""
        self.random = np.random.default_rng(seed)
        return self

    def source_size(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Draw rotation and scaling; return the size of the patch that they need around the same centre.

        Args:
            spacing: mm per voxel; rotations are rigid in millimetres, and only in planes of whose two axes neither
                has voxels over three times larger than the other, nor is over three times longer in the patch.
        """
        self.matrix = self._draw_matrix(np.asarray(spacing, dtype=np.float64))
        if self.matrix is None:
            return self.patch_size
        half = (np.array(self.patch_size) - 1) / 2
        margin = np.maximum(np.ceil(np.abs(self.matrix) @ half - half - 1e-6), 0).astype(int)
        return tuple(int(size) for size in self.patch_size + 2 * margin)

    def __call__(self, patch: Patch) -> Patch:
        """Change {"image" (C, *source), "label" (1, *source)} into patches of `patch_size`."""
        image, label = patch["image"].float(), patch["label"]
        if self.matrix is not None:
            cubic = self.augmentation.interpolation == "cubic"
            image, label = warped(image, label, self.matrix, self.patch_size, cubic=cubic)
        with _one_thread():
            image = self._change_intensities(image)
        axes = self._draw_flips()
        return {"image": image.flip(axes), "label": label.flip(axes)} if axes else {"image": image, "label": label}

    def _draw_matrix(self, spacing: np.ndarray) -> np.ndarray | None:
        options, dims = self.augmentation, len(self.patch_size)
        matrix = np.eye(dims)
        rotates, scales = self.random.random(2) < (options.rotate_probability, options.scale_probability)
        if not (rotates or scales):
            return None
        if rotates:
            limit = options.rotate_degrees
            angles = np.radians(self.random.uniform(-limit, limit, 1 if dims == 2 else 3))
            angles[~_turnable(spacing, np.array(self.patch_size))] = 0
            turn = create_rotate(dims, angles.tolist())[:dims, :dims]
            matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing)
        if scales:
            matrix = matrix / self.random.uniform(*options.scale_range)
        return matrix

    def _draw_flips(self) -> list[int]:
        """Axes of (C, *S) to be mirrored."""
        options, dims = self.augmentation, len(self.patch_size)
        axes = range(dims) if options.flip_axes is None else options.flip_axes
        draws = self.random.random(dims) < options.flip_probability
        return [axis + 1 for axis in range(dims) if axis in axes and draws[axis]]

    def _change_intensities(self, image: torch.Tensor) -> torch.Tensor:
        options, random, coarse = self.augmentation, self.random, []
        if random.random() < options.low_resolution_probability:
            zoom = random.uniform(*options.low_resolution_range)
            coarse = [_coarse_scan(size, zoom) for size in image.shape[1:]]
        return torch.stack([self._change_channel(channel, coarse) for channel in image])

    def _change_channel(self, x: torch.Tensor, coarse: Sequence[torch.Tensor]) -> torch.Tensor:
        options, random = self.augmentation, self.random
        noise, blur, brightness, contrast, gamma = random.random(5) < (
            options.noise_probability,
            options.blur_probability,
            options.brightness_probability,
            options.contrast_probability,
            options.gamma_probability,
        )
        if noise:
            deviation = random.uniform(0, options.noise_std)
            x = x + deviation * torch.from_numpy(random.standard_normal(x.shape, dtype=np.float32))
        if blur:
            sigmas = random.uniform(*options.blur_sigma, x.ndim)
            x = torch.from_numpy(gaussian_filter(x.numpy(), sigmas, mode="nearest"))
        if brightness:
            x = x * random.uniform(*options.brightness_range)
        if contrast:
            low, high = x.aminmax()
            mean = x.mean()
            x = ((x - mean) * random.uniform(*options.contrast_range) + mean).clamp(low, high)
        for matrix in coarse:  # the axis in turn is the first, and goes last
            x = torch.tensordot(x, matrix, dims=([0], [1]))
        return _gamma(x, random.uniform(*options.gamma_range)) if gamma else x


def _turnable(spacing: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """About which of three axes a patch may be rotated, or whether a 2D one may be.

    Rotation mixes the two other axes: voxels of thick slices would smear, and a flat patch would need far more of
    the case across than there is.
    """
    planes = np.array([(1, 2), (0, 2), (0, 1)] if len(patch) == 3 else [(0, 1)])
    sizes = np.stack([spacing, spacing * patch])[:, planes]
    return (sizes.max(-1) <= ANISOTROPY * sizes.min(-1)).all(0)


def _coarse_scan(size: int, zoom: float) -> torch.Tensor:
    """Matrix that averages `size` voxels to `zoom` times as many, and interpolates them linearly back.

    A coarse voxel weighs each voxel by the share of its own extent, so that nothing moves: `interpolate` with mode
    area takes whole voxels, which are up to half a voxel off, now to one side, now to the other.
    """
    fewer = max(round(size * zoom), 1)
    step = size / fewer
    first, voxel = np.arange(fewer)[:, None] * step, np.arange(size)
    shares = (np.minimum(first + step, voxel + 1) - np.maximum(first, voxel)).clip(0) / step
    back = interpolate(torch.eye(fewer)[None], size=size, mode="linear")[0].T
    return back @ torch.from_numpy(shares).float()


def _gamma(x: torch.Tensor, gamma: float) -> torch.Tensor:
    """Grey values, as shares of their range, to the power of `gamma`; mean and deviation are kept."""
    low, high = x.aminmax()
    changed = ((x - low) / (high - low + 1e-7)).log_().mul_(gamma).exp_()  # several times faster than pow
    changed -= changed.mean()
    changed *= x.std(correction=0) / (changed.std(correction=0) + 1e-8)
    return changed + x.mean()


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums depend on how many threads share them; workers have one. For a patch it is also the fastest.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
