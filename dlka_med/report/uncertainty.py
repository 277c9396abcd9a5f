"""What a report tells of the maps of uncertainty beside its label maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.config.labels import LabelScheme
from dlka_med.data.formats import label_files
from dlka_med.evaluation.uncertainty import Doubts, doubts
from dlka_med.inference.extras import UNCERTAINTY
from dlka_med.report import figures
from dlka_med.report.bands import BANDS
from dlka_med.report.tables import Table

LOOKED_AT = (0.001, 0.003, 0.01, 0.03, 0.1)  # shares of the voxels
NAMED = 3  # cases without a map


def maps_of(predictions: Path) -> dict[str, Path]:
    """The maps that `dlka predict --uncertainty` wrote into a folder of predictions, by case id."""
    folder = predictions / UNCERTAINTY
    return label_files(folder) if folder.is_dir() else {}


def section_of(
    files: Mapping[str, tuple[Path, Path]], maps: Mapping[str, Path], scheme: LabelScheme
) -> dict[str, Any] | None:
    """How wrong voxels and uncertainty go together; None where no case has a map.

    Args:
        files: prediction and reference of each case.
        maps: of cases.

    Raises:
        InputError: as in `doubts`.
    """
    known = [case for case in files if case in maps]
    if not known:
        return None
    found = doubts(((*files[case], maps[case]) for case in known), scheme)
    return {
        "plot": figures.uncertainty(found),
        "table": _looked_at(found),
        "told": _silent(found),
        "unit": unit_of(scheme),
        "missing": _missing([case for case in files if case not in maps], len(files)),
    }


def unit_of(scheme: LabelScheme) -> str:
    """What a bit of entropy is."""
    if scheme.has_regions:
        return "of the most doubtful region; 1 bit: inside it and outside are as likely"
    return "0 bit: sure of one label; 1 bit: in doubt as between two that are as likely"


def bands() -> list[str]:
    """What each band of entropy is called."""
    ends = [f"to {end:g} bit" for end in BANDS[1:]] + ["bit and more"]
    return [f"{start:g} {end}" for start, end in zip(BANDS, ends, strict=True)]


def percent(share: float) -> str:
    """A share in whole percent; all and none are only said where it is exactly so."""
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def _looked_at(found: Doubts) -> Table:
    rows = []
    for share in LOOKED_AT:
        met = found.met(share)
        rows.append([f"{100 * share:g} %", "\N{EN DASH}" if met is None else percent(met)])
    note = "If a person looked again at the most uncertain voxels of all cases: the share of the wrong ones among them"
    return Table(["voxels looked at", "wrong ones met"], rows, note)


def _silent(found: Doubts) -> str:
    below = found.below(BANDS[0])
    if below is None:
        return "No voxel is wrong."
    return f"{percent(below)} of the wrong voxels lie below {BANDS[0]:g} bit: of these the maps do not warn."


def _missing(cases: Sequence[str], total: int) -> str:
    if not cases:
        return ""
    named = f"{', '.join(cases[:NAMED])}{', ...' if len(cases) > NAMED else ''}"
    return f"{len(cases)} of {total} cases have no map of uncertainty and are not counted here: {named}."
