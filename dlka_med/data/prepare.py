"""The deterministic way of a case from disk to the network's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CropForeground, Orientation, SpatialCrop

from dlka_med.config.dataset import Preprocessing
from dlka_med.data.cases import Case
from dlka_med.data.intensity import named_intensity, normalise
from dlka_med.data.load import load_case, spacing_of
from dlka_med.data.resample import resample
from dlka_med.errors import InputError

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid, and the grid it came from; affines as in `LoadedCase`.

    `image` (C, *S) is float32, `label` (*S) holds uint8 class indices. `inv(affine) @ native_affine` maps
    native voxels to prepared ones, whatever orientation, crop and spacing were chosen.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    native_shape: tuple[int, ...]
    native_affine: np.ndarray


def prepare(
    case: Case,
    preprocessing: Preprocessing,
    channels: Sequence[str],
    labels: Mapping[str, int] | None = None,
) -> Prepared:
    """Load, check, reorient (volumes), crop to the foreground, normalise, then resample.

    Args:
        preprocessing: its CT statistics must be known, see `resolve_intensity`.
        labels: names and values; None: the label file is not read.

    Raises:
        InputError: see `load_case`; or the spacing does not fit the image's dimensions.
    """
    loaded = load_case(case, channels, labels)
    image = MetaTensor(torch.from_numpy(loaded.image), affine=torch.from_numpy(loaded.affine))
    label = None
    if loaded.label is not None:
        label = MetaTensor(torch.from_numpy(loaded.label[None]), affine=torch.from_numpy(loaded.affine))
    if preprocessing.orientation is not None and image.ndim == 4:
        reorient = Orientation(preprocessing.orientation, labels=AXIS_CODES)
        image, label = reorient(image), None if label is None else reorient(label)
    if preprocessing.crop_foreground:
        start, end = CropForeground(select_fn=_is_foreground).compute_bounding_box(image)
        if np.all(np.asarray(end) > start):
            crop = SpatialCrop(roi_start=start, roi_end=end)
            image, label = crop(image), None if label is None else crop(label)
    for index, intensity in enumerate(named_intensity(preprocessing, channels)):
        image[index] = torch.from_numpy(normalise(image[index].numpy(), intensity))
    if preprocessing.spacing is not None:
        if len(preprocessing.spacing) != image.ndim - 1:
            raise InputError(
                f"preprocessing.spacing has {len(preprocessing.spacing)} axes, "
                f"but {case.images[0]} has {image.ndim - 1}: give one number per axis"
            )
        kept = spacing_of(image.affine.numpy())
        target = np.array([wish or step for wish, step in zip(preprocessing.spacing, kept, strict=True)])
        image, label = resample(image, label, target)
    return Prepared(
        case_id=case.id,
        image=np.ascontiguousarray(image.numpy(), dtype=np.float32),
        label=None if label is None else np.ascontiguousarray(label[0].numpy(), dtype=np.uint8),
        affine=image.affine.numpy(),
        native_shape=loaded.image.shape[1:],
        native_affine=loaded.affine,
    )


def _is_foreground(image: torch.Tensor) -> torch.Tensor:
    return image != 0
