"""Which images, labels and groups a folder holds: Decathlon, nnU-Net v2, images beside labels, or plain images."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlka_med.data.description import channel_names, label_values, read_description
from dlka_med.data.formats import ENDINGS, LISTED, case_id, ending, image_files, is_volume, label_files, stem
from dlka_med.data.groups import read_groups
from dlka_med.errors import InputError

SEPARATE = (
    "files that end in _0000, _0001 and so on were taken for the channels of one case: "
    "if these are separate images, rename them so that none ends in _0000"
)


@dataclass(frozen=True)
class Case:
    """One scan: one image file per channel (or one file with all channels), perhaps a label and a group."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A folder of cases; `labels` maps names to the values in the files, background (0) first."""

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[Case, ...]
    test: tuple[Case, ...] = ()


def read_dataset(
    root: str | Path,
    *,
    channels: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    groups: str | Path | None = None,
    grouped: bool = True,
) -> Dataset:
    """Read a dataset in the layout of the Medical Segmentation Decathlon or of nnU-Net v2, or images beside labels.

    Images beside labels are two folders, `images` and `labels`, with files of equal names but for the ending; they
    need no `dataset.json`.

    Args:
        channels, labels: replace what `dataset.json` says.
        groups: CSV file with a header, then case and group per line; an empty group means that the case stands
            alone. None: `groups.csv` of the dataset where there is one.
        grouped: False: groups are not read, for those who do not split the cases.

    Raises:
        InputError: the folder is no dataset, a file is missing, or `dataset.json` contradicts itself.
    """
    root = Path(root)
    description = root / "dataset.json"
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds dataset.json")
    if not description.is_file() and not is_pair(root):
        raise InputError(
            f"{root} is not a dataset: it has no dataset.json (Decathlon or nnU-Net v2 layout), nor the folders "
            "images and labels"
        )
    facts = read_description(description)
    names = channel_names(description, facts, channels)
    values = label_values(description, facts, labels)
    test: list[Case] = []
    if isinstance(facts.get("training"), list):
        cases, test = _decathlon_cases(root, facts)
    elif is_pair(root):
        cases = _paired_cases(root, names)
    elif "channel_names" in facts or "file_ending" in facts:
        cases, test = _nnunet_cases(root, facts, names)
    else:
        raise InputError(
            f"{description} is of no known layout: expected the list 'training' of the Decathlon "
            "or the 'channel_names' of nnU-Net v2"
        )
    if not cases:
        raise InputError(f"{root} has no training case: put images into imagesTr and labels into labelsTr")
    _refuse_twins(root, [*cases, *test])
    _refuse_mixture(root, [*cases, *test])
    table = root / "groups.csv" if groups is None else Path(groups)
    group_of: dict[str, str | None] = {}
    if grouped and (groups is not None or table.is_file()):
        group_of = read_groups(table, [case.id for case in cases], [case.id for case in test])
    return Dataset(
        root=root,
        name=str(facts.get("name") or root.resolve().name),
        channels=names,
        labels=values,
        cases=tuple(replace(case, group=group_of.get(case.id)) for case in cases),
        test=tuple(replace(case, group=group_of.get(case.id)) for case in test),
    )


def is_pair(root: Path) -> bool:
    """Whether a folder holds the folders `images` and `labels`, and is not of another layout."""
    folders = [(root / name).is_dir() for name in ("images", "labels", "imagesTr")]
    return folders == [True, True, False]


def find_cases(path: str | Path, channels: Sequence[str], labels: Mapping[str, int] | None = None) -> tuple[Case, ...]:
    """Cases to predict, without labels: of one image file, of a folder of them, or of a dataset.

    Several channels are either one file with all of them or files that end with `_0000`, `_0001` and so on. As in
    `read_dataset`, `channels` and `labels` replace what a dataset says.

    Raises:
        InputError: there is nothing to predict or a channel is missing.
    """
    path = Path(path)
    if path.is_file():
        return (_case_of_file(path, channels),)
    if not path.is_dir():
        raise InputError(f"{path} does not exist: give an image file, a folder of them, or a dataset")
    if (path / "dataset.json").is_file() or is_pair(path):
        dataset = read_dataset(path, channels=channels, labels=labels, grouped=False)
        return tuple(replace(case, label=None) for case in (*dataset.cases, *dataset.test))
    cases = _cases_of_folder(path, channels)
    if not cases:
        raise InputError(f"{path} has no image: expected files that end with {LISTED}")
    _refuse_mixture(path, cases)
    return cases


def check_dims(cases: Iterable[Case], dims: int, who: str) -> None:
    """Raise `InputError` if a case is a 2D image where volumes are expected, or the other way round.

    Args:
        dims: 3 for volumes, 2 for 2D images.
        who: begins the sentence that ends with "volumes" or "2D images".
    """
    kinds = {True: "volumes (NIfTI)", False: "2D images (PNG, TIFF or JPEG)"}
    for case in cases:
        found = is_volume(case.images[0])
        if found != (dims == 3):
            raise InputError(f"{who} {kinds[not found]}, but {case.images[0]} is one of {kinds[found]}")


def _case_of_file(path: Path, channels: Sequence[str]) -> Case:
    numbered = re.fullmatch(r"(.+)_(\d{4})", stem(path))
    if len(channels) == 1 or not numbered:
        return Case(case_id(path), (path,))
    siblings = [path.with_name(f"{numbered[1]}_{index:04d}{ending(path)}") for index in range(len(channels))]
    found = [file for file in siblings if file.is_file()]
    if path not in found or (siblings[0] not in found and not is_volume(path)):
        return Case(case_id(path), (path,))  # a number of another kind
    return _grouped(found, channels)[0]


def _cases_of_folder(folder: Path, channels: Sequence[str]) -> tuple[Case, ...]:
    files = image_files(folder)
    if any(case_id(file) != stem(file) for file in files):
        return _grouped(files, channels)
    return _one_file_each(folder, files)


def _one_file_each(folder: Path, files: Iterable[Path]) -> tuple[Case, ...]:
    cases = tuple(Case(stem(file), (file,)) for file in files)
    _refuse_twins(folder, cases)
    return cases


def _grouped(files: Iterable[Path], channels: Sequence[str]) -> tuple[Case, ...]:
    """As `_cases_of_channels`, where nothing but the names says that these are channels."""
    try:
        return _cases_of_channels(files, channels)
    except InputError as error:
        raise InputError(f"{error}; {SEPARATE}") from error


def _cases_of_channels(files: Iterable[Path], channels: Sequence[str]) -> tuple[Case, ...]:
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(file))
        if not numbered:
            raise InputError(f"{file} has no channel number: expected a name like {stem(file)}_0000{ending(file)}")
        parts, index = found.setdefault(numbered[1], {}), int(numbered[2])
        if index in parts:
            raise InputError(f"{file} is there twice, also as {parts[index].name}: remove one of them")
        parts[index] = file
    return tuple(_joined(name, parts, channels) for name, parts in sorted(found.items()))


def _joined(name: str, parts: Mapping[int, Path], channels: Sequence[str]) -> Case:
    example = next(iter(parts.values()))
    if parts.keys() == {0} and not is_volume(example):
        return Case(name, (example,))  # all colours in one file
    for index, channel in enumerate(channels):
        if index not in parts:
            missing = example.with_name(f"{name}_{index:04d}{ending(example)}")
            raise InputError(f"case {name} lacks channel {index} ({channel}): there is no {missing}")
    if surplus := sorted(set(parts) - set(range(len(channels)))):
        raise InputError(
            f"{parts[surplus[0]]} is channel {surplus[0]} of case {name}, but only {len(channels)} are "
            f"declared, {list(channels)}: declare it or move the file away"
        )
    return Case(name, tuple(parts[i] for i in range(len(channels))))


def _decathlon_cases(root: Path, facts: dict[str, Any]) -> tuple[list[Case], list[Case]]:
    description = root / "dataset.json"

    def existing(entry: Any, key: str) -> Path:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise InputError(
                f'{description}: the entry {entry!r} must name its {key}, like {{"image": ..., "label": ...}}'
            )
        if not (root / entry[key]).is_file():
            raise InputError(f"{description} lists {entry[key]}, but there is no {root / entry[key]}")
        return root / entry[key]

    cases = []
    for entry in facts["training"]:
        image, label = existing(entry, "image"), existing(entry, "label")
        cases.append(Case(case_id(image), (image,), label))
    test = []
    # Some distributions list test images without shipping the folder.
    for entry in facts.get("test") or [] if (root / "imagesTs").is_dir() else []:
        image = existing({"image": entry} if isinstance(entry, str) else entry, "image")
        test.append(Case(case_id(image), (image,)))
    return cases, test


def _nnunet_cases(root: Path, facts: dict[str, Any], channels: Sequence[str]) -> tuple[list[Case], list[Case]]:
    suffix = str(facts.get("file_ending", ".nii.gz"))
    if not f"x{suffix}".lower().endswith(ENDINGS):
        raise InputError(f"{root / 'dataset.json'}: file_ending {suffix!r} is not supported; use {LISTED}")
    images, labels = root / "imagesTr", root / "labelsTr"
    if not images.is_dir():
        raise InputError(f"{root} has no folder imagesTr: put the training images there")
    cases = _cases_of_channels(_files_that_end(images, suffix), channels)
    test = _cases_of_channels(_files_that_end(root / "imagesTs", suffix), channels)
    return _with_labels(cases, labels, suffix), list(test)


def _files_that_end(folder: Path, suffix: str) -> list[Path]:
    files = image_files(folder)
    for file in files:
        if ending(file).lower() != suffix.lower():
            raise InputError(
                f"{file} ends with {ending(file)}, but dataset.json says file_ending {suffix}: convert the file or "
                "move it away"
            )
    return files


def _paired_cases(root: Path, channels: Sequence[str]) -> list[Case]:
    images, labels = root / "images", root / "labels"
    files, known = image_files(images), label_files(labels)
    if not files:
        raise InputError(f"{images} has no image: expected files that end with {LISTED}")
    equal = any(stem(file) in known for file in files)
    cases = _one_file_each(images, files) if equal else _cases_of_folder(images, channels)
    return _with_labels(cases, labels, ending(files[0]))


def _with_labels(cases: Sequence[Case], folder: Path, suffix: str) -> list[Case]:
    """Each case with the label map of its name; `suffix` is for the message about a missing one."""
    labels = label_files(folder)
    for case in cases:
        if case.id not in labels:
            raise InputError(f"case {case.id} has no label: there is no {folder / f'{case.id}{suffix}'}")
    if strangers := sorted(labels.keys() - {case.id for case in cases}):
        raise InputError(f"{labels[strangers[0]]} has no image: there is no image of the case {strangers[0]}")
    return [replace(case, label=labels[case.id]) for case in cases]


def _refuse_twins(where: Path, cases: Iterable[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise InputError(
                f"{where}: {case.images[0]} and {seen[case.id].images[0]} are both case {case.id!r}; rename one"
            )
        seen[case.id] = case


def _refuse_mixture(where: Path, cases: Iterable[Case]) -> None:
    """Volumes and 2D images have no network in common."""
    kinds = {is_volume(file): file for case in cases for file in (*case.images, *([case.label] if case.label else []))}
    if len(kinds) > 1:
        raise InputError(
            f"{where} mixes volumes, such as {kinds[True]}, and 2D images, such as {kinds[False]}: "
            "keep them in folders of their own"
        )
