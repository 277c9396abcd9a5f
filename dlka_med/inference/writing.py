"""Label maps to disk, on the grid of the image they belong to."""

from pathlib import Path

import numpy as np

from dlka_med.config.labels import Declared, LabelScheme
from dlka_med.data.nifti import write_shares
from dlka_med.data.prepare import Prepared
from dlka_med.data.raster import write_grey
from dlka_med.data.readers import NIFTI, Reader, reader_of

KINDS = (np.uint8, np.int16, np.int32)


def label_map_ending(image: Path) -> str:
    """How the label map of an image ends: volumes and 2D images have formats of their own."""
    return reader_of(image).label_ending


def write_label_map(
    path: str | Path,
    classes: np.ndarray,
    labels: Declared | LabelScheme,
    like: str | Path,
    reader: Reader | None = None,
) -> None:
    """Write class indices as label values; of a volume with the affines, their codes and the units of `like`.

    Args:
        path: ends as `label_map_ending` says; the file appears whole or not at all.
        classes: class indices of `labels`, (x, y, z), or (rows, columns) of a 2D image.
        labels: uint8 holds their values, or int16 or int32 (of PNG: 16 bit) where they are larger.
        like: the image that was predicted.
        reader: of `like`; None: who reads files of its name.

    Raises:
        ValueError: labels that no dataset can declare.
    """
    like = Path(like)
    (reader or reader_of(like)).write_label(Path(path), label_values(classes, labels), like)


def label_values(classes: np.ndarray, labels: Declared | LabelScheme) -> np.ndarray:
    """Class indices as values of the dataset: uint8, or int16 or int32 where `labels` has larger ones."""
    values = np.array(LabelScheme.of(labels).values)
    return values.astype(next(kind for kind in KINDS if values[-1] <= np.iinfo(kind).max))[classes]


def write_share_map(path: Path, shares: np.ndarray, prepared: Prepared, like: Path) -> None:
    """Write a map (*S), uint8 with 255 for 1, as NIfTI whose readers give 0 to 1, or of a 2D image as grey PNG.

    Args:
        prepared: the case, with the grid.
        like: its image.
    """
    if shares.ndim == 2:
        write_grey(path, shares)
    else:
        write_shares(path, [shares], 1, geometry_of(prepared, like))


def geometry_of(prepared: Prepared, like: Path) -> Path | np.ndarray:
    """What `write_shares` takes the grid of a case from."""
    return like if prepared.reader is NIFTI else prepared.native_affine
