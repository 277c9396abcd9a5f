"""The values of a label map, and how large what they mark is."""

import hashlib

import numpy as np
from scipy import ndimage

from dlka_med.config.labels import MAX_VALUE
from dlka_med.data.boxes import slabs
from dlka_med.data.case_facts import FileFacts, LabelFacts, ValueFacts
from dlka_med.data.load import WHOLE_NUMBER_TOLERANCE

MAX_VALUES = 512
MEASURED_VALUES = 256  # of one file; more are no labels
CHEAP_VOXELS = 2**22  # of a box in which connected pieces are counted
MAX_COLOURS = 64


def label_facts(file: FileFacts, voxels: np.ndarray) -> LabelFacts:
    """Count and measure the values of a label map.

    Args:
        voxels: (*S), real numbers.
    """
    whole, fractional, not_finite = _whole_numbers(voxels)
    counts, lowest = _counts(whole)
    counts[-lowest] -= fractional + not_finite
    found = np.flatnonzero(counts)
    listed = found[np.argsort(-counts[found], kind="stable")][:MAX_VALUES]
    measured = {int(place) + lowest for place in listed[:MEASURED_VALUES]} - {0}
    above = whole if lowest >= 0 else whole - (lowest - 1)  # find_objects knows numbers from 1 on
    boxes = ndimage.find_objects(above) if measured else []
    values = []
    for place in np.sort(listed).tolist():
        value = place + lowest
        entry = ValueFacts(value, int(counts[place]), ())
        if value in measured:
            box = boxes[value - 1 if lowest >= 0 else place]
            entry = _measured(entry, whole[box] == value)
        values.append(entry)
    unlisted = int(counts.sum() - counts[listed].sum())
    digest = _digest(voxels if fractional or not_finite else whole)
    return LabelFacts(file, tuple(values), unlisted, fractional, not_finite, digest=digest)


def colour_facts(file: FileFacts, pixels: np.ndarray) -> LabelFacts:
    """Count the colours of a picture (rows, columns, 3 or more) where label values were expected."""
    red, green, blue = (pixels[..., band].astype(np.int64) for band in range(3))
    colours, counts = np.unique((red << 16) | (green << 8) | blue, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_COLOURS]
    listed = tuple((f"#{int(colours[place]):06x}", int(counts[place])) for place in order)
    return LabelFacts(file, colours=listed, digest=_digest(pixels[..., :3]))


def _digest(voxels: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    for plane in slabs(voxels):
        digest.update(np.ascontiguousarray(plane, np.float64).data)
    return digest.hexdigest()


def _whole_numbers(voxels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """int32 (*S), 0 where there is no whole number; how many are fractional or too large, and not finite."""
    whole, fractional, not_finite = np.zeros(voxels.shape, np.int32), 0, 0
    for plane, target in zip(slabs(voxels), slabs(whole), strict=True):
        plane = plane.astype(np.float64)  # numpy rounds bytes in half precision
        finite = np.isfinite(plane)
        nearest = np.rint(np.where(finite, plane, 0))
        fits = finite & (np.abs(nearest) <= MAX_VALUE)
        fits[fits] = np.abs(plane[fits] - nearest[fits]) <= WHOLE_NUMBER_TOLERANCE
        target[fits] = nearest[fits]
        not_finite += int(finite.size - finite.sum())
        fractional += int(finite.sum() - fits.sum())
    return whole, fractional, not_finite


def _counts(whole: np.ndarray) -> tuple[np.ndarray, int]:
    """Voxels of each number from the lowest on, at most 0, and this lowest."""
    lowest, highest = min(int(whole.min()), 0), max(int(whole.max()), 0)
    counts = np.zeros(highest - lowest + 1, np.int64)
    for plane in slabs(whole):
        counts += np.bincount(plane.ravel() - lowest, minlength=len(counts))
    return counts, lowest


def _measured(entry: ValueFacts, mask: np.ndarray) -> ValueFacts:
    components = int(ndimage.label(mask)[1]) if mask.size <= CHEAP_VOXELS else None
    runs = tuple(_longest_run(mask, axis) for axis in range(mask.ndim))
    return ValueFacts(entry.value, entry.voxels, mask.shape, runs, components)


def _longest_run(mask: np.ndarray, axis: int) -> int:
    longest = 0
    for plane in slabs(np.moveaxis(mask, axis, -1)):
        edges = np.diff(plane.astype(np.int8), axis=-1, prepend=0, append=0)
        starts, ends = np.nonzero(edges > 0)[-1], np.nonzero(edges < 0)[-1]
        longest = max(longest, int((ends - starts).max(initial=0)))
    return longest
