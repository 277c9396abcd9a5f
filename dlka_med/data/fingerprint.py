"""One pass over the cases of a dataset: what there is to know of each, kept for as long as its files are the same."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.data.boxes import foreground_box, whole_box
from dlka_med.data.case_facts import FOREGROUND_PERCENTILES, CaseFacts, ChannelFacts, FileFacts, Foreground, LabelFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.formats import ITK_ENDINGS, files_of, is_volume
from dlka_med.data.grey import measure, outermost
from dlka_med.data.grid import Grid, farthest_apart, spacing_of, with_one_unit
from dlka_med.data.itk import open_itk
from dlka_med.data.label_facts import colour_facts, label_facts
from dlka_med.data.nifti import UNREADABLE, affine_in_mm, channels_first, is_nifti, is_singular, open_nifti, unit_in_mm
from dlka_med.data.raster import is_grey, look_at_raster, read_bands, read_pixels
from dlka_med.data.workers import Progress, cores, in_workers
from dlka_med.errors import InputError, WriteError
from dlka_med.files import user_cache_folder, whole_file

FORMAT = 4
HUGE = 1e30  # what is larger counts as infinite: float32 could not hold the difference of two such numbers


def fingerprint(
    cases: Sequence[Case],
    channels: Sequence[str],
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[CaseFacts, ...]:
    """Facts of each case, in their order, from the user's cache directory as far as paths, sizes and times agree.

    Args:
        channels: names of the dataset's channels.
        workers: processes; None: one per core.

    Raises:
        InputError: the system killed a worker.
    """
    with suppress(OSError):
        user_cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    look = partial(_kept, tuple(channels))
    return tuple(in_workers(look, cases, cores() if workers is None else workers, progress))


def read_case(case: Case, channels: Sequence[str]) -> CaseFacts:
    """Read all files of a case as they are. Whatever is wrong with them is a fact, and not raised.

    Raises:
        MemoryError: there is no room for a file, which is no fact about it.
    """
    files, volumes = [], []
    for index, path in enumerate(case.images):
        wanted = channels if len(case.images) == 1 else channels[index : index + 1]
        file, volume = _read_image(path, wanted)
        files.append(file)
        volumes.append(volume)
    label, values = (None, None) if case.label is None else _read_label(case.label)
    facts = CaseFacts(case.id, tuple(files), label, dims=_dims(files[0]))
    if any(volume is None for volume in volumes):
        return facts
    grid = grids_of(facts)[0]
    oriented = facts.dims == 3 and not is_singular(grid.affine)
    sizes = {volume.shape[1:] for volume in volumes}
    start, end = whole_box(volumes[0])
    if len(sizes) == 1:
        start, end = _common_box(volumes)
    return replace(
        facts,
        channels=_channels(case, files, volumes, values, (start, end) if len(sizes) == 1 else None),
        size=grid.shape,
        spacing=tuple(map(float, np.nan_to_num(spacing_of(grid.affine)))),
        orientation="".join(nib.aff2axcodes(grid.affine)) if oriented else "",
        cropped=tuple(last - first for first, last in zip(start, end, strict=True)),
    )


def grids_of(facts: CaseFacts) -> list[Grid]:
    """Where the voxels of a case's files lie, images before the label, all in mm; of a readable case."""
    grids = [Grid(Path(file.path), file.size, file.matrix, file.unit) for file in facts.files]
    return with_one_unit(grids)


def _kept(channels: tuple[str, ...], case: Case) -> CaseFacts:
    paths = [*case.images, *([case.label] if case.label else [])]
    named = [[str(path), str(path.resolve())] for path in paths]
    marks = [[stat.bytes, stat.modified] for path in paths for stat in map(_stat, files_of(path))]
    key = hashlib.sha256(json.dumps([case.id, named, case.order, channels]).encode()).hexdigest()
    file = user_cache_folder() / "facts" / key[:2] / f"{key[2:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        if [stored["format"], stored["marks"]] == [FORMAT, marks]:
            return CaseFacts.of_json(stored["facts"])
    facts = read_case(case, channels)
    text = json.dumps({"format": FORMAT, "marks": marks, "facts": facts.to_json()}, allow_nan=False)
    with suppress(WriteError, OSError), whole_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return facts


def _dims(file: FileFacts) -> int:
    """By its grid; of a file that nobody could open by its name."""
    return len(file.affine) - 1 if file.affine else 3 if is_volume(Path(file.path)) else 2


def _common_box(volumes: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Around all that is not 0 in one of the volumes (C, *S); a volume of zeros has no say."""
    boxes = [foreground_box(volume) for volume in volumes if volume.any()] or [whole_box(volumes[0])]
    starts, ends = zip(*boxes, strict=True)
    return np.min(starts, axis=0).tolist(), np.max(ends, axis=0).tolist()


def _channels(
    case: Case,
    files: Sequence[FileFacts],
    volumes: Sequence[np.ndarray],
    values: np.ndarray | None,
    box: tuple[list[int], list[int]] | None,
) -> tuple[ChannelFacts, ...]:
    found = []
    for file, volume in zip(files, volumes, strict=True):
        for channel in volume:
            label = values if values is not None and values.shape == channel.shape else None
            found.append(_channel(case.id, file.path, channel, label, box or whole_box(volume)))
    if case.order is not None and sorted(case.order) == list(range(len(found))):
        found = [found[place] for place in case.order]
    return tuple(found)


def _channel(
    case_id: str, path: str, volume: np.ndarray, label: np.ndarray | None, box: tuple[list[int], list[int]]
) -> ChannelFacts:
    volume = np.ascontiguousarray(volume)
    digest = hashlib.blake2b(repr(volume.shape).encode(), digest_size=16)
    digest.update(volume.data)
    finite = np.abs(volume) < HUGE
    nan = int(np.isnan(volume).sum())
    infinite = int(finite.size - finite.sum()) - nan
    if nan + infinite:
        middle = np.median(volume[finite]) if finite.any() else 0
        volume = np.where(finite, volume, np.float32(middle))
    # Of values as stored 255 may be a label; in class indices it is what `measure` leaves out.
    measured = measure(case_id, volume[None], None if label is None else label != 0, *box)
    inside, foreground = measured.foreground.ravel().astype(np.float64), None
    if inside.size:
        spread = np.percentile(inside, FOREGROUND_PERCENTILES)
        voxels = int(np.count_nonzero(label))
        foreground = Foreground(voxels, float(inside.mean()), float(inside.std()), tuple(map(float, spread)))
    return ChannelFacts(
        path=path,
        digest=digest.hexdigest(),
        voxels=volume.size,
        nan=nan,
        infinite=infinite,
        minimum=float(volume.min()),
        maximum=float(volume.max()),
        border_zeros=float((outermost(volume) == 0).mean()),
        grey=measured.channels[0],
        foreground=foreground,
    )


def _read_image(path: Path, channels: Sequence[str]) -> tuple[FileFacts, np.ndarray | None]:
    """A file and its voxels (C, *S) float32, or None if they cannot be used."""
    file = _stat(path)
    try:
        if is_volume(path):
            file, voxels = _open_volume(file, path)
            volume = channels_first(path, voxels)
        else:
            volume = np.moveaxis(read_bands(path, channels).astype(np.float32), -1, 0)
            file = _open_raster(file, path)
    except InputError as mistake:
        return replace(file, problem=str(mistake)), None
    return replace(file, shape=file.shape or volume.shape[1:], size=volume.shape[1:], channels=len(volume)), volume


def _read_label(path: Path) -> tuple[LabelFacts, np.ndarray | None]:
    """A label and its voxels (*S), finite, or None if they are no numbers."""
    file = _stat(path)
    try:
        if is_volume(path):
            file, voxels = _open_volume(file, path)
            volume = channels_first(path, voxels)
            file = replace(file, size=volume.shape[1:], channels=len(volume))
            if len(volume) > 1:
                return LabelFacts(file), None
            values = volume[0]
        else:
            pixels = read_pixels(path, is_label=True)
            file = replace(_open_raster(file, path), shape=pixels.shape[:2], size=pixels.shape[:2], channels=1)
            if pixels.ndim == 3 and pixels.shape[-1] > 2 and not is_grey(pixels[..., :3]):
                return colour_facts(replace(file, has_colours=True), pixels), None
            values = pixels if pixels.ndim == 2 else pixels[..., 0]
    except InputError as mistake:
        return LabelFacts(replace(file, problem=str(mistake))), None
    facts = label_facts(file, values)
    return facts, np.where(np.isfinite(values), values, 0) if facts.not_finite else values


def _stat(path: Path) -> FileFacts:
    try:
        stat = path.stat()
    except OSError:
        return FileFacts(str(path), problem=f"{path} does not exist")
    return FileFacts(str(path), stat.st_size, stat.st_mtime_ns)


def _open_volume(file: FileFacts, path: Path) -> tuple[FileFacts, np.ndarray]:
    if path.name.lower().endswith(ITK_ENDINGS):
        return _open_itk(file, path)
    image, voxels = open_nifti(path, colours=True)
    header, affine = image.header, affine_in_mm(image)
    scale = unit_in_mm(image) or 1.0
    return replace(
        file,
        shape=voxels.shape,
        dtype=str(header.get_data_dtype()),
        has_colours=header.get_data_dtype().names is not None,
        affine=tuple(tuple(_finite(entry) for entry in row) for row in affine),
        pixdim=tuple(_finite(abs(zoom) * scale) for zoom in header["pixdim"][1:4]),
        forms_apart=_forms_apart(image) if is_nifti(image) else None,
        unit=unit_in_mm(image),
    ), voxels


def _open_itk(file: FileFacts, path: Path) -> tuple[FileFacts, np.ndarray]:
    header, voxels = open_itk(path)
    return replace(
        file,
        shape=voxels.shape,
        dtype=str(header.dtype),
        affine=tuple(map(tuple, header.affine.tolist())),
        pixdim=tuple(spacing_of(header.affine).tolist()),
    ), voxels


def _open_raster(file: FileFacts, path: Path) -> FileFacts:
    mode, exif = look_at_raster(path)
    flat = tuple(map(tuple, np.eye(3).tolist()))
    return replace(file, mode=mode, dtype=mode, exif=exif, affine=flat, pixdim=(1.0, 1.0))


def _forms_apart(image: nib.Nifti1Image) -> float | None:
    try:
        with np.errstate(all="ignore"):
            qform, sform = image.get_qform(coded=True)[0], image.get_sform(coded=True)[0]
            if qform is None or sform is None or is_singular(qform) or is_singular(sform):
                return None
            shape = (*image.shape, 1, 1, 1)[:3]
            return _finite(farthest_apart(qform, sform, shape) / spacing_of(sform).min())
    except UNREADABLE:
        return None


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
