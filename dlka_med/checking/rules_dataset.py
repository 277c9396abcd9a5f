"""Cases against each other: twins, groups, ids, and what the description says of them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from dlka_med.checking.findings import Found
from dlka_med.checking.survey import Survey, image_digest
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.splits import related_to_test

PATIENT = re.compile(r"(?<![a-z])(pat(ient)?|pid|sub(j|ject)?|case|vol(ume)?|scan|id|p|s)[-_ ]?\d+", re.IGNORECASE)
SCANS_PER_PATIENT = 20  # more than that under one number are a site or a year, unless they are called a patient


def duplicates(survey: Survey) -> Iterator[Found]:
    for case, twin in _twins(survey, "duplicate-cases"):
        yield Found(case.images[0].path, f"its voxels are those of {twin.images[0].path}", case.id)


def duplicates_in_test(survey: Survey) -> Iterator[Found]:
    for case, twin in _twins(survey, "duplicate-in-test"):
        wrong = f"it is to be predicted, but its voxels are those of {twin.images[0].path}, which trains"
        yield Found(case.images[0].path, wrong, case.id)


def duplicates_that_differ(survey: Survey) -> Iterator[Found]:
    for case, twin in _twins(survey, "duplicate-labels-differ"):
        wrong = f"its voxels are those of {twin.images[0].path}, but the labels of the two differ"
        yield Found(case.images[0].path, wrong, case.id)


def duplicates_across_groups(survey: Survey) -> Iterator[Found]:
    for case, twin in _twins(survey, "duplicate-across-groups"):
        wrong = (
            f"its voxels are those of {twin.images[0].path}, but groups.csv puts one into group "
            f"{survey.group(case.id)!r} and the other into {survey.group(twin.id)!r}"
        )
        yield Found(case.images[0].path, wrong, case.id)


def twins(survey: Survey) -> Iterator[tuple[CaseFacts, CaseFacts]]:
    """Each case whose voxels an earlier one has in all channels, and this first one; constant images have no say."""
    seen: dict[tuple[str, ...], CaseFacts] = {}
    for facts in survey.facts:
        if (digest := image_digest(facts)) is not None:
            first = seen.setdefault(digest, facts)
            if first is not facts:
                yield facts, first


def twin_code(survey: Survey, case: CaseFacts, twin: CaseFacts) -> str:
    """The one code that says what is worst about two cases of the same voxels."""
    if survey.is_labelled(twin) and not survey.is_labelled(case):
        return "duplicate-in-test"
    digests = [facts.label.digest for facts in (case, twin) if facts.label is not None]
    if len(set(filter(None, digests))) == len(digests) == 2:
        return "duplicate-labels-differ"
    groups = {survey.group(facts.id) for facts in (case, twin)} - {None}
    return "duplicate-across-groups" if len(groups) == 2 else "duplicate-cases"


def group_in_test(survey: Survey) -> Iterator[Found]:
    for name in sorted(related_to_test(survey.dataset, ())):
        image = survey.case_of[name].images[0]
        yield Found(str(image), f"its group {survey.group(name)!r} has cases in the test, so it never trains", name)


def one_patient(survey: Survey) -> Iterator[Found]:
    for patient, members in ({} if survey.groups else patients([case.id for case in survey.cases])).items():
        if len(members) > 1:
            wrong = f"{len(members)} cases look like one patient, {patient}: {', '.join(members[:4])}"
            yield Found(str(survey.dataset.root / "groups.csv"), wrong + (", ..." if len(members) > 4 else ""))


def patients(ids: list[str]) -> dict[str, list[str]]:
    """Ids by what seems to be the patient: all but the last part of the id, if that has a number of its own.

    Nothing if the ids do not look so: all have one beginning, none shares its own, or so many share one that it is
    rather a site or a year.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ids:
        patient, _, scan = name.rpartition(next((mark for mark in reversed(name) if mark in "_-. "), "_"))
        groups[patient if scan and re.search(r"\d", patient) else name].append(name)
    shared = [patient for patient, members in groups.items() if len(members) > 1]
    if not shared or len(groups) < 2 or not (are_named(groups) or len(ids) <= SCANS_PER_PATIENT * len(groups)):
        return {}
    return dict(groups)


def are_named(patients: Mapping[str, Sequence[str]]) -> bool:
    """Whether all who have several cases are called a patient, so that nobody has to guess."""
    return all(PATIENT.search(patient) for patient, members in patients.items() if len(members) > 1)


def wrong_count(survey: Survey) -> Iterator[Found]:
    path = str(survey.dataset.root / "dataset.json")
    left_out = sum(refusal.code in ("case-twice", "kinds-mixed") for refusal in survey.refusals)
    count, said = len(survey.dataset.cases), survey.description.get("numTraining")
    if isinstance(said, int) and not count <= said <= count + left_out:
        yield Found(path, f"it says numTraining {said}, but there are {count} cases with a label")


def _twins(survey: Survey, code: str) -> Iterator[tuple[CaseFacts, CaseFacts]]:
    return ((case, twin) for case, twin in twins(survey) if twin_code(survey, case, twin) == code)
