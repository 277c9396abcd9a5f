"""Label maps to disk, on the grid of the image they belong to."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dlka_med.config.dataset import Segment
from dlka_med.config.labels import Declared, LabelScheme
from dlka_med.data.formats import OUTPUTS, is_dicom, is_volume
from dlka_med.data.nifti import write_shares
from dlka_med.data.prepare import Prepared
from dlka_med.data.raster import write_grey
from dlka_med.data.readers import NIFTI, Reader, reader_of, write_on
from dlka_med.errors import InputError
from dlka_med.inference.dicom_seg import write_dicom_seg

KINDS = (np.uint8, np.int16, np.int32)
MAP = 3  # bytes per voxel of a label map while it is written, in a number type of its own


def label_map_ending(image: Path, form: str | None = None) -> str:
    """How the label map of an image ends: by default in the image's own format, of which some hold no label maps.

    Args:
        form: one of `OUTPUTS`.

    Raises:
        InputError: there is no such format, or the image cannot have its label map in it.
    """
    if form is None:
        return reader_of(image).label_ending
    if form not in OUTPUTS:
        raise InputError(f"the format is {form!r}, expected one of {', '.join(OUTPUTS)}")
    if not is_volume(image):
        raise InputError(f"{image} is a 2D image, whose label map is PNG: give no format")
    if form == "dicom-seg" and not is_dicom(image):
        raise InputError(f"{image} is no DICOM series, and DICOM-SEG refers to one: choose another format")
    return OUTPUTS[form]


def bytes_to_write(path: Path, labels: Declared | LabelScheme) -> float:
    """What is held per voxel while a label map is written, itself included.

    DICOM-SEG has a bit for every segment, of which highdicom holds four copies for a while, made of a map of numbers,
    or of regions, which may overlap, of a byte for each, which it first adds up.
    """
    if not path.name.lower().endswith(OUTPUTS["dicom-seg"]):
        return MAP
    scheme = LabelScheme.of(labels)
    segments = len(scheme.targets)
    return MAP + (segments + max(8, segments / 2) if scheme.has_regions else segments / 2)


def write_label_map(
    path: str | Path,
    classes: np.ndarray,
    labels: Declared | LabelScheme,
    like: str | Path,
    reader: Reader | None = None,
    segments: Mapping[str, Segment] | None = None,
) -> None:
    """Write class indices as label values, on the grid of `like`; in its own format with its units and codes.

    Args:
        path: ends as `label_map_ending` says; the file appears whole or not at all.
        classes: class indices of `labels`, (x, y, z), or (rows, columns) of a 2D image.
        labels: uint8 holds their values, or int16 or int32 (of PNG: 16 bit) where they are larger.
        like: the image that was predicted.
        reader: of `like`; None: who reads files of its name.
        segments: colours and codes of labels, which DICOM-SEG alone can hold.

    Raises:
        InputError: as in `write_dicom_seg`; or a package that writes the format is not installed.
        ValueError: labels that no dataset can declare.
    """
    path, like, scheme = Path(path), Path(like), LabelScheme.of(labels)
    reader = reader or reader_of(like)
    if path.name.lower().endswith(OUTPUTS["dicom-seg"]):
        write_dicom_seg(path, classes, scheme, like, reader.series, segments or {})
        return
    values = label_values(classes, scheme)
    own = (".nii.gz", ".nii") if reader.label_ending == ".nii.gz" else reader.label_ending
    if reader.write_label is not None and path.name.lower().endswith(own):
        reader.write_label(path, values, like)
    else:
        write_on(path, values, reader.grid(like))


def label_values(classes: np.ndarray, labels: Declared | LabelScheme) -> np.ndarray:
    """Class indices as values of the dataset: uint8, or int16 or int32 where `labels` has larger ones."""
    values = np.array(LabelScheme.of(labels).values)
    return values.astype(next(kind for kind in KINDS if values[-1] <= np.iinfo(kind).max))[classes]


def write_share_map(path: Path, shares: np.ndarray, grid: Path | np.ndarray) -> None:
    """Write a map (*S), uint8 with 255 for 1, as NIfTI whose readers give 0 to 1, or of a 2D image as grey PNG.

    Args:
        grid: as `geometry_of` gives it.
    """
    if shares.ndim == 2:
        write_grey(path, shares)
    else:
        write_shares(path, [shares], 1, grid)


def geometry_of(prepared: Prepared, like: Path) -> Path | np.ndarray:
    """What `write_shares` takes the grid of a case from."""
    return like if prepared.reader is NIFTI else prepared.native_affine
