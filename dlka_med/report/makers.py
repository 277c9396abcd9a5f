"""By whose weights the label maps of a report were made, as their folder remembers it."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dlka_med.errors import InputError
from dlka_med.inference.record import name_and_weights
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.prediction_folder import PredictionFolder
from dlka_med.report.subject import Subject

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Makers:
    """What is remembered of label maps; nothing where nothing is.

    Attributes:
        parts: `Made.part` of each case that has one, by id.
        others: a sentence about label maps that other weights than the subject's made.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    others: str = ""


def makers_of(subject: Subject, folder: Path, cases: Collection[str]) -> Makers:
    """Who made the label maps of these cases; other weights than the subject's and a damaged record are warned of."""
    record = PredictionFolder(folder)
    try:
        runs, made = record.runs, record.made
    except InputError as error:
        log.warning("%s", error)
        return Makers()
    known = {case: made[case] for case in cases if case in made}
    parts = {case: one.part for case, one in known.items() if one.part is not None}
    if not parts:
        return Makers()
    ours = {digest_of_weights(part.run) for part in subject.parts if part.run.weights_file.is_file()}
    # Of a training whose weights are gone nobody can tell whether they were these.
    gone = {part.run.path.resolve().name for part in subject.parts if not part.run.weights_file.is_file()}
    others: Counter[str] = Counter()
    for case in parts:
        name, weights = name_and_weights(runs.get(known[case].run, {}))
        if weights and name not in gone and not ours.issuperset(weights):
            others[_told(name, subject, mixed=not ours.isdisjoint(weights))] += 1
    if not others:
        return Makers(parts)
    told = (
        f"{others.total()} of {len(cases)} label maps were not made by the weights that {subject.path.resolve().name} "
        f"has now: {record.cases_file.name} in {folder.name} names "
        f"{', '.join(f'{name} ({count})' for name, count in others.items())}. Their figures and pictures are not "
        "those of this training; whether a case was held out or trained is told of the weights that made its label map."
    )
    log.warning("%s", told)
    return Makers(parts, told)


def _told(name: str, subject: Subject, mixed: bool) -> str:
    if mixed:
        return f"{name} together with others"
    same = name in {part.run.path.resolve().name for part in subject.parts}
    return f"a run {name} with other weights" if same else name
