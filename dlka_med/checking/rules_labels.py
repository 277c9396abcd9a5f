"""Label maps: values that nobody declared, masks of other conventions, structures that few cases hold."""

from collections.abc import Iterator

import numpy as np

from dlka_med.checking.findings import Found
from dlka_med.checking.survey import Survey, world_axes
from dlka_med.data.case_facts import CaseFacts, LabelFacts
from dlka_med.data.formats import LOSSY_ENDINGS

WHITE = 255
EXTREME_SHARE = 0.8  # of the pixels of an antialiased mask: only its edges are grey
LEAST_GREYS = 3  # an antialiased edge has several, a forgotten label is one value
VANISHING = 0.9  # of the planned spacing: what is thinner may fall between two voxels; 1 would tell of rounding
LISTED = 5


def fault(label: LabelFacts, declared: frozenset[int]) -> str | None:
    """The one code that says best why a label map cannot be used as it is; None: it can."""
    voxels = label.voxels
    if label.file.problem is not None or label.file.channels > 1:
        return None
    if label.colours:
        return "mask-colours"
    if label.file.path.lower().endswith(LOSSY_ENDINGS):
        return "mask-jpeg"
    if label.not_finite:
        return "label-not-finite"
    if label.fractional:
        return "label-not-whole"
    if set(voxels) <= declared and not label.unlisted:
        return None
    if set(voxels) <= {0, WHITE}:
        return "mask-255"
    return "mask-antialiased" if is_antialiased(label, declared) else "label-undeclared"


def is_antialiased(label: LabelFacts, declared: frozenset[int]) -> bool:
    """Whether most pixels have one of two values, and the others several between them, where one label is declared."""
    voxels = label.voxels
    lowest, highest, total = min(voxels), max(voxels), sum(voxels.values()) + label.unlisted
    extremes = voxels[lowest] + voxels[highest]
    greys = len(voxels) - 2
    return len(declared) == 2 and lowest == 0 and greys >= LEAST_GREYS and EXTREME_SHARE * total <= extremes < total


def colours(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "mask-colours"):
        listed = ", ".join(f"{colour} ({count} pixels)" for colour, count in label.colours[:LISTED])
        yield Found(label.file.path, f"it is a colour picture: {listed}", facts.id)


def white(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "mask-255"):
        wrong = f"it is a black and white mask of 0 and {WHITE}, but declared are {_declared(survey)}"
        yield Found(label.file.path, wrong, facts.id)


def jpeg(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "mask-jpeg"):
        wrong = f"it is JPEG, which changes label values when it is saved: it holds {len(label.values)} of them"
        yield Found(label.file.path, wrong, facts.id)


def antialiased(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "mask-antialiased"):
        wrong = f"it is a mask with soft edges: {len(label.values)} values from 0 to {label.values[-1].value}"
        yield Found(label.file.path, wrong, facts.id)


def undeclared(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "label-undeclared"):
        strange = [entry for entry in label.values if entry.value not in survey.declared]
        listed = ", ".join(f"{entry.value} ({entry.voxels} voxels)" for entry in strange[:LISTED])
        more = f" and {len(strange) - LISTED} more" if len(strange) > LISTED else ""
        wrong = f"it holds the values {listed}{more}, but declared are {_declared(survey)}"
        yield Found(label.file.path, wrong, facts.id)


def fractional(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "label-not-whole"):
        yield Found(label.file.path, f"{label.fractional} of its voxels are no whole numbers", facts.id)


def not_finite(survey: Survey) -> Iterator[Found]:
    for facts, label in _faulty(survey, "label-not-finite"):
        yield Found(label.file.path, f"{label.not_finite} of its voxels are NaN or infinite", facts.id)


def absent(survey: Survey) -> Iterator[Found]:
    """Silent as long as a label map cannot be used: it may hold what the others lack."""
    labels = [facts.label for facts in survey.labelled if facts.label is not None]
    if not labels or any(label.file.problem is not None or fault(label, survey.declared) for label in labels):
        return
    for name, groups in holders(survey).items():
        if not groups:
            yield Found(_description(survey), f"it declares the label {name!r}, which no case holds")


def rare(survey: Survey) -> Iterator[Found]:
    for name, groups in holders(survey).items():
        if 0 < len(groups) < survey.folds:
            cases = "case or group" if len(groups) == 1 else "cases or groups"
            wrong = f"{len(groups)} {cases} hold the label {name!r}, too few for each of {survey.folds} folds"
            yield Found(_description(survey), wrong)


def holders(survey: Survey) -> dict[str, set[tuple[bool, str]]]:
    """By name of each foreground label, the groups with a case that holds it."""
    found: dict[str, set[tuple[bool, str]]] = {name: set() for name, value in survey.dataset.labels.items() if value}
    names = {value: name for name, value in survey.dataset.labels.items() if value}
    for facts in survey.labelled:
        group = survey.group(facts.id)
        for value in () if facts.label is None else facts.label.voxels:
            if value in names:
                found[names[value]].add((group is not None, group or facts.id))
    return found


def empty(survey: Survey) -> Iterator[Found]:
    for facts, label in _usable(survey):
        if set(label.voxels) == {0}:
            yield Found(label.file.path, "nothing is labelled in it", facts.id)


def vanishing(survey: Survey) -> Iterator[Found]:
    planned, names = survey.planned, {value: name for name, value in survey.dataset.labels.items()}
    for facts, label in _usable(survey):
        axes = world_axes(facts)
        if planned is None or axes is None or label.file.size != facts.size:
            continue
        for entry in label.values:
            if entry.runs and (np.multiply(entry.runs, facts.spacing)[axes] < VANISHING * planned).any():
                spacing = " x ".join(f"{step:.3g}" for step in planned)
                wrong = f"{names[entry.value]!r} ({entry.voxels} voxels) may vanish at the spacing {spacing} mm"
                yield Found(label.file.path, wrong, facts.id)


def _labels(survey: Survey) -> Iterator[tuple[CaseFacts, LabelFacts]]:
    return ((facts, facts.label) for facts in survey.labelled if facts.label is not None)


def _faulty(survey: Survey, code: str) -> Iterator[tuple[CaseFacts, LabelFacts]]:
    return ((facts, label) for facts, label in _labels(survey) if fault(label, survey.declared) == code)


def _usable(survey: Survey) -> Iterator[tuple[CaseFacts, LabelFacts]]:
    for facts, label in _labels(survey):
        if facts.is_readable and label.file.channels == 1 and fault(label, survey.declared) is None:
            yield facts, label


def _declared(survey: Survey) -> str:
    return ", ".join(f"{value} ({name})" for name, value in survey.dataset.labels.items())


def _description(survey: Survey) -> str:
    return str(survey.dataset.root / "dataset.json")
