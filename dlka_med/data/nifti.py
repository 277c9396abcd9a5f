"""NIfTI files, also as pairs of header and voxels: voxels and where they lie in the world."""

import gzip
import logging
import zlib
from collections.abc import Iterable
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.spatialimages import HeaderDataError

from dlka_med.data.formats import check_file, with_partner
from dlka_med.data.grid import Grid
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.machine import is_lack_of_memory, lack_of_memory

SPATIAL_DIMS = 3
LARGEST_SHARE = 255  # stands for 1
SLOPE = np.nextafter(np.float32(1 / LARGEST_SHARE), np.float32(0))  # headers hold float32: no product is over 1
VOXELS_AT = 352  # bytes, of a file without extensions
PIECE = 2**20  # bytes
SCANNER = 1  # the code of coordinates in the scanner
RIGHT_ANGLES = 1e-4  # cosine between axes: a qform cannot hold more
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # of a unit, by its code in xyzt_units

logger = logging.getLogger("dlka_med")

UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    KeyError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
)
"""What reading a damaged file raises."""


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


def read_nifti(path: Path, channels: int, *, as_stored: bool = False) -> tuple[np.ndarray, Grid]:
    """Read a volume (C, *S); nothing is allocated that the file cannot fill.

    Args:
        as_stored: whole numbers keep their type; else all become float32.

    Raises:
        InputError: the file is truncated or no NIfTI file, has another number of axes or channels, or a singular
            affine.
    """
    image, voxels = open_nifti(path, as_stored=as_stored)
    affine = affine_in_mm(image)
    if is_singular(affine):
        raise InputError(
            f"{path} has a singular affine {affine[:3, :3].tolist()}: mend the sform or qform of its header"
        )
    volume = channels_first(path, voxels)
    if len(volume) != channels:
        raise InputError(f"{path} has {len(volume)} channels (shape {voxels.shape}), expected {channels}")
    volume = volume if as_stored else np.ascontiguousarray(volume)
    return volume, Grid(path, volume.shape[1:], affine, unit_in_mm(image))


def nifti_grid(path: Path) -> Grid:
    """Where the voxels of a file lie; its header alone is read.

    Raises:
        InputError: it is no NIfTI file of a volume.
    """
    check_file(path)
    with_partner(path)
    try:
        with np.errstate(all="ignore"):
            image = nib.load(path)
        claimed = np.broadcast_to(np.float32(0), [int(size) for size in image.header.get_data_shape()])
    except UNREADABLE as error:
        raise InputError(f"{path} is no NIfTI file or has a broken header ({error})") from error
    return Grid(path, channels_first(path, claimed).shape[1:], affine_in_mm(image), unit_in_mm(image))


def write_nifti(path: Path, values: np.ndarray, like: Path) -> None:
    """Write label values (x, y, z) with the affines of `like`, their codes and units; whole or not at all."""
    source = nib.load(like)
    if not is_nifti(source):
        write_nifti_on(path, values, nifti_grid(like))
        return
    image = nifti_like(values, source)
    with whole_file(path) as temporary:
        nib.save(image, temporary)


def nifti_like(values: np.ndarray, source: Nifti1Pair) -> Nifti1Pair:
    """Label values (x, y, z) as an image with the affines of another one, their codes and units.

    Axes of one voxel are there or not as in the other one: of (x, y) it is (x, y), of (x, y, z, 1) it is the same.
    """
    shaped = values.reshape(source.shape) if values.size == prod(source.shape) else values
    image = type(source)(shaped, source.affine)
    for key in GEOMETRY:
        image.header[key] = source.header[key]
    return image


def write_shares(path: Path, volumes: Iterable[np.ndarray], channels: int, like: Path | np.ndarray) -> None:
    """Write uint8 volumes (x, y, z) that stand for 0 to 1, one after the other, as `.nii.gz`; whole or not at all.

    Readers give them as numbers from 0 to 1, by the slope in the header.

    Args:
        channels: number of the volumes; of one the file is (x, y, z), else (x, y, z, channels).
        like: a NIfTI file whose affines, codes and units they get, or an affine in mm.
    """
    header = nib.Nifti1Header()
    with whole_file(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as stream:
        for number, volume in enumerate(volumes):
            if number == 0:
                header.set_data_shape((*volume.shape, channels)[: None if channels > 1 else 3])
                header.set_data_dtype(np.uint8)
                source = nib.load(like) if isinstance(like, Path) else None
                if source is not None and is_nifti(source):
                    for key in GEOMETRY:
                        header[key] = source.header[key]
                    header["pixdim"][4:] = 1
                else:
                    _lay(header, like if source is None else nifti_grid(like).affine)
                header.set_slope_inter(SLOPE, 0)
                header["vox_offset"] = VOXELS_AT
                header.write_to(stream)
                stream.write(bytes(VOXELS_AT - stream.tell()))
            for plane in np.moveaxis(volume, -1, 0):
                stream.write(plane.tobytes(order="F"))


def write_nifti_on(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Write label values (x, y, z) onto a grid, in mm; sheared axes have no qform. Whole or not at all."""
    image = nib.Nifti1Image(values, None)
    _lay(image.header, grid.affine)
    with whole_file(path) as temporary:
        nib.save(nib.Nifti1Image(values, None, image.header), temporary)


def _lay(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    """Give a header of its shape a grid in mm."""
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=SCANNER)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(SPATIAL_DIMS)).max() < RIGHT_ANGLES:
        header.set_qform(affine, code=SCANNER)


def open_nifti(path: Path, *, colours: bool = False, as_stored: bool = False) -> tuple[Nifti1Pair, np.ndarray]:
    """A file and all its voxels, float32, with the axes as stored.

    Args:
        colours: whether voxels may be RGB triples, which become a last axis.
        as_stored: whole numbers keep their type.

    Raises:
        InputError: the file is truncated or no NIfTI file, or its voxels are no real numbers.
        MemoryError: there is no room for them; it names the file.
    """
    check_file(path)
    with_partner(path)
    try:
        with np.errstate(all="ignore"):
            image = nib.load(path)
        if not is_nifti(image):
            logger.warning("%s is Analyze, which does not tell left from right: it is read as nibabel does", path)
        elif not int(image.header["qform_code"]) and not int(image.header["sform_code"]):
            logger.warning(
                "%s does not tell how it lies (qform_code and sform_code are 0): it is read as nibabel does", path
            )
        dtype = image.get_data_dtype()
        if dtype.kind not in "iuf" and not (colours and dtype.names):
            raise InputError(f"{path} holds {dtype} instead of real numbers: export one file per channel")
        refuse_empty_claims(path, image)
        with np.errstate(all="ignore"):  # what is not finite is told by those who know what the file is for
            if dtype.names:
                voxels = np.asanyarray(image.dataobj)
                return image, np.stack([voxels[name].astype(np.float32) for name in dtype.names], axis=-1)
            return image, np.asarray(image.dataobj, dtype=None if as_stored else np.float32)
    except InputError:
        raise
    except (ImageFileError, HeaderDataError) as error:
        raise InputError(
            f"{path} is no NIfTI file or has a broken header ({error}): convert or copy it again"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): change its rights") from error
    except (MemoryError, *UNREADABLE) as error:
        if is_lack_of_memory(error):
            raise lack_of_memory(path, error) from error
        raise InputError(f"{path} is truncated or damaged ({error}): copy or export it again") from error


def is_nifti(image: AnalyzeImage) -> bool:
    """Whether an image is NIfTI rather than Analyze, which has no affine."""
    return isinstance(image, Nifti1Pair)


def is_singular(affine: np.ndarray) -> bool:
    """Whether a 4x4 affine sends a voxel to a plane, a line or nowhere."""
    linear = affine[:3, :3]
    extent = np.prod(np.linalg.norm(linear, axis=0)) if np.isfinite(affine).all() else 0
    return bool(extent == 0 or abs(np.linalg.det(linear)) < 1e-6 * extent)


def affine_in_mm(image: Nifti1Pair) -> np.ndarray:
    """Voxel -> world affine in mm, 4x4; a file without a unit is taken to be in mm."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= unit_in_mm(image) or 1.0
    return affine


def unit_in_mm(image: Nifti1Pair) -> float | None:
    """Millimetres of the file's unit of length; None if it names none."""
    if not is_nifti(image):
        return None
    return MILLIMETRES.get(int(image.header["xyzt_units"]) % 8)


def refuse_empty_claims(path: Path, image: Nifti1Pair) -> None:
    """Raise `InputError` if the header claims more voxels than the file holds.

    A compressed file is read through in pieces, which compares its checksum, too.

    Raises:
        OSError, EOFError, zlib.error: a compressed file is damaged.
    """
    shape = [int(size) for size in image.header.get_data_shape()]
    claimed = int(image.dataobj.offset) + prod(shape) * image.get_data_dtype().itemsize
    file = Path(image.file_map["image"].filename or path)
    held = _decompressed(file, claimed) if file.suffix.lower() == ".gz" else file.stat().st_size
    if min(shape, default=0) < 0 or claimed > held:
        raise InputError(
            f"{path} is truncated or damaged: its header claims the shape {tuple(shape)}, {claimed} bytes, but "
            f"the file can hold {held}: copy or export it again"
        )


def _decompressed(file: Path, enough: int) -> int:
    """How many bytes a gzip file stands for; what is far beyond `enough` is not counted."""
    count = 0
    with gzip.open(file) as stream:
        while count <= enough + PIECE and (piece := len(stream.read(PIECE))):
            count += piece
    return count


def channels_first(path: Path, voxels: np.ndarray) -> np.ndarray:
    """A view (C, *S) of voxels with the axes as stored.

    Raises:
        InputError: they are no volume of one time point.
    """
    shape, volume = voxels.shape, voxels
    if volume.ndim == SPATIAL_DIMS + 2 and shape[SPATIAL_DIMS] == 1:
        volume = volume[:, :, :, 0]  # the fourth axis is time; ITK puts channels on the fifth
    while volume.ndim > SPATIAL_DIMS + 1 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim == SPATIAL_DIMS - 1:
        volume = volume[..., None]  # one slice
    if volume.ndim == SPATIAL_DIMS:
        volume = volume[..., None]
    if volume.ndim != SPATIAL_DIMS + 1 or 0 in shape:
        raise InputError(
            f"{path} has the shape {shape}: expected a volume (3D), a slice of one (2D), 4D with the channels last, "
            "or 5D of one time point"
        )
    return np.moveaxis(volume, -1, 0)
