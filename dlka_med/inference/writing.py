"""Label maps to disk, on the grid of the image they belong to."""

from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.config.labels import Declared, LabelScheme
from dlka_med.data.formats import is_volume
from dlka_med.data.raster import write_grey
from dlka_med.files import whole_file

# All that places a voxel in the world; a scan's scaling, window and notes are not the label map's.
GEOMETRY = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    *("quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def label_map_ending(image: Path) -> str:
    """How the label map of an image ends: volumes and 2D images have formats of their own."""
    return ".nii.gz" if is_volume(image) else ".png"


def write_label_map(path: str | Path, classes: np.ndarray, labels: Declared | LabelScheme, like: str | Path) -> None:
    """Write class indices as label values; of a volume with the affines, their codes and the units of `like`.

    Args:
        path: ends as `label_map_ending` says; the file appears whole or not at all.
        classes: class indices of `labels`, (x, y, z), or (rows, columns) of a 2D image.
        labels: uint8 holds their values, or int16 or int32 (of PNG: 16 bit) where they are larger.
        like: the image that was predicted.

    Raises:
        ValueError: labels that no dataset can declare.
    """
    path, like = Path(path), Path(like)
    values = np.array(LabelScheme.of(labels).values)
    if not is_volume(like):
        write_grey(path, values[classes])
        return
    values = values.astype(next(t for t in (np.uint8, np.int16, np.int32) if values[-1] <= np.iinfo(t).max))
    source = nib.load(like)
    image = type(source)(values[classes], source.affine)
    for key in GEOMETRY:
        image.header[key] = source.header[key]
    with whole_file(path) as temporary:
        nib.save(image, temporary)
