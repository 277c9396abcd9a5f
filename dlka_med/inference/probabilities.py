"""Probabilities of a case to disk, row by row; then they are compressed channel by channel."""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from dlka_med.config.dataset import Dataset
from dlka_med.data.nifti import LARGEST_SHARE, write_shares
from dlka_med.data.prepare import Prepared
from dlka_med.errors import WriteError
from dlka_med.files import whole_file, writable_folder
from dlka_med.inference.pieces import Piece, WayBack
from dlka_med.inference.restore import probabilities_across, surely_outside

Numbers = Literal["uint8", "float16"]
NUMBERS: dict[Numbers, int] = {"uint8": 1, "float16": 2}  # bytes of each


class ProbabilityRows:
    """Collects the probabilities of a case in a nameless file, which vanishes with this process.

    Args:
        folder: on the disk that shall hold them, uncompressed, for a while.
        regions, temperature: as in `restore_probabilities`.
        numbers: uint8, in steps of 1/255, or float16.
    """

    def __init__(self, folder: Path, *, regions: bool, temperature: float, numbers: Numbers):
        self.regions, self.temperature, self.dtype = regions, temperature, np.dtype(numbers)
        self.channels = 0
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=writable_folder(folder))  # noqa: SIM115
        self._way: WayBack | None = None
        self._seen: set[int] = set()

    def __call__(self, way: WayBack, piece: Piece) -> None:
        chances = probabilities_across(way, piece, regions=self.regions, temperature=self.temperature)
        self._way, self.channels = way, chances.shape[1]
        if self.dtype == np.uint8:
            chances = np.rint(LARGEST_SHARE * chances)
        for row, content in zip(way.rows(piece).tolist(), chances.astype(self.dtype), strict=True):
            try:
                self._file.seek(row * content.nbytes)
                self._file.write(np.ascontiguousarray(content))
            except OSError as error:
                raise WriteError(
                    f"probabilities cannot be collected in the folder {self._folder} ({error.strerror}): make room, or "
                    "name a folder on another disk"
                ) from error
            self._seen.add(row)

    @property
    def native_shape(self) -> tuple[int, ...]:
        """Of what was collected."""
        return self._way.native_shape

    def volumes(self) -> Iterator[np.ndarray]:
        """The probabilities of one class or region after the other, on the native grid."""
        shape = self._way.native_shape
        plane = (*shape[: self._way.axis], *shape[self._way.axis + 1 :])
        size = prod(plane) * self.dtype.itemsize
        for channel in range(self.channels):
            outside = surely_outside(channel, self.regions) * (LARGEST_SHARE if self.dtype == np.uint8 else 1)
            volume = np.full((shape[self._way.axis], *plane), outside, self.dtype)
            for row in self._seen:
                self._file.seek((row * self.channels + channel) * size)
                volume[row] = np.frombuffer(self._file.read(size), self.dtype).reshape(plane)
            yield np.moveaxis(volume, 0, self._way.axis)

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was told when it was written to
            self._file.close()


def probability_ending(prepared: Prepared, numbers: Numbers) -> str:
    """How the file of a case ends: what NIfTI cannot hold is numpy's."""
    return ".nii.gz" if numbers == "uint8" and len(prepared.native_shape) == 3 else ".npz"


def write_probabilities(
    path: Path, rows: ProbabilityRows, grid: Path | np.ndarray, affine: np.ndarray, dataset: Dataset
) -> None:
    """Write what was collected, on the grid of the image, whole or not at all.

    As NIfTI (x, y, z, K), of a single region (x, y, z), it is uint8 with a slope of 1/255, so that readers give numbers
    from 0 to 1. As `.npz` it has `probabilities` (K, *S), of uint8 with 255 for 1, `names` (K) and `affine`.

    Args:
        path: ends as `probability_ending` says.
        grid: as `geometry_of` gives it.
        affine: native voxel -> world in mm.
    """
    if path.name.endswith(".nii.gz"):
        write_shares(path, rows.volumes(), rows.channels, grid)
        return
    shape = (rows.channels, *rows.native_shape)
    with (
        whole_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        with archive.open("probabilities.npy", "w", force_zip64=True) as member:
            header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(member, header)
            for volume in rows.volumes():
                for plane in volume:
                    member.write(np.ascontiguousarray(plane))
        for name, array in (("names", np.array(channel_names(dataset))), ("affine", affine)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def channel_names(dataset: Dataset) -> Sequence[str]:
    """What the probabilities of a network are of: its regions, or its classes with the background first."""
    scheme = dataset.scheme
    if scheme.has_regions:
        return scheme.names
    background = next((name for name, value in (dataset.labels or {}).items() if value == 0), "background")
    return (background, *scheme.names)
