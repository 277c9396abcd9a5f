"""Images that are in memory: to cases and back to what they were."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Pair

from dlka_med.config.schema import RunConfig
from dlka_med.data.load import LoadedCase, refuse_nonfinite
from dlka_med.data.nifti import affine_in_mm, channels_first, is_singular, nifti_like
from dlka_med.data.prepare import Prepared, prepare_loaded
from dlka_med.data.readers import NIFTI, RASTER
from dlka_med.errors import InputError
from dlka_med.inference.writing import label_values

NAME = "the image"
KINDS = "a numpy array, a nibabel image of NIfTI, or a MONAI MetaTensor"


def prepare_image(
    image: Any, affine: np.ndarray | None, config: RunConfig
) -> tuple[Prepared, Callable[[np.ndarray], Any]]:
    """An image as `prepare` gives a case, and what makes a label map of its kind out of class indices.

    Args:
        image, affine: see `Predictor.__call__`; the image is left alone.
        config: of the run.

    Raises:
        InputError: the image does not fit the run.
        TypeError: it is of no known kind.
    """
    dims, channels, scheme = config.image_dims, config.dataset.channels or (), config.dataset.scheme
    if affine is not None and (dims == 2 or isinstance(image, MetaTensor | Nifti1Pair)):
        raise InputError("an affine belongs to a volume that comes as an array: leave it out")
    if isinstance(image, MetaTensor):
        pixels, place = image.as_tensor().detach().cpu().float().numpy(), image.affine.numpy()
        like = _meta_tensor_like(image)
    elif isinstance(image, Nifti1Pair):
        pixels, place = _of_nibabel(image), affine_in_mm(image)
        like = lambda values: nifti_like(values, image)  # noqa: E731
    elif isinstance(image, np.ndarray):
        if dims == 3 and affine is None:
            raise InputError("a volume needs its affine, voxel -> world in mm, 4x4: give it after the array")
        pixels, place = image[..., None] if image.ndim == dims else image, affine
        pixels, like = np.moveaxis(pixels, -1, 0), np.asarray
    else:
        what = "torch.Tensor: give its numpy()" if isinstance(image, torch.Tensor) else type(image).__name__
        raise TypeError(f"expected {KINDS}, got {what}")
    pixels, place = _checked(pixels, dims, channels), _affine_of(place, dims)
    loaded = LoadedCase(pixels, None, place, NIFTI if dims == 3 else RASTER)
    prepared = prepare_loaded(NAME, lambda: loaded, config.preprocessing, channels)
    return prepared, lambda classes: like(label_values(classes, scheme))


def _checked(pixels: np.ndarray, dims: int, channels: tuple[str, ...]) -> np.ndarray:
    """A copy (C, *S), float32."""
    if pixels.size == 0:
        raise InputError(f"{NAME} is empty, its sizes are {pixels.shape[1:]} of {len(pixels)} channels: give voxels")
    if pixels.ndim != dims + 1:
        raise InputError(
            f"{NAME} has {pixels.ndim - 1} axes beside that of the channels, sizes {pixels.shape[1:]}, but the run was "
            f"trained on {dims}D images: an array has its channels last, a MetaTensor first"
        )
    if len(pixels) != len(channels):
        raise InputError(
            f"{NAME} has {len(pixels)} channels, expected {len(channels)}, {list(channels)}: an array has its channels "
            "last, a MetaTensor first"
        )
    if pixels.dtype.kind not in "buif":
        raise InputError(f"{NAME} holds {pixels.dtype} instead of real numbers: convert it")
    pixels = np.array(pixels, dtype=np.float32, order="C")
    refuse_nonfinite(NAME, pixels)
    return pixels


def _affine_of(affine: np.ndarray | None, dims: int) -> np.ndarray:
    if dims == 2:
        return np.eye(3)
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4) or is_singular(affine):
        raise InputError(f"the affine is singular or not 4x4: {affine.tolist()}; give voxel -> world in mm")
    return affine


def _of_nibabel(image: Nifti1Pair) -> np.ndarray:
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{NAME} holds {image.get_data_dtype()} instead of real numbers: give one array per channel")
    return channels_first(Path(NAME), np.asarray(image.dataobj, dtype=np.float32))


def _meta_tensor_like(image: MetaTensor) -> Callable[[np.ndarray], MetaTensor]:
    def like(values: np.ndarray) -> MetaTensor:
        tensor = torch.from_numpy(values[None]).to(image.device)
        return MetaTensor(tensor, meta=dict(image.meta), applied_operations=list(image.applied_operations))

    return like
