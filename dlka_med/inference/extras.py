"""What is written beside the label map of a case, in folders of its own."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlka_med.data.prepare import Prepared
from dlka_med.files import writable_folder
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.probabilities import (
    NUMBERS,
    Numbers,
    ProbabilityRows,
    probability_ending,
    write_probabilities,
)
from dlka_med.inference.uncertainty import Disagreement, Entropy
from dlka_med.inference.windows import Progress
from dlka_med.inference.writing import geometry_of, write_share_map

PROBABILITIES, UNCERTAINTY, DISAGREEMENT = "probabilities", "uncertainty", "disagreement"
SHARE_ENDING = {2: ".png", 3: ".nii.gz"}
ENDINGS = {".npz", *SHARE_ENDING.values()}


@dataclass(frozen=True)
class Extras:
    """What else a case gets, all of it in one pass of the windows.

    OUT/probabilities   of classes or regions, in the order of `labels.json`
    OUT/uncertainty     their entropy
    OUT/disagreement    of several networks, their mutual information

    Args:
        probabilities: in which numbers they are written; None: they are not.
        uncertainty: whether it is written.
    """

    probabilities: Numbers | None = None
    uncertainty: bool = False

    def __bool__(self) -> bool:
        return self.probabilities is not None or self.uncertainty

    @property
    def bytes_per_voxel(self) -> int | None:
        """What is held of the files while windows pass, at most; None: there are none, and nothing is interpolated."""
        return 2 * self.uncertainty if self else None

    def bytes_to_write(self, label_map: float) -> float:
        """What is held per voxel at the peak of writing a case, with what its label map takes by itself.

        Of probabilities two channels are held for a moment, beside the label map that waits.
        """
        channels = 1 + 2 * NUMBERS[self.probabilities] if self.probabilities else 0
        return 2 * self.uncertainty + max(label_map, channels)

    def segment(
        self, predictor: Predictor, prepared: Prepared, progress: Progress, target: Path, image: Path
    ) -> tuple[np.ndarray, "Collected"]:
        """`Predictor.segment` of a case, and what else is made of it, to be written.

        Args:
            target: the file that its label map will be; the others lie in folders beside it.
            image: that was predicted.
        """
        collected = Collected()
        if not self:
            return predictor.segment(prepared, progress), collected
        maps, also, out, name = {}, [], target.parent, prepared.case_id
        grid, affine, dims = geometry_of(prepared, image), prepared.native_affine, len(prepared.native_shape)
        given = {"regions": predictor.has_regions, "temperature": predictor.temperature}
        if self.uncertainty:
            maps[UNCERTAINTY] = Entropy(prepared.native_shape, **given)
            if len(predictor.networks) > 1:
                maps[DISAGREEMENT] = Disagreement(prepared.native_shape)
        if self.probabilities is not None:
            rows = ProbabilityRows(out / PROBABILITIES, numbers=self.probabilities, **given)
            file = out / PROBABILITIES / (name + probability_ending(prepared, self.probabilities))
            dataset = predictor.config.dataset
            collected.add(lambda: write_probabilities(file, rows, grid, affine, dataset), rows.close)
            also.append(rows)
        for kind, made in maps.items():
            path = out / kind / (name + SHARE_ENDING[dims])
            collected.add(partial(write_share_map, path, made.values, grid))
        also += maps.values()
        try:
            classes = predictor.segment(prepared, progress, also=also, disagreement=DISAGREEMENT in maps)
        except BaseException:
            collected.close()
            raise
        return classes, collected


def remove_extras(target: Path, case_id: str) -> None:
    """Remove what stands beside the label map `target` of a case, which is about to be replaced.

    Raises:
        WriteError: its folder cannot be written to.
    """
    for kind in (PROBABILITIES, UNCERTAINTY, DISAGREEMENT):
        for ending in ENDINGS:
            if (path := target.parent / kind / (case_id + ending)).is_file():
                writable_folder(path.parent)
                path.unlink(missing_ok=True)


class Collected:
    """What was made of a case beside its label map, and is not written yet. It holds nothing of the image."""

    def __init__(self) -> None:
        self._writes: list[Callable[[], None]] = []
        self._ends = ExitStack()

    def add(self, write: Callable[[], None], end: Callable[[], None] | None = None) -> None:
        """One file; `end` lets go what it is made of, whether it was written or not."""
        self._writes.append(write)
        if end is not None:
            self._ends.callback(end)

    def write(self) -> None:
        """Write all files, each whole or not at all, in any thread; then nothing is held.

        Raises:
            WriteError: the disk is full.
        """
        with self._ends:
            for write in self._writes:
                write()
        self._writes.clear()

    def close(self) -> None:
        """Let go what is not written."""
        self._ends.close()
        self._writes.clear()
