"""One mend per code: what `--fix` does to a case of a copy."""

from collections.abc import Callable, Collection, Iterator

import numpy as np

from dlka_med.checking.drafts import Draft
from dlka_med.data.resample import nearest_voxels

NEARLY_WHOLE = 0.1  # what is farther from a whole number was interpolated between two labels
KEPT_SHARE = 0.5  # of a label's volume: if more of it falls outside the image, the header is wrong
BLACK = (0, 0, 0)

Change = tuple[str, str]
"""File and what was done to it."""


class Unmendable(Exception):
    """Why nobody but the user can mend a case; `code`: of what cannot be mended."""

    code = ""


Mend = Callable[[Draft, Collection[str]], Iterator[Change]]
"""Changes a draft in place; the paths are those that the code was told of."""


def resample_label(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    """Label onto the image's grid, nearest voxel; 0 outside."""
    _only_label(draft, paths, "its channels lie on different grids")
    if draft.label is None or draft.label.ndim != 3:
        raise Unmendable("image and label have different sizes, and nothing says how they lie on each other")
    image, label = draft.affines[0], draft.affines[-1]
    moved = _nearest(draft.label, np.linalg.inv(label) @ image, draft.images[0].shape[1:])
    before = np.count_nonzero(draft.label) * abs(np.linalg.det(label[:3, :3]))
    after = np.count_nonzero(moved) * abs(np.linalg.det(image[:3, :3]))
    if after < KEPT_SHARE * before:
        raise Unmendable("most of its label lies outside the image: one of the two affines is wrong")
    draft.label, draft.affines[-1] = moved, image
    yield draft.label_path, "resampled onto the image's grid by the nearest voxel"


def snap_affine(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    for index, file in enumerate(draft.facts.files):
        if file.path in paths:
            draft.affines[index] = draft.affines[0]
            yield file.path, "given the affine of the image"


def fill_voxels(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    """NaN and infinite voxels take the value that lies around the image."""
    empty = _empty_values(draft)
    for file, volume in zip(draft.facts.images, draft.images, strict=True):
        if file.path in paths:
            filled = 0
            for channel in volume:
                broken = ~np.isfinite(channel) | (np.abs(channel) >= np.float32(1e30))
                channel[broken] = empty.pop(0)
                filled += int(broken.sum())
            yield file.path, f"{filled} voxels that were not finite set to the image's empty value"
        else:
            del empty[: len(volume)]


def split_colours(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    wanted = len(draft.channels) if len(draft.images) == 1 else 1
    for index, (file, volume) in enumerate(zip(draft.facts.images, draft.images, strict=True)):
        if file.path not in paths:
            continue
        if len(volume) != wanted and wanted == 1 and (volume == volume[:1]).all():
            draft.images[index] = volume[:1]
        if len(draft.images[index]) != wanted:
            raise Unmendable(f"its voxels are {len(volume)} colours, but {wanted} channels are declared")
        yield file.path, "colours made channels"


def threshold_mask(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    """What is nearer to the highest value than to 0 is the label."""
    value, mask = _one_label(draft), draft.label
    middle = max(float(mask.max()), value) / 2
    _set_label(draft, np.where(mask > middle, value, 0))
    yield draft.label_path, f"voxels above {middle:g} set to {value}, others to 0"


def round_label(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    nearest = np.rint(draft.label)
    if len(draft.foreground) == 1 and not np.isin(nearest, list(draft.values)).all():
        yield from threshold_mask(draft, paths)
        return
    apart = np.abs(draft.label - nearest).max()
    if len(draft.foreground) > 1 and apart > NEARLY_WHOLE:
        raise Unmendable("its label was interpolated between values, which cannot be undone")
    _set_label(draft, nearest)
    yield draft.label_path, "rounded to whole numbers"


def replace_colour(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    value, colours = _one_label(draft), np.unique(draft.label.reshape(-1, 3), axis=0)
    if len(colours) != 2 or tuple(colours[0].tolist()) != BLACK:
        raise Unmendable("nothing says which of its label's colours is which label")
    _set_label(draft, np.where(draft.label.any(axis=-1), value, 0))
    yield draft.label_path, f"its colour replaced by {value}"


def rewrite(done: str) -> Mend:
    """Whatever is written anew is right: only the words differ."""

    def mend(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
        return ((file.path, done) for file in draft.facts.files if file.path in paths)

    return mend


def to_millimetres(draft: Draft, paths: Collection[str]) -> Iterator[Change]:
    """Of all files: one without a unit was read in that of the others."""
    return ((file.path, "brought to mm") for file in draft.facts.files if file.unit != 1.0)


MENDS: dict[str, Mend] = {
    "voxels-rgb": split_colours,
    "axes-five": rewrite("channels put on the fourth axis"),
    "exif-turned": rewrite("turned as its EXIF data said, which are gone"),
    "modes-mixed": rewrite("saved with the number of channels that is declared"),
    "pixdim-differs": rewrite("pixdim made to agree with the affine"),
    "forms-differ": rewrite("qform made to agree with the sform"),
    "unit-missing": rewrite("its unit written as mm"),
    "unit-other": to_millimetres,
    "grid-noise": snap_affine,
    "mask-255": threshold_mask,
    "mask-jpeg": threshold_mask,
    "mask-antialiased": threshold_mask,
    "mask-colours": replace_colour,
    "label-not-whole": round_label,
    "voxels-nan": fill_voxels,
    "voxels-infinite": fill_voxels,
    "grid-size": resample_label,
    "grid-affine": resample_label,
}
"""In the order in which they are done: values of a label before its resampling."""


def mend(draft: Draft, codes: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Mend a draft of all its codes.

    Args:
        codes: files by code; those without a mend are ignored.

    Returns:
        Code, file and what was done to it.

    Raises:
        Unmendable: nothing of the draft should be kept.
    """
    changes = []
    for code, function in MENDS.items():
        try:
            changes += [(code, *change) for change in (function(draft, codes[code]) if code in codes else ())]
        except Unmendable as reason:
            reason.code = code
            raise
    return changes


def _empty_values(draft: Draft) -> list[float]:
    """Per channel of the files, in their order."""
    values = [channel.grey.outside for channel in draft.facts.channels]
    return values if draft.order is None else [values[draft.order.index(place)] for place in range(len(values))]


def _only_label(draft: Draft, paths: Collection[str], reason: str) -> None:
    if any(file.path in paths for file in draft.facts.images):
        raise Unmendable(reason)


def _one_label(draft: Draft) -> int:
    if len(draft.foreground) != 1:
        raise Unmendable(f"nothing says which of {len(draft.foreground)} labels its mask is of")
    return draft.foreground[0]


def _set_label(draft: Draft, values: np.ndarray) -> None:
    if not np.isin(values, list(draft.values)).all():
        raise Unmendable("its label holds values that nobody declared")
    draft.label = values.astype(np.int32)


def _nearest(label: np.ndarray, step: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The label (x, y, z) on a grid whose voxel i is at `step @ i` of its own; plane by plane, to spare memory."""
    moved = np.zeros(shape, label.dtype)
    rows = np.stack([*np.meshgrid(*map(np.arange, shape[1:]), indexing="ij"), np.ones(shape[1:])])
    ends = np.reshape(label.shape, (3, 1, 1))
    for index, plane in enumerate(moved):
        at = np.tensordot(step[:3], np.concatenate([np.full((1, *shape[1:]), float(index)), rows]), axes=1)
        places = nearest_voxels(np.round(np.nan_to_num(at, nan=-1.0), 6).clip(-1, ends))
        inside = np.all(
            [(place >= 0) & (place < size) for place, size in zip(places, label.shape, strict=True)], axis=0
        )
        plane[inside] = label[tuple(place[inside] for place in places)]
    return moved
