"""NIfTI files: voxels and where they lie in the world."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.spatialimages import HeaderDataError

from dlka_med.data.formats import check_file
from dlka_med.errors import InputError

SPATIAL_DIMS = 3
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # of a unit, by its code in xyzt_units


def read_nifti(path: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, *S) float32 and its voxel -> world (mm) affine, 4x4.

    Raises:
        InputError: the file is truncated or no NIfTI file, has another number of axes or channels, or a singular
            affine.
    """
    check_file(path)
    try:
        image = nib.load(path)
        if image.get_data_dtype().kind not in "iuf":
            raise InputError(
                f"{path} holds {image.get_data_dtype()} instead of real numbers: export one file per channel"
            )
        with np.errstate(over="ignore"):
            volume = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, HeaderDataError) as error:
        raise InputError(
            f"{path} is no NIfTI file or has a broken header ({error}): convert or copy it again"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): change its rights") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is truncated or damaged ({error}): copy or export it again") from error
    affine = affine_in_mm(image)
    linear = affine[:3, :3]
    extent = np.prod(np.linalg.norm(linear, axis=0)) if np.isfinite(affine).all() else 0
    if extent == 0 or abs(np.linalg.det(linear)) < 1e-6 * extent:
        raise InputError(f"{path} has a singular affine {linear.tolist()}: mend the sform or qform of its header")
    return _channels_first(path, volume, channels), affine


def affine_in_mm(image: Nifti1Pair) -> np.ndarray:
    """Voxel -> world affine in mm, 4x4; a file without a unit is taken to be in mm."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= MILLIMETRES.get(int(image.header["xyzt_units"]) % 8, 1.0)
    return affine


def _channels_first(path: Path, volume: np.ndarray, channels: int) -> np.ndarray:
    shape = volume.shape
    while volume.ndim > SPATIAL_DIMS + 1 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim == SPATIAL_DIMS:
        volume = volume[..., None]
    if volume.ndim != SPATIAL_DIMS + 1 or 0 in shape:
        raise InputError(f"{path} has the shape {shape}: expected a 3D volume, or 4D with the channels last")
    if volume.shape[-1] != channels:
        raise InputError(f"{path} has {volume.shape[-1]} channels (shape {shape}), expected {channels}")
    return np.ascontiguousarray(np.moveaxis(volume, -1, 0))
