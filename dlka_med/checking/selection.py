"""Which cases a copy can do without: those in whose stead another one is in it."""

from collections.abc import Collection, Iterator

from dlka_med.checking.fixes import LEFT_OUT, Fix
from dlka_med.checking.rules_dataset import twin_code
from dlka_med.checking.survey import Survey, image_digest
from dlka_med.data.case_facts import CaseFacts


def surplus(survey: Survey, mended: Collection[str]) -> dict[str, Fix]:
    """By id the cases to leave out of those that could be mended.

    Of twins one stays, a labelled one rather than one to predict. Labelled cases whose group is to be predicted go.
    Whatever goes has its counterpart among those that stay.
    """
    twins: dict[tuple[str, ...], CaseFacts] = {}
    groups: dict[tuple[bool, str], CaseFacts] = {}
    left_out = {}
    for facts in _by_rank(survey, [facts for facts in survey.facts if facts.id in mended]):
        digest, group, labelled = image_digest(facts), survey.group(facts.id), survey.is_labelled(facts)
        if digest is not None and digest in twins:
            left_out[facts.id] = _twin(survey, facts, twins[digest])
        elif group is not None and (not labelled, group) in groups:
            other = groups[not labelled, group].images[0].path
            why = f"it never trains, for {other} of its group {group!r} is to be predicted"
            done = f"{LEFT_OUT}: {why if labelled else f'{other} of its group {group!r} trains'}"
            left_out[facts.id] = Fix(facts.id, facts.images[0].path, "group-in-test", done)
        else:
            if digest is not None:
                twins[digest] = facts
            if group is not None:
                groups[labelled, group] = facts
    return left_out


def _by_rank(survey: Survey, mended: Collection[CaseFacts]) -> Iterator[CaseFacts]:
    """Cases to predict, the labelled ones, and those to predict that have a labelled twin."""
    labelled = [facts for facts in mended if survey.is_labelled(facts)]
    trained = {image_digest(facts) for facts in labelled} - {None}
    others = [facts for facts in mended if not survey.is_labelled(facts)]
    yield from (facts for facts in others if image_digest(facts) not in trained)
    yield from labelled
    yield from (facts for facts in others if image_digest(facts) in trained)


def _twin(survey: Survey, facts: CaseFacts, kept: CaseFacts) -> Fix:
    code, image = twin_code(survey, facts, kept), kept.images[0].path
    why = f"nothing is lost by it, {image} has the same voxels and stays"
    if code == "duplicate-labels-differ":
        why = f"{image} has the same voxels and stays, being the first, but its label is another: look which is right"
    return Fix(facts.id, facts.images[0].path, code, f"{LEFT_OUT}: {why}")
