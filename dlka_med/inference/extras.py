"""What is written beside the label map of a case, in folders of its own."""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlka_med.data.prepare import Prepared
from dlka_med.inference.pieces import Also
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
from dlka_med.inference.writing import write_share_map

PROBABILITIES, UNCERTAINTY, DISAGREEMENT = "probabilities", "uncertainty", "disagreement"
SHARE_ENDING = {2: ".png", 3: ".nii.gz"}


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
    def bytes_per_voxel(self) -> int:
        """What is held of the files at the peak, at most."""
        return 2 * self.uncertainty + (2 * NUMBERS[self.probabilities] if self.probabilities else 0)

    def segment(
        self, predictor: Predictor, prepared: Prepared, progress: Progress, target: Path, image: Path
    ) -> np.ndarray:
        """`Predictor.segment` of a case; what else is made of it is written.

        Args:
            target: the file that its label map will be; the others lie in folders beside it.
            image: that was predicted.
        """
        if not self:
            return predictor.segment(prepared, progress)
        maps, also = {}, []
        given = {"regions": predictor.has_regions, "temperature": predictor.temperature}
        if self.uncertainty:
            maps[UNCERTAINTY] = Entropy(prepared.native_shape, **given)
            if len(predictor.networks) > 1:
                maps[DISAGREEMENT] = Disagreement(prepared.native_shape)
        with ExitStack() as stack:
            rows: Also | None = None
            if self.probabilities is not None:
                folder = target.parent / PROBABILITIES
                rows = stack.enter_context(closing(ProbabilityRows(folder, numbers=self.probabilities, **given)))
                also.append(rows)
            also += maps.values()
            classes = predictor.segment(prepared, progress, also=also, disagreement=DISAGREEMENT in maps)
            if rows is not None:
                name = prepared.case_id + probability_ending(prepared, self.probabilities)
                write_probabilities(folder / name, rows, prepared, image, predictor.config.dataset)
            for kind, collected in maps.items():
                name = prepared.case_id + SHARE_ENDING[len(prepared.native_shape)]
                write_share_map(target.parent / kind / name, collected.values, prepared, image)
        return classes
