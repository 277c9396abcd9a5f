"""A dataset with the facts of its cases, as the rules ask for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from dlka_med.config.labels import LabelScheme
from dlka_med.data.case_facts import CaseFacts, FileFacts
from dlka_med.data.cases import Case, Dataset
from dlka_med.data.fingerprint import grids_of
from dlka_med.data.grid import Grid
from dlka_med.data.nifti import is_singular
from dlka_med.data.refusals import Refusal


@dataclass(frozen=True)
class Survey:
    """All that the rules look at.

    Args:
        description: the content of `dataset.json`.
        facts: of `dataset.cases`, then of `dataset.test`.
        refusals: what was left out when the dataset was read.
        groups: the table that says which cases belong together; None: there is none.
        folds: of the cross-validation that is meant.
        spacing: mm per voxel that is planned, along the axes R, A and S; None: the median of the cases.
    """

    dataset: Dataset
    description: dict[str, Any]
    facts: tuple[CaseFacts, ...]
    refusals: tuple[Refusal, ...] = ()
    groups: Path | None = None
    folds: int = 5
    spacing: tuple[float | None, ...] | None = None

    @property
    def cases(self) -> tuple[Case, ...]:
        """Labelled cases, then those to predict, in the order of `facts`."""
        return (*self.dataset.cases, *self.dataset.test)

    @property
    def labelled(self) -> tuple[CaseFacts, ...]:
        return self.facts[: len(self.dataset.cases)]

    @cached_property
    def case_of(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    @cached_property
    def readable(self) -> tuple[CaseFacts, ...]:
        """Cases whose files could all be opened and hold volumes or 2D images."""
        return tuple(facts for facts in self.facts if facts.is_readable)

    @cached_property
    def declared(self) -> frozenset[int]:
        """Values that label maps may hold."""
        return frozenset(self.value_names)

    @cached_property
    def scheme(self) -> LabelScheme:
        """What the values mean."""
        return LabelScheme.of(self.dataset.labels)

    @cached_property
    def value_names(self) -> dict[int, str]:
        """What each value is called."""
        background = next(name for name, value in self.dataset.labels.items() if value == 0)
        return {0: background, **self.scheme.value_names}

    def files(self) -> Iterator[tuple[CaseFacts, FileFacts]]:
        """Every file of every case."""
        return ((facts, file) for facts in self.facts for file in facts.files)

    def volumes(self) -> Iterator[tuple[CaseFacts, FileFacts]]:
        """Every file that is a volume with a usable affine."""
        for facts, file in self.files():
            if len(file.affine) == 4 and not is_singular(file.matrix):
                yield facts, file

    def grids(self) -> Iterator[tuple[CaseFacts, list[Grid]]]:
        """Where the voxels of each readable case lie, image before label, if all affines can be used."""
        for facts in self.readable:
            if all(len(file.affine) < 4 or not is_singular(file.matrix) for file in facts.files):
                yield facts, grids_of(facts)

    def is_labelled(self, facts: CaseFacts) -> bool:
        """Whether the case is one of `labelled`, which train."""
        return self.case_of[facts.id].label is not None

    def group(self, case_id: str) -> str | None:
        return self.case_of[case_id].group

    @cached_property
    def planned(self) -> np.ndarray | None:
        """mm per voxel along R, A and S; None where no case tells, or in 2D."""
        known = [spacing for facts in self.readable if (spacing := world_spacing(facts)) is not None]
        if not known:
            return None
        median = np.median(known, axis=0)
        if self.spacing is None:
            return median
        return np.array([wish or kept for wish, kept in zip(self.spacing, median, strict=True)])


def image_digest(facts: CaseFacts) -> tuple[str, ...] | None:
    """What twins have in common; None where an image is unreadable or constant, which says nothing."""
    if not facts.channels or all(channel.is_constant for channel in facts.channels):
        return None
    return tuple(channel.digest for channel in facts.channels)


def world_axes(facts: CaseFacts) -> list[int] | None:
    """For R, A and S the axis of the file that runs along it; None where nobody knows."""
    if len(facts.orientation) != 3:
        return None
    return np.argsort(nib.orientations.axcodes2ornt(tuple(facts.orientation))[:, 0]).tolist()


def world_spacing(facts: CaseFacts) -> np.ndarray | None:
    """mm per voxel along R, A and S."""
    axes = world_axes(facts)
    return None if axes is None else np.array(facts.spacing)[axes]
