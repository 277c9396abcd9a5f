"""What is measured of each label of a case, how it is called, and on what terms."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dlka_med.errors import InputError
from dlka_med.metrics import CONVENTIONS

Kind = Literal["share", "distance", "volume", "percent", "count"]
Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Measure:
    """One figure of a label in a case.

    Args:
        title: of a table's column.
        kind: a share lies between 0 and 1; a distance is in mm, of 2D images in pixels; a volume in ml.
        needs: of what it is taken; "tubes" and "lesions" only of the labels that are named as such.
    """

    title: str
    kind: Kind = "share"
    higher_is_better: bool | None = True
    needs: Literal["all", "2d", "3d", "tubes", "lesions"] = "all"

    @property
    def digits(self) -> int:
        """Behind the point."""
        return 4 if self.kind == "share" else 2

    @property
    def best(self) -> float:
        """Of a share or a distance."""
        return 1.0 if self.kind == "share" else 0.0

    @property
    def within(self) -> tuple[float, float]:
        """What it can be at all."""
        least = 0.0 if self.kind in ("share", "distance", "count") else -float("inf")
        return least, 1.0 if self.kind == "share" else float("inf")

    def column(self, name: str, unit: Unit) -> str:
        """With its unit, as files call it."""
        return f"{name}_{unit}" if self.kind == "distance" else name


MEASURES = {
    "dice": Measure("Dice"),
    "iou": Measure("IoU"),
    "precision": Measure("precision"),
    "recall": Measure("recall"),
    "hd95": Measure("HD95", "distance", False),
    "hd": Measure("HD", "distance", False),
    "assd": Measure("ASSD", "distance", False),
    "nsd": Measure("NSD"),
    "boundary_iou": Measure("boundary IoU", needs="2d"),
    "volume_error_ml": Measure("volume error ml", "volume", None, "3d"),
    "volume_error_percent": Measure("volume error %", "percent", None),
    "cldice": Measure("clDice", needs="tubes"),
    "lesions_reference": Measure("lesions", "count", None, "lesions"),
    "lesions_prediction": Measure("predicted", "count", None, "lesions"),
    "lesions_matched": Measure("matched", "count", None, "lesions"),
    "lesion_precision": Measure("lesion precision", needs="lesions"),
    "lesion_recall": Measure("lesion recall", needs="lesions"),
    "lesion_f1": Measure("lesion F1", needs="lesions"),
    "lesion_dice": Measure("lesion Dice", needs="lesions"),
}
HEADLINES = ("dice", "hd95", "nsd")


@dataclass(frozen=True)
class Protocol:
    """What is measured, and on what terms.

    Args:
        tolerance: of NSD, in mm or pixels.
        tolerances: of single labels, by name.
        tubes: labels whose centre lines are compared (clDice).
        lesions: labels whose connected components are matched one by one.
        lesion_overlap: IoU that makes two components a pair.
        convention: of a published table, a key of `dlka_med.metrics.CONVENTIONS`.

    Raises:
        InputError: a number out of range, or no such convention.
    """

    tolerance: float = 1.0
    tolerances: Mapping[str, float] = field(default_factory=dict)
    tubes: Collection[str] = ()
    lesions: Collection[str] = ()
    lesion_overlap: float = 0.1
    convention: str | None = None

    def __post_init__(self):
        for tolerance in (self.tolerance, *self.tolerances.values()):
            if not 0 <= tolerance < float("inf"):
                raise InputError(f"the tolerance of the surface Dice is {tolerance}, but must be 0 or more")
        if not 0 <= self.lesion_overlap <= 1:
            raise InputError(f"lesion_overlap is {self.lesion_overlap}, but must be from 0 to 1")
        if self.convention is not None and self.convention not in CONVENTIONS:
            raise InputError(f"there is no convention {self.convention!r}: expected {' or '.join(CONVENTIONS)}")

    def tolerance_of(self, label: str) -> float:
        """In mm or pixels."""
        return self.tolerances.get(label, self.tolerance)

    def check_labels(self, labels: Collection[str]) -> None:
        """Raise `InputError` if it names a label that is not among these."""
        for name in (*self.tolerances, *self.tubes, *self.lesions):
            if name not in labels:
                near = difflib.get_close_matches(name, labels, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(
                    f"there is no label {name!r}: predictions and references have {', '.join(labels)}{hint}"
                )

    def measures(self, unit: Unit) -> dict[str, Measure]:
        """Those that are taken, by name, of volumes (mm) or 2D images (px)."""
        taken = {"all", "3d" if unit == "mm" else "2d"}
        taken |= {kind for kind, labels in (("tubes", self.tubes), ("lesions", self.lesions)) if labels}
        return {name: measure for name, measure in MEASURES.items() if measure.needs in taken}
