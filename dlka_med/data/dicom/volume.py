"""The voxels of a series."""

import logging
import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlka_med.data.dicom.choice import choose
from dlka_med.data.dicom.geometry import Stack, stack
from dlka_med.data.dicom.headers import BROKEN, Series, intact, numbers, place, quietly, read
from dlka_med.data.dicom.source import files
from dlka_med.data.grid import Grid
from dlka_med.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITIES = {"CT": {"ct"}, "MR": {"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "dwi", "adc"}}
TILTED = 0.1  # degrees
GIB = 2**30
LACK = re.compile(r"allocate|bad_alloc|memory|^ *\w+: *$", re.I | re.M)
"""What is left of a plugin's lack of memory where pydicom tells what all of them said; often it says nothing."""

logger = logging.getLogger("dlka_med")


def dicom_grid(source: Path, series: str | None = None) -> Grid:
    """Where the voxels of a series lie, by its headers alone.

    Args:
        series: UID or number; None: the only one that is a volume.

    Raises:
        InputError: as in `choose` and `stack`.
    """
    found = stack(choose(source, series))
    return Grid(source, found.shape, found.affine)


def read_dicom(source: Path, channels: Sequence[str], series: str | None = None) -> tuple[np.ndarray, Grid]:
    """A series as volume (1, columns, rows, slices) float32, rescaled slice by slice as the headers say, and its grid.

    A series whose modality is not that of its channel's name gets a warning.

    Args:
        channels: the name of the one that the series is read for.
        series: as in `dicom_grid`.

    Raises:
        InputError: as in `choose` and `stack`; several channels; or the pixels are damaged, colours, mapped by a table
            or compressed in a way that nobody here can read.
        MemoryError: there is no room; it says how much the series needs.
    """
    chosen = choose(source, series)
    if len(channels) != 1:
        raise InputError(
            f"{source}: a series holds one channel, expected {len(channels)}, {list(channels)}: name the series of "
            "each with --series A,B"
        )
    found = stack(chosen)
    _warn_of_another_modality(chosen, channels[0])
    _warn_of_tilt(found)
    try:
        return _volume(chosen, found)[None], Grid(source, found.shape, found.affine)
    except MemoryError:
        sizes, needed = " x ".join(map(str, found.shape)), _bytes_to_read(chosen, found) / GIB
        raise MemoryError(f"{source}: a series of {sizes} voxels needs {needed:.2f} GiB to be read") from None


def source_headers(found: Stack) -> list["Dataset"]:
    """The headers of a stack's files without pixels, in the order of its slices; of a multi-frame file the one."""
    with quietly():
        names = {one.file for one in found.slices}
        headers = {name: read(found.series.source, name, stream) for name, stream in files(found.series.source, names)}
    return [headers[name] for name in dict.fromkeys(one.file for one in found.slices)]


def _volume(chosen: Series, found: Stack) -> np.ndarray:
    """(columns, rows, slices) float32."""
    volume = np.empty(found.shape[::-1], np.float32)
    places = {(one.file, one.frame): index for index, one in enumerate(found.slices)}
    for dataset, name in _datasets(chosen):
        with intact(chosen.source, name):
            _refuse_other_pixels(chosen, name, dataset)
            pixels = _pixels(chosen, name, dataset)
            for frame, plane in enumerate(pixels if pixels.ndim == 3 else pixels[None]):
                index = places[name, frame if (name, None) not in places else None]
                slope, intercept = _rescale(chosen, name, dataset, frame)
                volume[index] = plane if (slope, intercept) == (1, 0) else plane * slope + intercept
    return np.ascontiguousarray(volume.T)


def _bytes_to_read(series: Series, found: Stack) -> int:
    """The volume, turned once, beside the largest file with its pixels as stored and decoded."""
    largest = max(header.rows * header.columns * (header.frames or 1) for header in series.headers)
    return 8 * prod(found.shape) + 4 * largest


def _datasets(series: Series) -> Iterator[tuple["Dataset", str]]:
    with quietly():
        for name, stream in files(series.source, {header.file for header in series.headers}):
            yield read(series.source, name, stream, pixels=True), name


def _pixels(series: Series, name: str, dataset: "Dataset") -> np.ndarray:
    """(rows, columns) or (frames, rows, columns), as stored."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        pixels = dataset.pixel_array
    except (*BROKEN, RuntimeError) as error:
        if isinstance(error, RuntimeError) and LACK.search(str(error)):
            raise MemoryError from None
        where = place(series.source, name)
        if syntax is not None and syntax.is_compressed and isinstance(error, RuntimeError):
            raise InputError(
                f'{where} is compressed as "{syntax.name}", which cannot be read here: pip install "dlka_med[clinic]", '
                "or decompress it, such as with gdcmconv --raw"
            ) from None
        raise InputError(
            f"{where} has pixels that cannot be read ({type(error).__name__}), it is truncated or damaged: copy or "
            "export it again"
        ) from None
    header = next(header for header in series.headers if header.file == name)
    if pixels.shape[-2:] != (header.rows, header.columns) or pixels.size != (
        header.rows * header.columns * (header.frames or 1)
    ):
        raise InputError(f"{place(series.source, name)} has pixels of the shape {pixels.shape}: export it again")
    return pixels


def _refuse_other_pixels(series: Series, name: str, dataset: "Dataset") -> None:
    where, kind = place(series.source, name), str(dataset.get("PhotometricInterpretation", ""))
    if "PixelData" not in dataset:
        raise InputError(f"{where} has no pixels of whole numbers: export it again as CT or MR image")
    if dataset.get("SamplesPerPixel", 1) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"{where} holds colours ({kind[:16]}), no grey values: choose the series of the scanner itself"
        )
    if kind == "MONOCHROME1" and series.modality != "CT":
        raise InputError(
            f"{where} is stored inverted (MONOCHROME1), and nothing says whether its values are: export it as "
            "MONOCHROME2"
        )
    if "ModalityLUTSequence" in dataset:
        raise InputError(f"{where} maps its values by a table (Modality LUT): export it with RescaleSlope instead")


def _rescale(series: Series, name: str, dataset: "Dataset", frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame: its own, those that all frames share, or those of the file."""
    groups = [*(dataset.get("PerFrameFunctionalGroupsSequence") or ())][frame : frame + 1]
    groups += [*(dataset.get("SharedFunctionalGroupsSequence") or ())]
    mapped = [item for group in groups for item in group.get("PixelValueTransformationSequence") or ()]
    values = []
    for key, plain in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        holder = next((item for item in mapped if key in item), dataset)
        value = numbers(holder, key, 1)
        if value is None and holder.get(key) not in (None, ""):
            raise InputError(f"{place(series.source, name)} has a {key} that is no number: export it again")
        values.append(plain if value is None else value[0])
    return values[0], values[1]


def _warn_of_another_modality(series: Series, channel: str) -> None:
    words = set(re.findall(r"[a-z]+\d*[a-z]*", channel.lower()))
    named = next((modality for modality, names in MODALITIES.items() if words & names), None)
    if named is not None and series.modality and series.modality != named:
        logger.warning(
            "%s, %s: the channel is called %r, so the run was trained on %s", series.source, series, channel, named
        )


def _warn_of_tilt(found: Stack) -> None:
    columns = found.affine[:3, :3] / np.linalg.norm(found.affine[:3, :3], axis=0)
    across = np.cross(columns[:, 0], columns[:, 1])
    degrees = np.degrees(np.arccos(min(1.0, abs(float(across @ columns[:, 2])))))
    if degrees > TILTED:
        logger.warning(
            "%s, %s: the gantry was tilted by %.1f degrees; the slices are predicted as they lie, in sheared axes",
            found.series.source,
            found.series,
            degrees,
        )
