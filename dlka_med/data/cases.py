"""Which images, labels and groups a folder holds: Decathlon, nnU-Net v2, or plain images to predict."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlka_med.errors import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii")
MAX_LABELS = 256


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
    root: str | Path, *, channels: Sequence[str] | None = None, labels: Mapping[str, int] | None = None
) -> Dataset:
    """Read a dataset in the layout of the Medical Segmentation Decathlon or of nnU-Net v2.

    `channels` and `labels` replace what `dataset.json` says. `groups.csv` (a header, then case and group
    per line) is read if it is there; an empty group means that the case stands alone.

    Raises:
        InputError: the folder is no dataset, a file is missing, or `dataset.json` contradicts itself.
    """
    root = Path(root)
    description = root / "dataset.json"
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds dataset.json")
    if not description.is_file():
        raise InputError(f"{root} is not a dataset: it has no dataset.json (Decathlon or nnU-Net v2 layout)")
    facts = _read_json(description)
    names = _channels(description, facts, channels)
    values = _labels(description, facts, labels)
    if isinstance(facts.get("training"), list):
        cases, test = _decathlon_cases(root, facts)
    elif "channel_names" in facts or "file_ending" in facts:
        cases, test = _nnunet_cases(root, facts, names)
    else:
        raise InputError(
            f"{description} is of no known layout: expected the list 'training' of the Decathlon "
            "or the 'channel_names' of nnU-Net v2"
        )
    if not cases:
        raise InputError(f"{root} has no training case: put images into imagesTr and labels into labelsTr")
    _refuse_twins(description, [*cases, *test])
    groups = _read_groups(root / "groups.csv", [case.id for case in cases], [case.id for case in test])
    return Dataset(
        root=root,
        name=str(facts.get("name") or root.resolve().name),
        channels=names,
        labels=values,
        cases=tuple(replace(case, group=groups.get(case.id)) for case in cases),
        test=tuple(replace(case, group=groups.get(case.id)) for case in test),
    )


def find_cases(path: str | Path, channels: Sequence[str], labels: Mapping[str, int] | None = None) -> tuple[Case, ...]:
    """Cases to predict, without labels: of one NIfTI file, of a folder of them, or of a dataset.

    Several channels are either one 4D file or files that end with `_0000`, `_0001` and so on. As in
    `read_dataset`, `channels` and `labels` replace what a dataset says.

    Raises:
        InputError: there is nothing to predict or a channel is missing.
    """
    path = Path(path)
    if path.is_file():
        return (_case_of_file(path, channels),)
    if not path.is_dir():
        raise InputError(f"{path} does not exist: give a NIfTI file, a folder of them, or a dataset")
    if (path / "dataset.json").is_file():
        dataset = read_dataset(path, channels=channels, labels=labels)
        return tuple(replace(case, label=None) for case in (*dataset.cases, *dataset.test))
    files = nifti_files(path)
    if not files:
        raise InputError(f"{path} has no image: expected files that end with .nii or .nii.gz")
    if any(case_id(file) != stem(file) for file in files):
        return _cases_of_channels(files, channels)
    cases = tuple(Case(case_id(file), (file,)) for file in files)
    _refuse_twins(path, cases)
    return cases


def case_id(path: Path) -> str:
    """The file name without `.nii`, `.nii.gz` and the mark `_0000` of the first channel."""
    return stem(path).removesuffix("_0000")


def stem(path: Path) -> str:
    """The file name without `.nii` or `.nii.gz`; `InputError` if it ends with neither."""
    return path.name[: -len(_ending(path))]


def _ending(path: Path) -> str:
    for ending in NIFTI_ENDINGS:
        if path.name.endswith(ending):
            return ending
    raise InputError(f"{path} is not a NIfTI file: expected a name that ends with .nii or .nii.gz")


def nifti_files(folder: Path) -> list[Path]:
    """The folder's NIfTI files by name, hidden ones left out."""
    return sorted(f for f in folder.glob("*") if f.name.endswith(NIFTI_ENDINGS) and not f.name.startswith("."))


def _case_of_file(path: Path, channels: Sequence[str]) -> Case:
    ending, numbered = _ending(path), re.fullmatch(r"(.+)_(\d{4})", stem(path))
    if len(channels) == 1 or not numbered:
        return Case(case_id(path), (path,))
    siblings = [path.with_name(f"{numbered[1]}_{index:04d}{ending}") for index in range(len(channels))]
    return _cases_of_channels([file for file in siblings if file.is_file()], channels)[0]


def _cases_of_channels(files: Iterable[Path], channels: Sequence[str]) -> tuple[Case, ...]:
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(file))
        if not numbered:
            raise InputError(f"{file} has no channel number: expected a name like {stem(file)}_0000{_ending(file)}")
        if int(numbered[2]) in found.setdefault(numbered[1], {}):
            raise InputError(f"{file} is there twice, as .nii and as .nii.gz: remove one of them")
        found[numbered[1]][int(numbered[2])] = file
    for name, parts in found.items():
        example = next(iter(parts.values()))
        for index, channel in enumerate(channels):
            if index not in parts:
                missing = example.with_name(f"{name}_{index:04d}{_ending(example)}")
                raise InputError(f"case {name} lacks channel {index} ({channel}): there is no {missing}")
        if surplus := sorted(set(parts) - set(range(len(channels)))):
            raise InputError(
                f"{parts[surplus[0]]} is channel {surplus[0]} of case {name}, but only {len(channels)} are "
                f"declared, {list(channels)}: declare it or move the file away"
            )
    return tuple(Case(name, tuple(parts[i] for i in range(len(channels)))) for name, parts in sorted(found.items()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is broken at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(facts).__name__}")
    return facts


def _channels(path: Path, facts: dict[str, Any], chosen: Sequence[str] | None) -> tuple[str, ...]:
    declared = facts.get("channel_names", facts.get("modality"))
    if not isinstance(declared, dict) or not declared or not all(str(key).isdigit() for key in declared):
        raise InputError(f'{path} must name the channels, like "channel_names": {{"0": "MRI"}}, got {declared!r}')
    if sorted(map(int, declared)) != list(range(len(declared))):
        raise InputError(f"{path} must number the channels from 0 without gaps, got {sorted(declared)}")
    names = tuple(str(declared[key]) for key in sorted(declared, key=int))
    if chosen is None:
        return names
    if len(chosen) != len(names):
        raise InputError(f"{path} declares {len(names)} channels {list(names)}, but the config names {list(chosen)}")
    return tuple(chosen)


def _labels(path: Path, facts: dict[str, Any], chosen: Mapping[str, int] | None) -> dict[str, int]:
    declared, where = (facts.get("labels"), str(path)) if chosen is None else (chosen, "dataset.labels")
    if not isinstance(declared, Mapping) or not declared:
        raise InputError(f'{where} must declare the labels, like "labels": {{"background": 0, "tumour": 1}}')
    if chosen is None and all(str(key).isdigit() for key in declared):
        declared = {str(name): int(value) for value, name in declared.items()}
    for name, value in declared.items():
        if isinstance(value, list):
            raise InputError(f"{where}: the label {name!r} is a region {value}; give one value per label instead")
        if not isinstance(value, int) or value < 0:
            raise InputError(f"{where}: the label {name!r} must have a whole number from 0 on, got {value!r}")
        if name == "ignore":
            raise InputError(f"{where}: the label 'ignore' is not supported; remove it and its voxels")
    values = sorted(declared.values())
    if values[0] != 0 or len(set(values)) != len(values) or len(values) < 2:
        raise InputError(
            f"{where}: labels need distinct values, one of them 0 for the background, got {dict(declared)}"
        )
    if len(values) > MAX_LABELS:
        raise InputError(f"{where} declares {len(values)} labels; at most {MAX_LABELS} are supported")
    return dict(sorted(declared.items(), key=lambda item: item[1]))


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
    ending = facts.get("file_ending", ".nii.gz")
    if ending not in NIFTI_ENDINGS:
        raise InputError(f"{root / 'dataset.json'}: file_ending {ending!r} is not supported yet; use .nii.gz or .nii")
    images, labels = root / "imagesTr", root / "labelsTr"
    if not images.is_dir():
        raise InputError(f"{root} has no folder imagesTr: put the training images there")
    cases = []
    for case in _cases_of_channels([f for f in nifti_files(images) if f.name.endswith(ending)], channels):
        label = labels / f"{case.id}{ending}"
        if not label.is_file():
            raise InputError(f"case {case.id} has no label: there is no {label}")
        cases.append(replace(case, label=label))
    known = {case.id for case in cases}
    for label in nifti_files(labels):
        if stem(label) not in known:
            raise InputError(f"{label} has no image: there is no {images / f'{stem(label)}_0000{ending}'}")
    test = [f for f in nifti_files(root / "imagesTs") if f.name.endswith(ending)]
    return cases, list(_cases_of_channels(test, channels))


def _refuse_twins(where: Path, cases: Iterable[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise InputError(
                f"{where}: {case.images[0]} and {seen[case.id].images[0]} are both case {case.id!r}; rename one"
            )
        seen[case.id] = case


def _read_groups(path: Path, cases: Sequence[str], test: Sequence[str]) -> dict[str, str | None]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    known, groups = {*cases, *test}, {}
    if rows and rows[0][1][0].strip() not in known:
        rows = rows[1:]
    for number, row in rows:
        if len(row) < 2:
            raise InputError(f"{path}, line {number}: expected a case and its group, separated by a comma, got {row}")
        case, group = row[0].strip(), row[1].strip()
        if case not in known:
            raise InputError(f"{path}, line {number}: the dataset has no case {case!r}; remove the line or mend the id")
        if case in groups:
            raise InputError(f"{path}, line {number}: case {case!r} is there twice; keep one of the lines")
        groups[case] = group or None
    if lacking := [case for case in cases if case not in groups]:
        raise InputError(
            f"{path} does not name {len(lacking)} of the cases, the first being {lacking[0]!r}: "
            "add a line for each, with an empty group if the case stands alone"
        )
    return groups
