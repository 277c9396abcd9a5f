"""Which images, labels and groups a folder holds: Decathlon, nnU-Net v2, images beside labels, or plain images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlka_med.config.dataset import Dataset as DatasetConfig
from dlka_med.config.dataset import Segment
from dlka_med.config.labels import Declared
from dlka_med.data.channel_files import (
    Case,
    case_of_file,
    cases_of_channels,
    cases_of_folder,
    of_one_kind,
    one_file_each,
    without_twins,
)
from dlka_med.data.description import (
    channel_names,
    channel_order,
    in_stored_order,
    labels_and_order,
    read_description,
    segments_of,
)
from dlka_med.data.dicom.cases import dicom_cases, refuse_dicom_beside
from dlka_med.data.formats import (
    ENDINGS,
    LISTED,
    case_id,
    contents,
    ending,
    has_usable_name,
    is_dicom,
    label_files,
    stem,
    usable_files,
)
from dlka_med.data.groups import read_groups
from dlka_med.data.refusals import Refusals, refuse
from dlka_med.errors import InputError
from dlka_med.paths import shown

LAYOUTS = (
    "known are: dataset.json with imagesTr and labelsTr (Decathlon: a list of pairs; nnU-Net v2: files that end in "
    "_0000, _0001 and so on), or the folders images and labels with files of equal names"
)


@dataclass(frozen=True)
class Dataset:
    """A folder of cases; `labels` and `regions_class_order`: see `LabelScheme`; `segments`: as in the config."""

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: dict[str, int | tuple[int, ...]]
    cases: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    regions_class_order: tuple[int, ...] | None = None
    segments: dict[str, Segment] | None = None


def read_dataset(
    root: str | Path,
    *,
    channels: Sequence[str] | None = None,
    labels: Declared | None = None,
    regions_class_order: Sequence[int] | None = None,
    groups: str | Path | None = None,
    grouped: bool = True,
    renamed: bool = True,
    named: bool = True,
    refusals: Refusals | None = None,
) -> Dataset:
    """Read a dataset in the layout of the Medical Segmentation Decathlon or of nnU-Net v2, or images beside labels.

    Images beside labels are two folders, `images` and `labels`, with files of equal names but for the ending; they
    need no `dataset.json`.

    Args:
        channels, labels, regions_class_order: replace what `dataset.json` says; its channels in another order are put
            into this one.
        groups: CSV file with a header, then case and group per line; an empty group means that the case stands
            alone. None: `groups.csv` of the dataset where there is one.
        grouped: False: groups are not read, for those who do not split the cases.
        renamed: whether `channels` may have names that `dataset.json` does not know.
        named: False: nobody has to name the channels, for those who want the labels alone.
        refusals: collects what is wrong with single cases, which then do not stop the others; cases may name files
            that are not there.

    Raises:
        InputError: the folder is no dataset, a file is missing, or `dataset.json` contradicts itself or `channels`.
    """
    root = Path(root)
    description = root / "dataset.json"
    if not os.path.isdir(root):
        raise InputError(f"{shown(root)} is not a folder: give the folder that holds dataset.json")
    has_usable_name(root.absolute())
    if not os.path.exists(description) and not is_pair(root):
        raise InputError(
            f"{root} is not a dataset: it has no dataset.json (Decathlon or nnU-Net v2 layout), nor the folders "
            f"images and labels; it holds {contents(root)}; {LAYOUTS}"
        )
    facts = read_description(description)
    names = channel_names(description, facts, channels) if named else ()
    values, painted = labels_and_order(description, facts, labels, regions_class_order)
    order = channel_order(description, facts, names, renamed=renamed) if named else None
    stored = in_stored_order(names, order) if named else None
    test: list[Case] = []
    if isinstance(facts.get("training"), list):
        cases, test = _decathlon_cases(root, facts, refusals)
    elif is_pair(root):
        cases = _paired_cases(root, stored, refusals)
    elif "channel_names" in facts or "file_ending" in facts:
        cases, test = _nnunet_cases(root, facts, stored, refusals)
    else:
        raise InputError(
            f"{description} is of no known layout: expected the list 'training' of the Decathlon "
            f"or the 'channel_names' of nnU-Net v2, but its keys are {', '.join(map(repr, facts)) or 'none'}; {LAYOUTS}"
        )
    usable = {case.id: case for case in without_twins(root, [*cases, *test], refusals)}
    usable = {case.id: case for case in of_one_kind(root, usable.values(), refusals)}
    cases = [case for case in cases if usable.get(case.id) is case]
    test = [case for case in test if usable.get(case.id) is case]
    if not cases:
        raise InputError(f"{root} has no training case: put images into imagesTr and labels into labelsTr")
    table = root / "groups.csv" if groups is None else Path(groups)
    group_of: dict[str, str | None] = {}
    if grouped and (groups is not None or os.path.exists(table)):
        try:
            group_of = read_groups(table, [case.id for case in cases], [case.id for case in test])
        except InputError as error:
            refuse(refusals, "groups-wrong", table, str(error))
    return Dataset(
        root=root,
        name=str(facts.get("name") or root.resolve().name),
        channels=names,
        labels=values,
        cases=tuple(replace(case, group=group_of.get(case.id)).reordered(order) for case in cases),
        test=tuple(replace(case, group=group_of.get(case.id)).reordered(order) for case in test),
        regions_class_order=painted,
        segments=segments_of(description, facts, values),
    )


def dataset_of(asked: DatasetConfig, *, grouped: bool = True, renamed: bool = True) -> Dataset:
    """The dataset that a config names; the options are those of `read_dataset`."""
    return read_dataset(
        asked.root,
        channels=asked.channels,
        labels=asked.labels,
        regions_class_order=asked.regions_class_order,
        groups=asked.groups,
        grouped=grouped,
        renamed=renamed,
    )


def with_names(asked: DatasetConfig, dataset: Dataset) -> DatasetConfig:
    """The section of a config with the names and values that the dataset turned out to have.

    Raises:
        InputError: labels are regions, and nobody says what they paint.
    """
    names = {key: getattr(dataset, key) for key in ("channels", "labels", "regions_class_order")}
    names["segments"] = asked.segments or dataset.segments
    resolved = asked.model_copy(update=names)
    if resolved.scheme.has_regions and resolved.scheme.painted is None:
        raise InputError(
            f"{dataset.root}: labels with regions need regions_class_order, the value that each region paints, in "
            f"their order: {', '.join(resolved.scheme.names)}"
        )
    return resolved


def is_pair(root: Path) -> bool:
    """Whether a folder holds the folders `images` and `labels`, and is not of another layout."""
    folders = [os.path.isdir(root / name) for name in ("images", "labels", "imagesTr")]
    return folders == [True, True, False]


def find_cases(
    path: str | Path,
    channels: Sequence[str],
    labels: Declared | None = None,
    *,
    one_file_per_case: bool = False,
    renamed: bool = False,
    series: Sequence[str] = (),
) -> tuple[Case, ...]:
    """Cases to predict, without labels: of one image file, of a folder of them, of a dataset, or of DICOM files.

    Several channels are either one file with all of them or files that end with `_0000`, `_0001` and so on. As in
    `read_dataset`, `channels` and `labels` replace what a dataset says, and images in another order are put into that
    of `channels`, also those of a folder or a file that lies in a dataset. Elsewhere nothing names the channels.

    Args:
        one_file_per_case: numbers at the end of names do not stand for channels.
        renamed: whether a dataset may have other names for the channels.
        series: of DICOM files, UID or number for each channel; nothing: the only series that is a volume.

    Raises:
        InputError: there is nothing to predict, a channel is missing, a dataset's channels are not these, or a folder
            mixes kinds of images.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{shown(path)} does not exist: give an image file, a folder of them, or a dataset")
    has_usable_name(path.absolute())
    if os.path.exists(path / "dataset.json") or is_pair(path):
        if one_file_per_case:
            raise InputError(
                f"{path} is a dataset, whose layout says which files are a case: give the folder of its images, or no "
                "--one-file-per-case"
            )
        dataset = read_dataset(path, channels=channels, labels=labels, grouped=False, renamed=renamed)
        return tuple(replace(case, label=None) for case in (*dataset.cases, *dataset.test))
    order = _order_around(path, channels, renamed=renamed)
    stored = in_stored_order(channels, order)
    single = os.path.isfile(path)
    files = [path] if single else usable_files(path)
    if files and not single:
        refuse_dicom_beside(path, files[0])
    if is_dicom(path) and (single or not files) and (found := dicom_cases(path, channels, series)):
        return found
    if not files or series:
        kinds = "DICOM files" if series else f"files that end with {LISTED}, or DICOM files"
        raise InputError(f"{path} has no {'series' if series else 'image'}: expected {kinds}")
    if one_file_per_case:
        cases = one_file_each(path, files)
    else:
        cases = (case_of_file(path, stored),) if single else cases_of_folder(path, files, stored)
    of_one_kind(path, cases)
    return tuple(case.reordered(order) for case in cases)


def dataset_around(path: str | Path) -> Path | None:
    """The folder whose `dataset.json` tells of an image or a folder of them: their folder or the one above."""
    folder = Path(os.path.abspath(path))
    folder = folder if os.path.isdir(folder) else folder.parent
    return next((place for place in (folder, folder.parent) if os.path.isfile(place / "dataset.json")), None)


def _order_around(path: Path, channels: Sequence[str], *, renamed: bool) -> tuple[int, ...] | None:
    """Where each channel stands in files of a dataset's folder; None: in its own place, or nothing names them."""
    root = dataset_around(path)
    if root is None:
        return None
    description = root / "dataset.json"
    facts = read_description(description)
    return channel_order(description, facts, channel_names(description, facts, channels), renamed=renamed)


def _decathlon_cases(root: Path, facts: dict[str, Any], refusals: Refusals | None) -> tuple[list[Case], list[Case]]:
    description = root / "dataset.json"

    def existing(entry: Any, key: str) -> Path:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise InputError(
                f"{description}: the entry {shown(repr(entry))} must name its {key}, like "
                '{"image": ..., "label": ...}'
            )
        if refusals is None and not os.path.isfile(root / entry[key]):
            lacking = "which is a folder, no file" if os.path.isdir(root / entry[key]) else "but there is no"
            raise InputError(f"{description} lists {shown(entry[key])}, {lacking} {shown(root / entry[key])}")
        return root / entry[key]

    def known(*files: Path) -> bool:
        if not all([has_usable_name(file, refusals) for file in files]):
            return False
        strange = [file for file in files if not file.name.lower().endswith(ENDINGS)]
        for file in strange:
            refuse(refusals, "file-stray", file, f"{file} is no image file: expected a name that ends with {LISTED}")
        return not strange

    if refusals is not None:
        for folder in ("imagesTr", "labelsTr", "imagesTs"):
            usable_files(root / folder, refusals)
    cases = []
    for entry in facts["training"]:
        image, label = existing(entry, "image"), existing(entry, "label")
        if known(image, label):
            cases.append(Case(case_id(image), (image,), label))
    test, listed = [], facts.get("test") or []
    if not isinstance(listed, list):
        raise InputError(f"{description}: test must be a list of images, got {shown(repr(listed))}")
    # Some distributions list test images without shipping the folder.
    for entry in listed if (root / "imagesTs").is_dir() else []:
        image = existing({"image": entry} if isinstance(entry, str) else entry, "image")
        if known(image):
            test.append(Case(case_id(image), (image,)))
    return cases, test


def _nnunet_cases(
    root: Path, facts: dict[str, Any], channels: Sequence[str] | None, refusals: Refusals | None
) -> tuple[list[Case], list[Case]]:
    suffix = str(facts.get("file_ending", ".nii.gz"))
    if not f"x{suffix}".lower().endswith(ENDINGS):
        raise InputError(f"{root / 'dataset.json'}: file_ending {suffix!r} is not supported; use {LISTED}")
    images, labels = root / "imagesTr", root / "labelsTr"
    if not images.is_dir():
        raise InputError(f"{root} has no folder imagesTr: put the training images there")
    cases = cases_of_channels(_files_that_end(images, suffix, refusals), channels, refusals)
    test = cases_of_channels(_files_that_end(root / "imagesTs", suffix, refusals), channels, refusals)
    return _with_labels(cases, labels, suffix, refusals), list(test)


def _files_that_end(folder: Path, suffix: str, refusals: Refusals | None) -> list[Path]:
    files = []
    for file in usable_files(folder, refusals):
        if ending(file).lower() == suffix.lower():
            files.append(file)
            continue
        said = f"{file} ends with {ending(file)}, but dataset.json says file_ending {suffix}"
        refuse(refusals, "file-stray", file, f"{said}: convert the file or move it away")
    return files


def _paired_cases(root: Path, channels: Sequence[str] | None, refusals: Refusals | None) -> list[Case]:
    images, labels = root / "images", root / "labels"
    files, known = usable_files(images, refusals), {stem(file) for file in usable_files(labels, refusals)}
    if not files:
        raise InputError(f"{images} has no image: expected files that end with {LISTED}")
    equal = any(stem(file) in known for file in files)
    cases = one_file_each(images, files, refusals) if equal else cases_of_folder(images, files, channels, refusals)
    return _with_labels(cases, labels, ending(files[0]), refusals)


def _with_labels(cases: Sequence[Case], folder: Path, suffix: str, refusals: Refusals | None) -> list[Case]:
    """Each case with the label map of its name; one that is not there would end with `suffix`."""
    labels = label_files(folder, refusals)
    expected = {case.id: folder / f"{case.id}{suffix}" for case in cases}
    for case in cases:
        if case.id not in labels and refusals is None:
            raise InputError(f"case {case.id} has no label: there is no {expected[case.id]}")
    for stranger in sorted(labels.keys() - expected.keys()):
        said = f"{labels[stranger]} has no image: there is no image of the case {stranger}"
        refuse(refusals, "file-stray", labels[stranger], said)
    return [replace(case, label=labels.get(case.id, expected[case.id])) for case in cases]
