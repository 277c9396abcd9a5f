"""Overlays of the same few validation cases after each validation."""

from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.config.labels import LabelScheme
from dlka_med.data.grid import spacing_of
from dlka_med.data.load import load_case
from dlka_med.evaluation.figures import overlay
from dlka_med.training.data import RunData

MOST = 2
DPI = 80


class Pictures:
    """Keeps the label maps of the first cases that this device validates until they are drawn."""

    def __init__(self, data: RunData) -> None:
        self.data = data
        self._cases: list[str] = []
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def keep(self, case: str, prediction: np.ndarray, reference: np.ndarray) -> None:
        """Be shown the class indices (*S) of a case that was just predicted."""
        if case not in self._cases and len(self._cases) < MOST:
            self._cases.append(case)
        if case in self._cases:
            self._kept[case] = prediction, reference

    def draw(self, folder: Path) -> dict[str, Path]:
        """PNGs in `folder` by case, of what was kept since they were last drawn."""
        drawn = {case: folder / f"{number}.png" for number, case in enumerate(self._kept)}
        for case, path in drawn.items():
            self._draw(case, path)
        self._kept = {}
        return drawn

    def _draw(self, case: str, path: Path) -> None:
        dataset = self.data.config.dataset
        loaded = load_case(self.data.cases[case], dataset.channels or ())
        labels, table = _named(dataset.scheme)
        image, spacing = loaded.image, spacing_of(loaded.affine)
        maps = [table[classes] for classes in self._kept[case]]
        if len(spacing) == 3:
            turns = nib.io_orientation(loaded.affine)
            image, *maps = (nib.apply_orientation(array, turns) for array in (image[0], *maps[::-1]))
            maps.reverse()
            spacing = spacing[np.argsort(turns[:, 0])]
        prediction, reference = maps
        overlay(image, reference, prediction, labels, path, spacing=spacing, title=case, dpi=DPI)


def _named(scheme: LabelScheme) -> tuple[dict[str, int], np.ndarray]:
    """A class index for each name, and which of them stands for each class: values of one region share it."""
    labels: dict[str, int] = {}
    table = np.arange(256, dtype=np.uint8)
    for index, value in enumerate(scheme.values):
        if value:
            table[index] = labels.setdefault(scheme.value_names[value], index)
    return labels, table
