"""The facts of all cases, brought together: what a plan is made from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.config.labels import LabelScheme
from dlka_med.data.case_facts import CaseFacts, ValueFacts
from dlka_med.data.cases import Dataset
from dlka_med.data.folds import groups_of
from dlka_med.data.grey import Moments
from dlka_med.data.splits import related_to_test
from dlka_med.errors import InputError
from dlka_med.files import whole_file

WORLD_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}


@dataclass(frozen=True)
class Channel:
    """Grey values of one channel over all cases.

    Args:
        foreground: mean, deviation, 0.5th and 99.5th percentile of the labelled voxels, medians over the cases; empty
            where nothing is labelled.
        surrounded: share of the cases in which 0 is an empty surrounding.
        outliers: cases in which the outermost hundredth of the voxels decides the deviation.
    """

    name: str
    foreground: tuple[float, ...]
    surrounded: float
    outliers: tuple[str, ...] = ()

    @property
    def is_ct(self) -> bool:
        return self.name.strip().lower() == "ct"


@dataclass(frozen=True)
class Structure:
    """One thing to be found, over the cases that hold it; lengths in mm, of 2D images in pixels.

    Args:
        share: of the case's voxels, median.
        extent: of the box around all of it, per axis, median.
        pieces: connected pieces in a case, median.
        thickness: of a piece, as that of a cube of its volume, but at most its shortest run; 10th percentile.
    """

    name: str
    cases: int
    share: float = 0.0
    extent: tuple[float, ...] = ()
    pieces: float = 0.0
    thickness: float = 0.0


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers. Axes of volumes are those of RAS, whatever the files' order; of 2D images rows, columns.

    Args:
        outputs: of the network.
        labels: how many are declared, without background.
        cases, groups: that may train; a case without a group is one of its own.
        spacings: mm per voxel (in 2D 1) of each case.
        sizes: voxels of each case, of volumes after cropping what is empty.
        kept: share of the voxels that cropping leaves, median.
        stored: voxels of each case before cropping; empty: those of `sizes`.
    """

    root: str
    name: str
    dims: int
    cases: int
    groups: int
    outputs: int
    labels: int
    channels: tuple[Channel, ...]
    structures: tuple[Structure, ...]
    spacings: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    kept: float = 1.0
    stored: tuple[tuple[int, ...], ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Median mm per voxel."""
        return tuple(map(float, np.median(self.spacings, axis=0)))

    @property
    def present(self) -> tuple[Structure, ...]:
        """The structures that some case holds."""
        return tuple(structure for structure in self.structures if structure.cases)

    def uncropped(self) -> "Summary":
        """The same of cases that are not cropped."""
        return replace(self, sizes=self.stored or self.sizes)

    def size_at(self, spacing: Sequence[float | None] | None, share: float = 50) -> tuple[float, ...]:
        """Voxels of a case on another grid, median or another percentile; None, of an axis or all: as stored."""
        return tuple(map(float, np.percentile(self._sizes_at(spacing), share, axis=0)))

    def voxels_at(self, spacing: Sequence[float | None] | None) -> float:
        """Voxels of the largest case on another grid."""
        return float(self._sizes_at(spacing).prod(axis=1).max())

    def _sizes_at(self, spacing: Sequence[float | None] | None) -> np.ndarray:
        own = np.array(self.spacings)
        wanted = np.array([np.nan] * self.dims if spacing is None else spacing, dtype=float)
        return np.array(self.sizes) * own / np.where(np.isnan(wanted), own, wanted)

    def save(self, path: str | Path) -> None:
        """Write all of it as JSON."""
        medians = {"spacing": self.spacing, "size": self.size_at(None)}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self) | {"median": medians}, indent=1) + "\n", encoding="utf-8")


def summarise(dataset: Dataset, facts: Sequence[CaseFacts]) -> Summary:
    """What the labelled cases of a dataset are.

    Args:
        facts: of `dataset.cases`, without errors.

    Raises:
        InputError: no voxel is labelled.
    """
    scheme = LabelScheme.of(dataset.labels)
    outputs, targets = scheme.outputs, scheme.target_values
    structures = tuple(_structure(name, values, facts) for name, values in targets.items())
    if not any(structure.cases for structure in structures):
        raise InputError(
            f"{dataset.root}: the labels of all {len(facts)} cases are empty, no voxel is {' or '.join(targets)}: "
            "check the label files and the labels of dataset.json"
        )
    dims = facts[0].dims
    sizes = tuple(canonical(one.cropped if dims == 3 else one.size, one) for one in facts)
    tested = related_to_test(dataset, ())
    free = [members for members in groups_of(dataset) if not tested & set(members)]
    return Summary(
        root=str(dataset.root),
        name=dataset.name,
        dims=dims,
        cases=sum(map(len, free)),
        groups=len(free),
        outputs=outputs,
        labels=len(targets),
        channels=tuple(_channel(index, name, facts) for index, name in enumerate(dataset.channels)),
        structures=structures,
        spacings=tuple(tuple(canonical(one.spacing, one)) if dims == 3 else (1.0, 1.0) for one in facts),
        sizes=sizes,
        kept=float(np.median([prod(one.cropped) / prod(one.size) for one in facts])),
        stored=tuple(canonical(one.size, one) for one in facts),
    )


def canonical(values: Sequence[Any], facts: CaseFacts) -> tuple[Any, ...]:
    """One value per stored axis, in the order of RAS; of 2D images as they are."""
    if facts.dims == 2:
        return tuple(values)
    worlds = [WORLD_AXIS[code] for code in facts.orientation]
    return tuple(values[worlds.index(world)] for world in range(3))


def _channel(index: int, name: str, facts: Sequence[CaseFacts]) -> Channel:
    channels = {one.id: one.channels[index] for one in facts}
    inside = [found.foreground for found in channels.values() if found.foreground is not None]
    rows = [(one.mean, one.std, one.percentiles[0], one.percentiles[-1]) for one in inside]
    surrounded = float(np.mean([found.grey.is_surrounded for found in channels.values()]))
    outliers = tuple(
        case
        for case, found in channels.items()
        if _has_outliers(found.grey.nonzero if 2 * surrounded >= 1 else found.grey.whole)
    )
    foreground = tuple(map(float, np.median(rows, axis=0))) if rows else ()
    return Channel(name, foreground, surrounded, outliers)


def _has_outliers(moments: Moments) -> bool:
    return moments.std > moments.upper - moments.lower > 0


def _structure(name: str, values: Sequence[int], facts: Sequence[CaseFacts]) -> Structure:
    found = []
    for one in facts:
        entries = [entry for entry in one.label.values if entry.value in values and entry.voxels]
        if entries:
            found.append((one, entries))
    if not found:
        return Structure(name, 0)
    extents = [
        np.array(canonical(np.max([entry.extent or one.size for entry in entries], axis=0), one)) * _spacing(one)
        for one, entries in found
    ]
    return Structure(
        name=name,
        cases=len(found),
        share=float(np.median([sum(e.voxels for e in entries) / prod(one.size) for one, entries in found])),
        extent=tuple(map(float, np.median(extents, axis=0))),
        pieces=float(np.median([sum(e.components or 1 for e in entries) for _, entries in found])),
        thickness=float(np.percentile([min(_thickness(e, one) for e in entries) for one, entries in found], 10)),
    )


def _thickness(entry: ValueFacts, facts: CaseFacts) -> float:
    volume = entry.voxels * float(_spacing(facts).prod()) / (entry.components or 1)
    own = np.array(facts.spacing) if facts.dims == 3 else np.ones(2)
    runs = np.array(entry.runs or facts.size) * own
    return min(volume ** (1 / facts.dims), float(runs.min()))


def _spacing(facts: CaseFacts) -> np.ndarray:
    """Of the axes in the order of RAS."""
    return np.array(canonical(facts.spacing, facts)) if facts.dims == 3 else np.ones(2)
