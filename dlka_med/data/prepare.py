"""The deterministic way of a case from disk to the network's grid."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialCrop

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.config.labels import Declared, LabelScheme
from dlka_med.data.boxes import foreground_box, whole_box
from dlka_med.data.cases import Case
from dlka_med.data.grey import Measured, measure
from dlka_med.data.grid import spacing_of
from dlka_med.data.intensity import Scale, clip_outliers, is_robust, named_intensity
from dlka_med.data.load import LoadedCase, load_case
from dlka_med.data.readers import NIFTI, Reader
from dlka_med.data.resample import keeps_spacing, new_shape, resample
from dlka_med.errors import InputError

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
FAR_OFF = 10  # times another spacing than that of the run
UNMEASURED = Measured((), np.empty((0, 0), np.float32))

logger = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid, and the grid it came from; affines as in `LoadedCase`.

    `image` (C, *S) is float32, `label` (*S) holds uint8 class indices. `inv(affine) @ native_affine` maps
    native voxels to prepared ones, whatever orientation, crop and spacing were chosen. `native_label` holds the class
    indices on the native grid; `empty` is, per channel, the value of what lies around the image; `reader` read the
    images.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    native_shape: tuple[int, ...]
    native_affine: np.ndarray
    native_label: np.ndarray | None = None
    empty: tuple[float, ...] = ()
    measured: Measured = UNMEASURED
    reader: Reader = NIFTI

    def normalised(self, intensity: Sequence[Intensity]) -> "Prepared":
        """The case as the network sees it, by the resolved intensity of its channels.

        Raises:
            ValueError: a CT channel has no statistics yet.
        """
        scale = Scale.of(intensity, self.measured)
        return replace(self, image=scale(self.image), empty=scale.empty)


def prepare(
    case: Case,
    preprocessing: Preprocessing,
    channels: Sequence[str],
    labels: Declared | LabelScheme | None = None,
) -> Prepared:
    """Load, check, crop to the foreground, reorient (volumes), then resample; grey values stay what they are.

    Of `preprocessing.intensity` only this matters: a channel that will be standardised robustly loses its outliers
    before they could spread.

    Args:
        labels: as declared; None: the label file is not read.

    Raises:
        InputError: see `load_case`; or the spacing does not fit the image's dimensions.
    """
    return prepare_loaded(case.id, lambda: load_case(case, channels, labels), preprocessing, channels)


def prepare_loaded(
    case_id: str, load: Callable[[], LoadedCase], preprocessing: Preprocessing, channels: Sequence[str]
) -> Prepared:
    """`prepare` of a case that `load` gives: nobody else has to hold it, so that memory has room for what it becomes.

    Raises:
        InputError: as there.
    """
    loaded = load()
    start, end = foreground_box(loaded.image) if preprocessing.crop_foreground else whole_box(loaded.image)
    measured = measure(case_id, loaded.image, loaded.label, start, end)
    crop = SpatialCrop(roi_start=start, roi_end=end)
    native_affine, native_label, native_shape = loaded.affine, loaded.label, loaded.image.shape[1:]
    image = crop(MetaTensor(torch.from_numpy(loaded.image), affine=torch.from_numpy(native_affine)))
    label, reader = None, loaded.reader
    if native_label is not None:
        label = crop(MetaTensor(torch.from_numpy(native_label[None]), affine=torch.from_numpy(native_affine)))
    del loaded  # its image need not stay beside the turned one
    if preprocessing.orientation is not None and image.ndim == 4:
        reorient = Orientation(preprocessing.orientation, labels=AXIS_CODES)
        image, label = reorient(image), None if label is None else reorient(label)
    for index, intensity in enumerate(named_intensity(preprocessing, channels)):
        if is_robust(intensity):
            clipped = clip_outliers(image[index].numpy(), intensity, measured.channels[index])
            image[index] = torch.from_numpy(clipped)
    if preprocessing.spacing is not None:
        if len(preprocessing.spacing) != image.ndim - 1:
            raise InputError(
                f"preprocessing.spacing has {len(preprocessing.spacing)} axes, "
                f"but the case {case_id} has {image.ndim - 1}: give one number per axis"
            )
        kept = spacing_of(image.affine.numpy())
        target = np.array([wish or step for wish, step in zip(preprocessing.spacing, kept, strict=True)])
        if image.ndim == 4 and np.abs(np.log(kept / target)).max() > np.log(FAR_OFF):
            logger.warning(
                "case %s has voxels of %s mm, but those of the run are of %s mm, more than %d times as large or as "
                "small: is the unit or the affine of its header right?",
                *(case_id, *(" x ".join(f"{step:.4g}" for step in steps) for steps in (kept, target)), FAR_OFF),
            )
        image, label = resample(image, label, target)
    return Prepared(
        case_id=case_id,
        image=np.ascontiguousarray(image.numpy(), dtype=np.float32),
        label=None if label is None else np.ascontiguousarray(label[0].numpy(), dtype=np.uint8),
        affine=image.affine.numpy(),
        native_shape=native_shape,
        native_affine=native_affine,
        native_label=native_label,
        empty=tuple(channel.outside for channel in measured.channels),
        measured=measured,
        reader=reader,
    )


def expected_grid(
    shape: Sequence[int], affine: np.ndarray, preprocessing: Preprocessing
) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape that `prepare` gives an image (*S) of which nothing is cropped, and where its axes point.

    Args:
        affine: as in `LoadedCase`.

    Returns:
        The shape, and an affine whose columns lie along the new axes; their sign, their length and the origin are those
        of the old ones.
    """
    spacing, axes = spacing_of(affine), np.arange(len(shape))
    if preprocessing.orientation is not None and len(shape) == 3:
        worlds = nib.io_orientation(affine)[:, 0]
        axes = np.argsort(worlds)[nib.orientations.axcodes2ornt(preprocessing.orientation)[:, 0].astype(int)]
    sizes, steps = np.array(shape)[axes], spacing[axes]
    wishes = np.array([wish or step for wish, step in zip(preprocessing.spacing or steps, steps, strict=True)])
    turned = affine[:, [*axes, len(shape)]]
    return tuple(sizes.tolist()) if keeps_spacing(steps, wishes) else new_shape(sizes, wishes / steps), turned


def measure_case(case: Case, channels: Sequence[str], labels: Declared | LabelScheme) -> Measured:
    """Read a case for its grey values alone.

    Raises:
        InputError: see `load_case`.
    """
    loaded = load_case(case, channels, labels)
    return measure(case.id, loaded.image, loaded.label, *whole_box(loaded.image))
