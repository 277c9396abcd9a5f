"""The metrics as they are defined, one voxel at a time, and with nothing of the code under test."""

import itertools
import math

import numpy as np


def indices(mask):
    return {tuple(map(int, index)) for index in np.argwhere(mask)}


def ratio(part, whole):
    return part / whole if whole else 0.0


def surface(mask):
    """Indices of the voxels with a face neighbour outside the mask."""
    inside = indices(mask)
    faces = [
        tuple(step * (axis == other) for other in range(mask.ndim)) for axis in range(mask.ndim) for step in (-1, 1)
    ]
    return [voxel for voxel in sorted(inside) if any(add(voxel, face) not in inside for face in faces)]


def add(voxel, step):
    return tuple(map(sum, zip(voxel, step, strict=True)))


def distances(mask, other, spacing):
    """From each surface voxel of one mask to the nearest of the other."""
    ours, theirs = (np.array(surface(one), float) * spacing for one in (mask, other))
    return [min(math.dist(place, goal) for goal in theirs) for place in ours]


def percentile(values, percent):
    """With linear interpolation between the two nearest ranks."""
    ordered, place = sorted(values), percent / 100 * (len(values) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def boundary(mask, width):
    inside = indices(mask)
    steps = list(itertools.product(range(-width, width + 1), repeat=mask.ndim))
    return {voxel for voxel in inside if any(add(voxel, step) not in inside for step in steps)}


def boundary_iou(prediction, reference, width):
    ours, theirs = boundary(prediction, width), boundary(reference, width)
    return ratio(len(ours & theirs), len(ours | theirs)) if ours | theirs else None


def overlaps(prediction, reference):
    ours, theirs = indices(prediction), indices(reference)
    return {
        "dice": ratio(2 * len(ours & theirs), len(ours) + len(theirs)),
        "iou": ratio(len(ours & theirs), len(ours | theirs)),
        "precision": ratio(len(ours & theirs), len(ours)),
        "recall": ratio(len(ours & theirs), len(theirs)),
        "volume_error": (len(ours) - len(theirs)) / len(theirs) if theirs else None,
    }


def scores(prediction, reference, spacing, tolerance):
    """What `compare` has to return, as a dict."""
    names = ("dice", "iou", "precision", "recall", "volume_error", "hd95", "hd", "assd", "nsd", "boundary_iou")
    if not (prediction.any() or reference.any()):
        return {"status": "both_empty"} | dict.fromkeys(names)
    found = overlaps(prediction, reference)
    if prediction.any() and reference.any():
        there, back = distances(prediction, reference, spacing), distances(reference, prediction, spacing)
        found |= {
            "status": "ok",
            "hd95": max(percentile(there, 95), percentile(back, 95)),
            "hd": max(there + back),
            "assd": math.fsum(there + back) / len(there + back),
            "nsd": sum(distance <= tolerance * (1 + 1e-6) for distance in there + back) / len(there + back),
        }
    else:
        far = math.sqrt(sum((size * step) ** 2 for size, step in zip(prediction.shape, spacing, strict=True)))
        found |= dict.fromkeys(("hd95", "hd", "assd"), far)
        found |= {"status": "missed" if reference.any() else "false_positive", "nsd": 0.0}
    width = max(1, round(0.02 * math.sqrt(sum(size**2 for size in prediction.shape))))
    found["boundary_iou"] = boundary_iou(prediction, reference, width) if prediction.ndim == 2 else None
    return found


def components(mask):
    """The lesions of a mask: sets of voxels that touch by faces, edges or corners."""
    left, found = indices(mask), []
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    while left:
        lesion, open_ends = set(), [left.pop()]
        while open_ends:
            voxel = open_ends.pop()
            lesion.add(voxel)
            near = {add(voxel, step) for step in steps} & left
            left -= near
            open_ends += near
        found.append(lesion)
    return found


def pairings(ours, theirs, threshold):
    """Every one-to-one assignment of lesions whose IoU reaches the threshold, as lists of (IoU, Dice)."""
    if not ours:
        yield []
        return
    first, *rest = ours
    yield from pairings(rest, theirs, threshold)
    for place, other in enumerate(theirs):
        both = len(first & other)
        iou, dice = both / len(first | other), 2 * both / (len(first) + len(other))
        if both and iou >= threshold:
            for others in pairings(rest, theirs[:place] + theirs[place + 1 :], threshold):
                yield [(iou, dice), *others]


def lesion_scores(prediction, reference, threshold, minimum):
    """The numbers that `lesion_scores` may return: those of every pairing with the largest sum of IoU."""
    ours, theirs = ([c for c in components(mask) if len(c) >= minimum] for mask in (prediction, reference))
    every = list(pairings(ours, theirs, threshold))
    best = max(math.fsum(iou for iou, _ in found) for found in every)
    allowed = []
    for found in every:
        if math.fsum(iou for iou, _ in found) < best - 1e-9:
            continue
        matched, total = len(found), len(ours) + len(theirs)
        numbers = {"reference": len(theirs), "prediction": len(ours), "matched": matched}
        ratios = {
            "precision": ratio(matched, len(ours)),
            "recall": ratio(matched, len(theirs)),
            "f1": ratio(2 * matched, total),
            "dice": ratio(math.fsum(dice for _, dice in found), total - matched),
        }
        allowed.append(numbers | (ratios if total else dict.fromkeys(ratios)))
    return allowed
