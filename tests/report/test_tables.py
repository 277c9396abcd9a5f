import numpy as np
import pytest

from dlka_med.evaluation.evaluate import evaluate
from dlka_med.report.tables import per_label

from .conftest import LABELS, SHAPE, labelled, write

MISSED = "Missed: the reference has the label, the prediction does not."
FALSE = "False: the prediction has the label, the reference does not."
NEITHER = "Where neither has it, the case does not count."


@pytest.mark.parametrize(
    ("reference", "prediction", "notes"),
    [(1, 1, []), (1, 0, [MISSED]), (0, 1, [FALSE]), (0, 0, [NEITHER])],
    ids=["both", "missed", "false", "neither"],
)
def test_words_are_explained_where_they_stand(tmp_path, reference, prediction, notes):
    """The second case has the labels on neither, one or both sides."""
    label = labelled(0, SHAPE)
    for folder, there in (("references", reference), ("predictions", prediction)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.nii.gz", label)
        write(tmp_path / folder / "b.nii.gz", (label * there).astype(np.uint8))
    table = per_label(evaluate(tmp_path / "predictions", tmp_path / "references", label_names=LABELS))
    assert table.note == " ".join(notes)
    cells = " ".join(cell for row in table.rows[:-1] for cell in row[-1])
    assert [word in cells for word in ("missed", "false")] == [MISSED in notes, FALSE in notes]
