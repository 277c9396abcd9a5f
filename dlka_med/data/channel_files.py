"""Which files make up a case: one with all channels, or one per channel, told by the numbers in their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlka_med.data.formats import case_id, ending, is_volume, stem
from dlka_med.data.refusals import Refusals, refuse
from dlka_med.errors import InputError

SEPARATE = (
    "files that end in _0000, _0001 and so on were taken for the channels of one case: if these are separate images, "
    "rename them so that none ends in _0000, or tell predict so with --one-file-per-case"
)


@dataclass(frozen=True)
class Case:
    """One scan: one image file per channel (or one file with all channels), perhaps a label and a group.

    `order`: where each channel stands in a file of all channels; None: in its own place. `series`: what the DICOM
    series of each image is asked for by, its UID or number, None for the only one; empty for other formats.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    order: tuple[int, ...] | None = None
    series: tuple[str | None, ...] = ()

    def reordered(self, order: tuple[int, ...] | None) -> "Case":
        """The same case with channel i taken from place `order[i]`."""
        if order is None:
            return self
        if len(self.images) == 1:
            return replace(self, order=order)
        return replace(self, images=tuple(self.images[place] for place in order))


def case_of_file(path: Path, channels: Sequence[str]) -> Case:
    numbered = re.fullmatch(r"(.+)_(\d{4})", stem(path))
    if len(channels) == 1 or not numbered:
        return Case(case_id(path), (path,))
    siblings = [path.with_name(f"{numbered[1]}_{index:04d}{ending(path)}") for index in range(len(channels))]
    found = [file for file in siblings if file.is_file()]
    if path not in found or (siblings[0] not in found and not is_volume(path)):
        return Case(case_id(path), (path,))  # a number of another kind
    return _grouped(found, channels)[0]


def cases_of_folder(
    folder: Path, files: Sequence[Path], channels: Sequence[str] | None, refusals: Refusals | None = None
) -> tuple[Case, ...]:
    if any(case_id(file) != stem(file) for file in files):
        return _grouped(files, channels, refusals)
    return one_file_each(folder, files, refusals)


def one_file_each(folder: Path, files: Iterable[Path], refusals: Refusals | None = None) -> tuple[Case, ...]:
    return without_twins(folder, [Case(stem(file), (file,)) for file in files], refusals)


def _grouped(
    files: Iterable[Path], channels: Sequence[str] | None, refusals: Refusals | None = None
) -> tuple[Case, ...]:
    """As `cases_of_channels`, where nothing but the names says that these are channels."""
    try:
        return cases_of_channels(files, channels, refusals)
    except InputError as error:
        raise InputError(f"{error}; {SEPARATE}") from error


def cases_of_channels(
    files: Iterable[Path], channels: Sequence[str] | None, refusals: Refusals | None = None
) -> tuple[Case, ...]:
    """Cases of files with numbers at the end of their names; who collects refusals gets cases that lack files, too.

    Args:
        channels: that each case has; None: those that are there.
    """
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(file))
        if not numbered:
            example = f"{stem(file)}_0000{ending(file)}"
            refuse(refusals, "file-stray", file, f"{file} has no channel number: expected a name like {example}")
            continue
        parts, index = found.setdefault(numbered[1], {}), int(numbered[2])
        if index in parts:
            said = f"{file} is there twice, also as {parts[index].name}: remove one of them"
            refuse(refusals, "case-twice", file, said)
            continue
        parts[index] = file
    return tuple(_joined(name, parts, channels, refusals) for name, parts in sorted(found.items()))


def _joined(name: str, parts: Mapping[int, Path], channels: Sequence[str] | None, refusals: Refusals | None) -> Case:
    if channels is None:
        return Case(name, tuple(parts[index] for index in sorted(parts)))
    example = next(iter(parts.values()))
    if parts.keys() == {0} and not is_volume(example):
        return Case(name, (example,))  # all colours in one file
    expected = [example.with_name(f"{name}_{index:04d}{ending(example)}") for index in range(len(channels))]
    for index, channel in enumerate(channels):
        if index not in parts and refusals is None:
            raise InputError(f"case {name} lacks channel {index} ({channel}): there is no {expected[index]}")
    for surplus in sorted(set(parts) - set(range(len(channels)))):
        said = (
            f"{parts[surplus]} is channel {surplus} of case {name}, but only {len(channels)} are "
            f"declared, {list(channels)}: declare it or move the file away"
        )
        refuse(refusals, "file-stray", parts[surplus], said)
    return Case(name, tuple(parts.get(index, expected[index]) for index in range(len(channels))))


def without_twins(where: Path, cases: Iterable[Case], refusals: Refusals | None = None) -> tuple[Case, ...]:
    """Cases of different ids; `InputError` for the others, unless refusals are collected."""
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            said = f"{where}: {case.images[0]} and {seen[case.id].images[0]} are both case {case.id!r}; rename one"
            refuse(refusals, "case-twice", case.images[0], said)
        else:
            seen[case.id] = case
    return tuple(seen.values())


def of_one_kind(where: Path, cases: Iterable[Case], refusals: Refusals | None = None) -> list[Case]:
    """Volumes and 2D images have no network in common; of what is there most if refusals are collected."""
    kinds: dict[bool, list[Case]] = {True: [], False: []}
    mixed: dict[bool, Path] = {}
    for case in cases:
        files = (*case.images, *([case.label] if case.label else []))
        found = {is_volume(file): file for file in files}
        mixed |= found
        kinds[is_volume(files[0])].append(case)
    if len(mixed) < 2:
        return kinds[True] + kinds[False]
    said = (
        f"{where} mixes volumes, such as {mixed[True]}, and 2D images, such as {mixed[False]}: "
        "keep them in folders of their own"
    )
    if refusals is None:
        raise InputError(said)
    ours = len(kinds[True]) >= len(kinds[False])
    for case in kinds[not ours]:
        refuse(refusals, "kinds-mixed", case.images[0], said)
    return kinds[ours]


def check_dims(cases: Iterable[Case], dims: int, who: str) -> None:
    """Raise `InputError` if a case is a 2D image where volumes are expected, or the other way round.

    Args:
        dims: 3 for volumes, 2 for 2D images.
        who: begins the sentence that ends with "volumes" or "2D images".
    """
    kinds = {True: "volumes (NIfTI, NRRD, MetaImage, DICOM)", False: "2D images (PNG, TIFF or JPEG)"}
    for case in cases:
        found = is_volume(case.images[0])
        if found != (dims == 3):
            raise InputError(f"{who} {kinds[not found]}, but {case.images[0]} is one of {kinds[found]}")
