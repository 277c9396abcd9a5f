"""Random changes of a training patch, those of nnU-Net (Isensee et al. 2021, supplementary note 4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandFlipd,
    RandGaussianNoise,
    RandGaussianSmooth,
    Randomizable,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from monai.transforms.utils import create_rotate

from dlka_med.config.training import Augmentation
from dlka_med.data.resample import coarse_axis

Patch = dict[str, torch.Tensor]


class TrainingTransform(Randomizable):
    """Draws the spatial change first, so that the caller cuts just as much of the case as it needs.

    Usage: `set_random_state(seed)`, `size = source_size(spacing)`, cut a patch of that size, call. Rotation
    and scaling are one resampling (image linear, label nearest) of a patch so large that it fills the corners.
    Every channel draws its own intensity changes. Results depend on the seed alone.
    """

    def __init__(self, patch_size: Sequence[int], augmentation: Augmentation):
        self.patch_size = tuple(patch_size)
        self.augmentation = augmentation
        self.matrix: np.ndarray | None = None
        self.intensity = _intensity_transforms(augmentation, len(self.patch_size))
        axes = [axis for axis in augmentation.flip_axes if axis < len(self.patch_size)]
        self.flips = Compose([RandFlipd(("image", "label"), augmentation.flip_probability, axis) for axis in axes])

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None):
        """Seed this transform and all it is made of."""
        super().set_random_state(seed, state)
        for part in (self.intensity, self.flips):
            part.set_random_state(state=self.R)
        return self

    def source_size(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Draw rotation and scaling; return the size of the patch that they need around the same centre.

        Args:
            spacing: mm per voxel; rotations are rigid in millimetres, and only within the slice if one axis
                is more than three times coarser than the finest.
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
        with _plain_tensors(), _one_thread():
            if self.matrix is not None:
                image = self._warp(image, "bilinear")
                label = self._warp(label.float(), "nearest").to(label.dtype)
            image = torch.cat([self.intensity(channel) for channel in image.split(1)])
            return self.flips({"image": image, "label": label})

    def _draw_matrix(self, spacing: np.ndarray) -> np.ndarray | None:
        options, dims = self.augmentation, len(self.patch_size)
        matrix = np.eye(dims)
        rotates, scales = self.R.random_sample(2) < (options.rotate_probability, options.scale_probability)
        if not (rotates or scales):
            return None
        if rotates:
            angles = np.radians(self.R.uniform(-options.rotate_degrees, options.rotate_degrees, 1 if dims == 2 else 3))
            coarse = coarse_axis(spacing)
            if dims == 3 and coarse is not None:
                angles[np.arange(3) != coarse] = 0
            turn = create_rotate(dims, angles.tolist())[:dims, :dims]
            matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing)
        if scales:
            matrix = matrix / self.R.uniform(*options.scale_range)
        return matrix

    def _warp(self, volume: torch.Tensor, mode: str) -> torch.Tensor:
        source = np.array(volume.shape[1:])
        # grid_sample counts from -1 to 1 over the whole extent and wants the last axis first.
        relative = np.diag(1 / source) @ self.matrix @ np.diag(self.patch_size)
        theta = torch.zeros(1, len(source), len(source) + 1)
        theta[0, :, :-1] = torch.from_numpy(relative[::-1, ::-1].copy())
        grid = torch.nn.functional.affine_grid(theta, [1, 1, *self.patch_size], align_corners=False)
        return torch.nn.functional.grid_sample(volume[None], grid, mode=mode, align_corners=False)[0]


def _intensity_transforms(options: Augmentation, dims: int) -> Compose:
    sigma, upsample = options.blur_sigma, "trilinear" if dims == 3 else "bilinear"
    return Compose(
        [
            RandGaussianNoise(options.noise_probability, std=options.noise_std),
            RandGaussianSmooth(sigma, sigma, sigma, options.blur_probability),
            RandScaleIntensity(_change(options.brightness_range), options.brightness_probability),
            RandScaleIntensityFixedMean(
                options.contrast_probability, _change(options.contrast_range), preserve_range=True
            ),
            RandSimulateLowResolution(
                options.low_resolution_probability,
                upsample_mode=upsample,
                zoom_range=options.low_resolution_range,
            ),
            RandAdjustContrast(options.gamma_probability, options.gamma_range, retain_stats=True),
        ]
    )


def _change(factors: tuple[float, float]) -> tuple[float, float]:
    return factors[0] - 1, factors[1] - 1


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # Patches have no use for MONAI's record of affines and operations, which costs more than the transforms.
    tracked = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracked)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums depend on how many threads share them; workers have one. For a patch it is also the fastest.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
