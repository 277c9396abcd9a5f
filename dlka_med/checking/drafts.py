"""A case in memory while it is mended, and its way to a new folder."""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.fingerprint import grids_of
from dlka_med.data.formats import ITK_ENDINGS, ending, files_of, is_volume, stem
from dlka_med.data.grid import Grid
from dlka_med.data.itk import open_itk, write_itk
from dlka_med.data.nifti import channels_first, open_nifti
from dlka_med.data.raster import is_grey, read_bands, read_pixels, write_grey, write_pixels


@dataclass
class Draft:
    """A case as stored, to be changed.

    Args:
        values: that label maps may hold.
        images: one (C, *S) per file; whole numbers and float64 as they are.
        label: (*S), or (rows, columns, 3) of a colour picture; None without a label.
        affines: of the images, then of the label, in mm.
        order: where each channel stands in a file of all channels, as in `Case`.
    """

    facts: CaseFacts
    channels: Sequence[str]
    values: Collection[int]
    images: list[np.ndarray]
    label: np.ndarray | None
    affines: list[np.ndarray]
    order: tuple[int, ...] | None = None

    @classmethod
    def of(cls, case: Case, facts: CaseFacts, channels: Sequence[str], values: Collection[int]) -> "Draft":
        """Read a case whose files can all be opened."""
        images = []
        for index, path in enumerate(case.images):
            wanted = channels if len(case.images) == 1 else channels[index : index + 1]
            images.append(_read(path, wanted))
        label = None if case.label is None else _read_label(case.label)
        return cls(facts, channels, values, images, label, [grid.affine for grid in grids_of(facts)], case.order)

    @property
    def label_path(self) -> str:
        return "" if self.facts.label is None else self.facts.label.file.path

    @property
    def foreground(self) -> tuple[int, ...]:
        """Declared values but 0."""
        return tuple(value for value in sorted(self.values) if value)

    @property
    def label_values(self) -> np.ndarray | None:
        """The label as it is written: readers take 0.99999 for 1."""
        return None if self.label is None else np.rint(self.label).astype(_label_type(max(self.values)))

    def write(self, images: Sequence[Path], label: Path | None, changed: Collection[str]) -> None:
        """Write volumes in mm, with qform, sform and pixdim that agree; files that did not change are copied.

        Args:
            changed: paths of the files that were mended.
        """
        for path, volume, affine, file in zip(images, self.images, self.affines, self.facts.images, strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.path not in changed:
                copy_file(file.path, path)
            elif is_volume(path):
                _write_volume(path, np.moveaxis(_as_stored(volume, file.dtype), 0, -1), affine)
            else:
                write_pixels(path, volume)
        values = self.label_values
        if label is None or values is None:
            return
        label.parent.mkdir(parents=True, exist_ok=True)
        if self.label_path not in changed:
            copy_file(self.label_path, label)
        elif is_volume(label):
            _write_volume(label, values[..., None], self.affines[-1])
        else:
            write_grey(label, values)


def copy_file(source: str, target: Path) -> None:
    """Byte by byte, into a folder that need not be there; voxels in a file of their own come along."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    for voxels in files_of(Path(source))[1:]:
        is_named = ending(target).lower() in ITK_ENDINGS  # by its header
        name = voxels.name if is_named else f"{stem(target)}{voxels.name[len(stem(Path(source))) :]}"
        shutil.copyfile(voxels, target.with_name(name))


def _read(path: Path, channels: Sequence[str]) -> np.ndarray:
    if is_volume(path):
        return np.ascontiguousarray(channels_first(path, _voxels(path, as_stored=True)))
    return np.ascontiguousarray(np.moveaxis(read_bands(path, channels), -1, 0))


def _read_label(path: Path) -> np.ndarray:
    if is_volume(path):
        return np.ascontiguousarray(channels_first(path, _voxels(path))[0])
    pixels = read_pixels(path, is_label=True)
    if pixels.ndim == 3 and pixels.shape[-1] > 2 and not is_grey(pixels[..., :3]):
        return pixels[..., :3]
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])


def _voxels(path: Path, *, as_stored: bool = False) -> np.ndarray:
    if ending(path).lower() in ITK_ENDINGS:
        return open_itk(path, as_stored=as_stored)[1]
    return open_nifti(path, colours=True, as_stored=as_stored)[1]


def _as_stored(volume: np.ndarray, dtype: str) -> np.ndarray:
    """In the number type of the file, if that holds the values."""
    kind = np.dtype(dtype) if dtype and "[" not in dtype else np.dtype(np.uint8)
    if volume.dtype == kind:
        return volume
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if limits.min <= volume.min() and volume.max() <= limits.max and (volume == np.rint(volume)).all():
            return volume.astype(kind)
    return volume.astype(np.float32)


def _label_type(largest: int) -> type:
    return next(kind for kind in (np.uint8, np.int16, np.int32) if largest <= np.iinfo(kind).max)


def _write_volume(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write (*S, C); one channel as a plain volume."""
    if ending(path).lower() in ITK_ENDINGS:
        write_itk(path, volume, Grid(path, volume.shape[:3], affine))
        return
    image = nib.Nifti1Image(volume[..., 0] if volume.shape[-1] == 1 else volume, affine, dtype=volume.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)
