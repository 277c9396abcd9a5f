"""Connected parts and post-processing voxel by voxel in plain Python."""

from itertools import product

import numpy as np


def flood(allowed, corners):
    """Sets of voxels that hang together, in the order of their first voxel; through faces alone, or corners too."""
    dims = np.ndim(allowed)
    steps = [step for step in product((-1, 0, 1), repeat=dims) if any(step)]
    if not corners:
        steps = [step for step in steps if np.abs(step).sum() == 1]
    left = {tuple(int(i) for i in place) for place in np.argwhere(allowed)}
    parts = []
    for first in sorted(left):
        if first not in left:
            continue
        left.discard(first)
        part, edge = {first}, [first]
        while edge:
            place = edge.pop()
            for step in steps:
                near = tuple(a + b for a, b in zip(place, step, strict=True))
                if near in left:
                    left.discard(near)
                    part.add(near)
                    edge.append(near)
        parts.append(part)
    return parts


def holes_of(mask):
    """Parts outside the mask that never reach the outermost voxels."""
    last = [size - 1 for size in mask.shape]
    parts = flood(~mask, corners=False)
    return [
        part for part in parts if not any(i in (0, end) for voxel in part for i, end in zip(voxel, last, strict=True))
    ]


def regions_of(index, regions):
    return {name for name, members in regions.items() if index in members}


def done_to(classes, kind, label, volume, voxel, regions, painted):
    """One step on a map of class indices.

    Args:
        regions: class indices of each label, or region, by name.
        painted: class that each region paints, in order; of plain labels their own.
    """
    result = classes.copy()
    mask = classes > 0 if label is None else np.isin(classes, regions[label])
    if kind == "holes":
        paint = dict(zip(regions, painted, strict=True))[label]
        for place in {voxel for part in holes_of(mask) for voxel in part}:
            if regions_of(classes[place], regions) <= regions_of(paint, regions):
                result[place] = paint
        return result
    parts = flood(mask, corners=True)
    largest = max(parts, key=len) if parts else None
    for part in parts:
        if part is largest if kind == "largest" else len(part) * voxel >= volume:
            continue
        for place in part:
            kept = [] if label is None else [
                paint
                for (name, members), paint in zip(regions.items(), painted, strict=True)
                if classes[place] in members and paint not in regions[label]
            ]  # fmt: skip
            result[place] = kept[-1] if kept else 0
    return result
