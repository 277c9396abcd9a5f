"""NRRD and MetaImage files: voxels and where they lie in the world."""

import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dlka_med.data.clinic import lacking
from dlka_med.data.formats import HEADER_BYTES, check_file, with_partner
from dlka_med.data.grid import Grid
from dlka_med.data.nifti import SPATIAL_DIMS, channels_first, is_singular
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.machine import lack_of_memory

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DEFLATED = 1100  # bytes that deflate can make of one, at most; ITK reads no other compression
COMPRESSED = re.compile(rb"^(?:CompressedData\s*=\s*True|encoding:\s*(?:gz|gzip))\s*$", re.M | re.I)
WRITTEN_OUT = re.compile(rb"^(?:BinaryData\s*=\s*False|encoding:\s*(?:ascii|text|txt))\s*$", re.M | re.I)
COMPRESSED_BYTES = re.compile(rb"^CompressedDataSize\s*=\s*(\d+)\s*$", re.M)
HEADER_END = re.compile(rb"^ElementDataFile\s*=.*\n|\n\r?\n", re.M)
DETACHED = re.compile(rb"^data ?file:", re.M | re.I)
REAL = re.compile(r"(?:vector of )?(?:(8|16|32|64)-bit (un)?signed integer|(32|64)-bit float)")
LACK = re.compile("allocate|bad_alloc", re.IGNORECASE)  # in what ITK says


logger = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class ItkHeader:
    """What the header of a file says.

    Args:
        shape: spatial axes, then channels where there are several.
        dtype: of the voxels on disk, as numpy calls it.
        affine: voxel -> world (RAS) in mm, 4x4.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray


def open_itk(path: Path, *, as_stored: bool = False) -> tuple[ItkHeader, np.ndarray]:
    """A file and its voxels (x, y, z), or (x, y, z, channels); float32 unless `as_stored`.

    Raises:
        InputError: SimpleITK is not installed; the file is truncated or damaged, or its voxels are no real numbers.
        MemoryError: there is no room for them; it names the file.
    """
    sitk, reader = _opened(path)
    header = _header(path, sitk, reader)
    if path.name.lower().endswith(".nrrd") and not reader.HasMetaDataKey("NRRD_space"):
        logger.warning("%s does not tell how it lies (its header has no space): it is read as ITK does", path)
    _refuse_empty_claims(path, header)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        if LACK.search(reason := _reason(error)):
            raise MemoryError(f"{path}: {reason}") from error
        raise InputError(f"{path} is truncated or damaged ({reason}): copy or export it again") from error
    voxels = sitk.GetArrayViewFromImage(image)
    spatial = tuple(reversed(range(image.GetDimension())))
    voxels = voxels.transpose(*spatial, *range(len(spatial), voxels.ndim)).reshape(header.shape, order="F")
    try:
        return header, np.array(voxels, dtype=None if as_stored else np.float32, order="F")
    except MemoryError as lack:
        raise lack_of_memory(path, lack) from lack


def read_itk(path: Path, channels: int, *, as_stored: bool = False) -> tuple[np.ndarray, Grid]:
    """Read a volume (C, *S); nothing is allocated that the file cannot fill.

    Args:
        as_stored: whole numbers keep their type; else all become float32.

    Raises:
        InputError: as in `open_itk`; or it has another number of axes or channels, or singular directions.
    """
    header, voxels = open_itk(path, as_stored=as_stored)
    volume = channels_first(path, voxels)
    if len(volume) != channels:
        raise InputError(f"{path} has {len(volume)} channels (shape {voxels.shape}), expected {channels}")
    return np.ascontiguousarray(volume), Grid(path, volume.shape[1:], header.affine)


def itk_grid(path: Path) -> Grid:
    """Where the voxels of a file lie; its header alone is read.

    Raises:
        InputError: it is no NRRD or MetaImage file of a volume.
    """
    header = _header(path, *_opened(path))
    claimed = np.broadcast_to(np.float32(0), header.shape)
    return Grid(path, channels_first(path, claimed).shape[1:], header.affine)


def write_itk(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Write a volume (x, y, z), or (x, y, z, channels), onto a grid, compressed; whole, but for an `.mhd` file.

    Raises:
        InputError: SimpleITK is not installed.
    """
    sitk, several = _simple_itk(), values.ndim > SPATIAL_DIMS and values.shape[SPATIAL_DIMS] > 1
    values = values if several else values.reshape(values.shape[:SPATIAL_DIMS])
    affine = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.swapaxes(0, 2)), isVector=several)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with nullcontext(path) if path.name.lower().endswith(".mhd") else whole_file(path) as target:
        try:
            sitk.WriteImage(image, str(target), True)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written ({_reason(error)})") from error


def _simple_itk() -> ModuleType:
    try:
        import SimpleITK
    except ImportError as error:
        raise lacking(error, "SimpleITK", "NRRD and MetaImage files are read and written") from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _opened(path: Path) -> tuple[ModuleType, Any]:
    """SimpleITK, and its reader of the kind that the name tells, which has read the header."""
    check_file(path)
    with_partner(path)
    sitk = _simple_itk()
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if path.name.lower().endswith(".nrrd") else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"{path} is no NRRD or MetaImage file or has a broken header ({_reason(error)}): convert or copy it again"
        ) from error
    return sitk, reader


def _header(path: Path, sitk: ModuleType, reader: Any) -> ItkHeader:
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if not (kind := REAL.fullmatch(name)):
        raise InputError(f"{path} holds {name} instead of real numbers: export one file per channel")
    dtype = np.dtype(f"{'u' * bool(kind[2])}int{kind[1]}" if kind[1] else f"float{kind[3]}")
    dims, bands = reader.GetDimension(), reader.GetNumberOfComponents()
    linear = np.array(reader.GetDirection()).reshape(dims, dims) * np.array(reader.GetSpacing())
    affine, kept = np.eye(SPATIAL_DIMS + 1), min(dims, SPATIAL_DIMS)
    affine[:kept, :kept] = linear[:kept, :kept]
    affine[:kept, SPATIAL_DIMS] = reader.GetOrigin()[:kept]
    if is_singular(affine):
        raise InputError(f"{path} has singular directions {linear.tolist()}: mend the space directions of its header")
    shape = (*map(int, reader.GetSize()), *[1] * (SPATIAL_DIMS - dims))
    return ItkHeader((*shape, bands) if bands > 1 else shape, dtype, LPS_TO_RAS @ affine)


def _refuse_empty_claims(path: Path, header: ItkHeader) -> None:
    """Raise `InputError` if the header claims more voxels than the file holds, or can hold compressed."""
    files = with_partner(path)
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES)
    end = HEADER_END.search(text)
    begin = end.end() if end else 0
    if path.name.lower().endswith(".nrrd") and DETACHED.search(text[:begin]):
        raise InputError(f"{path} is a header alone, its voxels lie in another file: save both as one .nrrd")
    held = files[-1].stat().st_size - (begin if len(files) == 1 else 0)
    claimed = prod(header.shape) * header.dtype.itemsize
    packed = COMPRESSED_BYTES.search(text)
    least = claimed / (DEFLATED if COMPRESSED.search(text) else 1)
    if WRITTEN_OUT.search(text):  # a digit and what parts it from the next
        least = 2 * prod(header.shape) - 1
    if min(header.shape) < 1 or max(least, int(packed[1]) if packed else 0) > held:
        raise InputError(
            f"{path} is truncated or damaged: its header claims the shape {header.shape}, {claimed} bytes, but the "
            f"file holds {held}: copy or export it again"
        )


def _reason(error: RuntimeError) -> str:
    """The last line that ITK says, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^\[\w+\] |^.*?ITK ERROR: ", "", lines[-1])[:200] if lines else "no reason given"
