"""Rules for the grid: which network, which spacing, which window on it."""

from collections.abc import Sequence
from math import ceil, floor, inf, prod
from typing import NamedTuple

import numpy as np

from dlka_med.config.deepest_map import total_stride
from dlka_med.config.loading import NETWORKS
from dlka_med.data.resample import is_coarse, keeps_spacing
from dlka_med.planning.choice import Choice, shape
from dlka_med.planning.summary import Structure, Summary

PLANES = ("sagittal", "coronal", "axial")  # across each axis of RAS
FEW_SLICES = 16  # of a kernel that spans 21
FEW_VOXELS, FLATTER = 8, 4  # along an axis, and how many times more along the others, where it is no depth
ALIKE = 0.01  # as a share: spacings that differ less are equal
COVER = 0.25  # of a case has to fit into the window
RESOLVED = 5  # voxels that the thinnest pieces keep
SLIGHTLY = 1.2  # coarser, which is not worth a resampling
MANY_PIECES = 5  # in a case: what they are shows in a small window
LEAST_STEPS, WANTED_STEPS = 500, 1000
LEAST_MAP = 4  # voxels along an axis of the deepest map
LEAST_AXIS, LEAST_SIDE = 16, 64  # of a window, in voxels of volumes and in pixels
COARSE_START = 128  # voxels from which on the first stage has a stride of 4, as published


class Downsampling(NamedTuple):
    """How a network makes its maps smaller.

    Args:
        stages: strides that it has at most.
        by_axis: whether each axis has its own; else all are halved together.
        starts_coarse: whether the first stride may be 4.
        unit: of a network whose stages cannot be chosen: its total stride.
    """

    stages: int = 0
    by_axis: bool = True
    starts_coarse: bool = False
    unit: int | None = None


DOWNSAMPLING = {
    "dlka_net_3d": Downsampling(4, starts_coarse=True),
    "dlka_net_2d": Downsampling(unit=32),
    "dlka_unet": Downsampling(4),
    "unet": Downsampling(4),
    "dynunet": Downsampling(5),
    "segresnet": Downsampling(3, by_axis=False),
    "swin_unetr": Downsampling(unit=32),
    "mednext": Downsampling(4, by_axis=False),
    "timm_unet": Downsampling(unit=32),
}


def network_and_plane(summary: Summary, wanted: str | None, *, published: bool = False) -> tuple[Choice, Choice]:
    """`network.name` and `dataset.slices`.

    Args:
        wanted: a network that was asked for; on 2D images one for volumes alone is not chosen.
        published: whether the networks of the paper can be afforded; in 2D a short run takes another one.
    """
    dims = None if wanted is None else own_dims(wanted)
    plane, why = _plane(summary, dims)
    if summary.dims == 2:
        dims = 2
        wanted = None if wanted is not None and own_dims(wanted) == 3 else wanted
    else:
        dims = 3 if plane.value is None else 2
    if wanted is not None:
        return Choice(wanted, "asked for"), plane
    if dims == 2 and not published:
        return Choice("dlka_unet", f"{why}; in a short run this U-Net learns most"), plane
    return Choice(f"dlka_net_{dims}d", why), plane


def own_dims(network: str) -> int | None:
    """2 or 3 for a network of these dims alone; None for one that comes in both."""
    return getattr(NETWORKS[network], "spatial_dims", None)


def _plane(summary: Summary, dims: int | None) -> tuple[Choice, str]:
    """`dataset.slices`, and what that says about the data.

    Args:
        dims: of the network that was asked for; None: what suits the cases.
    """
    if summary.dims == 2:
        return Choice(None, "the cases are what the network sees"), "the cases are 2D images"
    spacing, size = summary.spacing, summary.size_at(None)
    flat, longest = flat_axis(size), longest_axis(spacing, size)
    axis = longest if flat is None else flat
    across = Choice(PLANES[axis], _across(axis, spacing, size))
    if dims == 2:
        return across, "asked for"
    if dims is None and flat is not None:
        return across, f"volumes of {shape(size)} voxels hold too little depth"
    if dims is None and coarse_axis(spacing) is not None and size[longest] < FEW_SLICES:
        thicker = spacing[longest] / min(spacing)
        why = f"{size[longest]:.0f} slices, {thicker:.2g} times thicker than fine, hold too little depth"
        return Choice(PLANES[axis], "the plane of the fine pixels"), why
    return Choice(None, "the network sees volumes"), f"volumes of {shape(size)} voxels"


def _across(axis: int, spacing: Sequence[float], size: Sequence[float]) -> str:
    if axis == flat_axis(size):
        return f"across the axis of by far the fewest voxels, {shape(size)}"
    if min(spacing) > (1 - ALIKE) * spacing[axis]:
        return f"across the axis of the fewest voxels, {shape(size)} of equal spacing"
    return f"across the axis of {spacing[axis]:.3g} mm per voxel"


def flat_axis(size: Sequence[float]) -> int | None:
    """The axis of so few voxels, and so many fewer than the others, that it is no depth; None if there is none."""
    least, second = sorted(range(3), key=lambda axis: size[axis])[:2]
    return least if size[least] < FEW_VOXELS and FLATTER * size[least] <= size[second] else None


def longest_axis(spacing: Sequence[float], size: Sequence[float]) -> int:
    """The axis of the longest voxels; of equal ones that of the fewest, and of these the last."""
    longest = [axis for axis in range(3) if spacing[axis] >= (1 - ALIKE) * max(spacing)]
    return min(longest, key=lambda axis: (size[axis], -axis))


def coarse_axis(spacing: Sequence[float]) -> int | None:
    """The axis whose voxels are over three times longer than the shortest; None if there is none."""
    longest = int(np.argmax(spacing))
    return longest if is_coarse(np.asarray(spacing))[longest] else None


def window_axes(summary: Summary, plane: str | None) -> tuple[int, ...]:
    """The axes of a case that the network sees."""
    return tuple(axis for axis in range(summary.dims) if plane is None or axis != PLANES.index(plane))


def full_spacing(summary: Summary) -> Choice:
    """`preprocessing.spacing` before any thought of the budget; of 2D images None."""
    if summary.dims == 2:
        return Choice(None, "pixels as they are")
    own = np.array(summary.spacings)
    spacing = np.median(own, axis=0)
    thick, why = coarse_axis(spacing), "mm, median of the cases"
    if all(keeps_spacing(one, spacing) for one in own):
        why = "mm, that of all cases, so that nothing is resampled"
    elif thick is not None:
        others = np.delete(spacing, thick).max()
        spacing[thick] = max(np.percentile(own[:, thick], 10), others)
        why = f"mm, median; {spacing[thick]:.3g} as the thin ones of the thick slices, which would blur"
    return Choice(tuple(float(f"{value:.6g}") for value in spacing), why)


def coarser_spacing(
    summary: Summary, full: Choice, axes: Sequence[int], voxels: float, structures: Sequence[Structure]
) -> Choice:
    """`preprocessing.spacing` at which a window of so many voxels covers enough of a case, if structures allow.

    The finest axes become coarser first.
    """
    spacing = np.array(full.value or (1.0,) * summary.dims)
    size = np.array(summary.size_at(full.value))
    inside = np.isin(np.arange(summary.dims), axes)
    covered = voxels / prod(size[inside])
    if covered >= COVER:
        return full
    limit = min((one.thickness / RESOLVED for one in structures), default=inf)
    level = _poured(spacing[inside], COVER / covered)
    new = np.where(inside, np.maximum(spacing, min(level, limit)), spacing)
    if (new <= SLIGHTLY * spacing).all():
        return full
    now = min(voxels / prod((size * spacing / new)[inside]), 1)
    unit = "mm" if summary.dims == 3 else "pixels"
    why = (
        f"{unit}; coarser than {shape(spacing)}, where the window held {_percent(covered)} % of a case; "
        f"now about {_percent(now)} %"
    )
    # Rounding would resample axes that stay as they are.
    rounded = (float(f"{wide:.3g}") if wide > own else float(own) for wide, own in zip(new, spacing, strict=True))
    return Choice(tuple(rounded), why)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.0f}"


def _poured(spacing: np.ndarray, times: float) -> float:
    """The level to which all below it have to be raised for their product to grow so many times."""
    low, high = float(spacing.min()), float(spacing.max() * times)
    for _ in range(60):
        middle = (low + high) / 2
        grown = prod(np.maximum(spacing, middle) / spacing)
        low, high = (middle, high) if grown < times else (low, middle)
    return high


def window_voxels(summary: Summary, whole: float, per_second: float, seconds: float, batch: int) -> float:
    """How large a window may be for a training to have steps enough.

    Args:
        whole: voxels of a whole case.
        per_second: voxels that the device trains on.
    """
    if seconds == inf:
        return inf
    at = per_second * seconds / batch
    scattered = max((one.pieces for one in summary.present), default=0) >= MANY_PIECES
    if not scattered and whole <= at / LEAST_STEPS:
        return whole
    return at / WANTED_STEPS


def window(size: Sequence[float], spacing: Sequence[float], voxels: float) -> tuple[float, ...]:
    """Voxels along each axis: equal lengths in mm, but no more than the case has, so many in all."""
    sizes, steps = np.array(size, dtype=float), np.array(spacing, dtype=float)
    least = np.minimum(sizes, 8)
    low, high = 0.0, float((sizes * steps).max())
    for _ in range(60):
        middle = (low + high) / 2
        fits = prod(np.clip(middle / steps, least, sizes)) <= voxels
        low, high = (middle, high) if fits else (low, middle)
    return tuple(map(float, np.clip(low / steps, least, sizes)))


def stage_strides(
    size: Sequence[float], spacing: Sequence[float], downsampling: Downsampling
) -> tuple[tuple[int, ...], ...]:
    """Downsampling in front of each stage; where it goes by axes, of at least two.

    An axis is left alone as long as its voxels are over twice as long as the shortest, and once its map would
    have fewer than four. Axes that can only be halved together are, while one of them has so many.
    """
    if downsampling.unit is not None:
        return ((downsampling.unit,) * len(size),)
    found: list[tuple[int, ...]] = []
    sizes, steps = list(size), list(spacing)
    while len(found) < downsampling.stages:
        stride = []
        for axis in range(len(sizes)):
            factor = 4 if downsampling.starts_coarse and not found and sizes[axis] >= COARSE_START else 2
            if downsampling.by_axis:
                alone = steps[axis] > 2 * min(steps) * 1.001 or sizes[axis] / factor < LEAST_MAP
            else:
                alone = max(sizes) / factor < LEAST_MAP
            stride.append(1 if alone else factor)
        if max(stride) == 1 and len(found) >= (2 if downsampling.by_axis else 1):
            break
        found.append(tuple(stride))
        sizes = [n / s for n, s in zip(sizes, stride, strict=True)]
        steps = [mm * s for mm, s in zip(steps, stride, strict=True)]
    return tuple(found)


def patch_and_strides(
    size: Sequence[float], spacing: Sequence[float], voxels: float, downsampling: Downsampling
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Window and strides of a network; the window is a multiple of the total strides, and more than one of them."""
    # A thin margin around tiny cases costs little and leaves the network its stages.
    if len(size) == 2:
        least, padded, voxels = LEAST_SIDE, [max(n, LEAST_SIDE) for n in size], max(voxels, LEAST_SIDE**2)
    else:
        fine = [mm <= 2 * min(spacing) for mm in spacing]
        least, padded = 1, [max(n, LEAST_AXIS) if is_fine else n for n, is_fine in zip(size, fine, strict=True)]
    cut = window(padded, spacing, voxels)
    strides = stage_strides(cut, spacing, downsampling)
    total = total_stride(strides)
    patch = [max(_multiple(c, n, unit), least) for c, n, unit in zip(cut, padded, total, strict=True)]
    if patch == total:
        patch[cut.index(max(cut))] *= 2
    return tuple(patch), strides


def _multiple(cut: float, size: float, unit: int) -> int:
    """Up to a whole case, down for what is cut out of it."""
    whole = cut >= 0.98 * size
    return max((ceil(size / unit - 0.02) if whole else floor(cut / unit + 1e-6)) * unit, unit)


def patch_reason(patch: Sequence[int], size: Sequence[float], strides: Sequence[Sequence[int]]) -> str:
    """Why a window is as large as it is, for cases of this size on its grid."""
    covered = prod(min(p / n, 1) for p, n in zip(patch, size, strict=True))
    part = "the whole" if covered > 0.95 else f"{_percent(covered)} %"
    return f"{part} of a median case of {shape(size)}, in multiples of {shape(total_stride(strides))}"
