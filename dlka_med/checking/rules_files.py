"""Files that cannot be used, or are of another kind than the rest."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from dlka_med.checking.findings import Found
from dlka_med.checking.survey import Survey, image_digest
from dlka_med.data.case_facts import CaseFacts, FileFacts
from dlka_med.data.formats import usable_files
from dlka_med.data.refusals import Refusals

EXIF_UPRIGHT = 1
LISTED = 4


def missing(survey: Survey) -> Iterator[Found]:
    return _broken(survey, lambda file: file.bytes is None, lambda file: "it does not exist")


def empty(survey: Survey) -> Iterator[Found]:
    return _broken(survey, lambda file: file.bytes == 0, lambda file: "it has 0 bytes")


def unreadable(survey: Survey) -> Iterator[Found]:
    return _broken(survey, lambda file: bool(file.bytes) and not file.shape, _said)


def axes(survey: Survey) -> Iterator[Found]:
    return _broken(survey, lambda file: bool(file.shape), _said)


def channels(survey: Survey) -> Iterator[Found]:
    declared = survey.dataset.channels
    for facts in survey.readable:
        wanted = len(declared) if len(facts.images) == 1 else 1
        for file in facts.images:
            if file.channels != wanted and not _is_rgb_volume(file):
                yield Found(
                    file.path, f"it has {file.channels} channels, expected {wanted} of {list(declared)}", facts.id
                )
        if facts.label is not None and facts.label.file.channels > 1:
            file = facts.label.file
            yield Found(file.path, f"it has {file.channels} channels, but a label map has one", facts.id)


def rgb_volumes(survey: Survey) -> Iterator[Found]:
    for facts in survey.readable:
        for file in facts.images:
            if _is_rgb_volume(file):
                yield Found(file.path, f"its voxels are {file.channels} colours in one ({file.dtype})", facts.id)


def five_axes(survey: Survey) -> Iterator[Found]:
    for facts in survey.readable:
        for file in facts.files:
            if facts.dims == 3 and len(file.shape) > 4 and not file.has_colours:
                yield Found(
                    file.path, f"it has the shape {file.shape}; it is read as {file.channels} channels", facts.id
                )


def modes(survey: Survey) -> Iterator[Found]:
    images = [(facts, file) for facts in survey.readable for file in facts.images if file.mode]
    if len(kinds := Counter(file.mode for _, file in images)) > 1:
        most = kinds.most_common(1)[0][0]
        for facts, file in images:
            if file.mode != most:
                yield Found(file.path, f"its pixels are {file.mode}, those of most images {most}", facts.id)


def turned(survey: Survey) -> Iterator[Found]:
    for facts, file in survey.files():
        if file.exif != EXIF_UPRIGHT:
            wrong = f"its EXIF data say that it is turned or mirrored (orientation {file.exif}), which some programs do"
            yield Found(file.path, f"{wrong} and others do not", facts.id)


def unlisted(survey: Survey) -> Iterator[Found]:
    if not isinstance(survey.description.get("training"), list):
        return
    known = {path.resolve() for case in survey.cases for path in case.images}
    told = {refusal.path.resolve() for refusal in survey.refusals}
    again: Refusals = []  # odd names, told when the dataset was read
    for file in usable_files(survey.dataset.root / "imagesTr", again):
        if file.resolve() not in known | told:
            yield Found(str(file), "dataset.json does not list it, so it is not used")


def shared(survey: Survey) -> Iterator[Found]:
    """Silent of images of twins, of which other rules tell, and of label maps without a label."""
    uses: dict[str, list[tuple[CaseFacts, FileFacts]]] = defaultdict(list)
    for facts, file in survey.files():
        if file.bytes is not None:
            uses[os.path.realpath(file.path)].append((facts, file))
    for users in uses.values():
        if len(users) > 1 and not _may_share(users):
            listed = ", ".join(f"{_role(facts, file)} of {facts.id}" for facts, file in users[:LISTED])
            more = ", ..." if len(users) > LISTED else ""
            for case, path in {facts.id: file.path for facts, file in users}.items():
                yield Found(path, f"one file is the {listed}{more}", case)


def refused(code: str) -> Callable[[Survey], Iterator[Found]]:
    """The rule that tells what was refused under a code when the dataset was read."""

    def rule(survey: Survey) -> Iterator[Found]:
        for refusal in survey.refusals:
            if refusal.code == code:
                yield Found(str(refusal.path), _without(str(refusal.path), refusal.said))

    return rule


def _broken(survey: Survey, fits: Callable[[FileFacts], bool], told: Callable[[FileFacts], str]) -> Iterator[Found]:
    for facts, file in survey.files():
        if file.problem is not None and fits(file):
            yield Found(file.path, told(file), facts.id)


def _may_share(users: Sequence[tuple[CaseFacts, FileFacts]]) -> bool:
    cases = {facts.id for facts, _ in users}
    roles = {_role(facts, file) for facts, file in users}
    if len(cases) < len(users) or len(roles) > 1:
        return False
    (first, _), *_ = users
    are_twins = len({image_digest(facts) or facts.id for facts, _ in users}) == 1
    return are_twins or (roles == {"label"} and first.label is not None and first.label.is_empty)


def _role(facts: CaseFacts, file: FileFacts) -> str:
    return "label" if facts.label is not None and file is facts.label.file else "image"


def _said(file: FileFacts) -> str:
    return _without(file.path, file.problem or "")


def _without(path: str, said: str) -> str:
    """What was said of a file that the line names already."""
    return said.removeprefix(path).lstrip(": ")


def _is_rgb_volume(file: FileFacts) -> bool:
    return file.has_colours and file.mode is None
