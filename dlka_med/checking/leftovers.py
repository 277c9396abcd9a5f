"""What lies in a dataset beside its cases, and how it comes into a copy."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlka_med.checking.description import WRITTEN
from dlka_med.checking.fixes import LEFT_OUT, Fix
from dlka_med.checking.places import Kept, inside
from dlka_med.checking.survey import Survey
from dlka_med.data.formats import files_of
from dlka_med.errors import InputError
from dlka_med.text_files import read_text

SPLITS = "splits_final.json"
SPLIT_CODE = "case-left-out"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs")  # that are read whole where no list names their files
BELONGING = ("images", "labels")  # how folders begin that belong to a dataset; others may be anybody's, of any size
LISTED = 5


def copy_others(survey: Survey, folder: Path, kept: Sequence[Kept]) -> list[Fix]:
    """Copy what lies at the root of the dataset and is not the cases' own, byte by byte; splits without lost cases.

    Of folders only those such as labelsTs are copied; of others, and of the rest in folders of cases, it is told.

    Args:
        folder: the copy, with its cases.
    """
    root = survey.dataset.root
    known = [*(path for case in survey.cases for path in (*case.images, case.label) if path is not None)]
    known += [refusal.path for refusal in survey.refusals]
    places = [*filter(None, (inside(root, path) for path in known)), *(path for one in kept for path in one.files)]
    own = {path.parts[0] for path in places if path.parts}
    own |= set() if isinstance(survey.description.get("training"), list) else {*FOLDERS}
    fixes: list[Fix] = []
    for entry in sorted(root.iterdir()):
        if entry.name in own:
            fixes += _unused(entry, {os.path.normpath(file) for path in known for file in files_of(path)})
        elif entry.name == SPLITS:
            trained = {one.case.id for one in kept if one.case.label is not None}
            fixes += _copy_splits(entry, folder / SPLITS, trained)
        elif entry.is_dir() and not entry.name.startswith(BELONGING):
            fixes.append(Fix("", str(entry), "file-unlisted", f"{LEFT_OUT}: a folder that no dataset needs"))
        elif entry.name not in WRITTEN:
            fixes += _copy(entry, folder)
    return fixes


def _unused(entry: Path, known: set[str]) -> Iterator[Fix]:
    strangers = [path for path in sorted(entry.rglob("*")) if path.is_file() and os.path.normpath(path) not in known]
    if strangers:
        done = f"{LEFT_OUT}: {len(strangers)} files in it belong to no case, such as {strangers[0].name}"
        yield Fix("", str(entry), "file-unlisted", done)


def _copy(entry: Path, folder: Path) -> Iterator[Fix]:
    """Links to files are followed, those to folders only at the root and if the copy does not lie in them."""
    around = (entry.parent.resolve(), *entry.parent.resolve().parents, *folder.resolve().parents)
    if entry.is_symlink() and entry.resolve() in around:
        yield Fix("", str(entry), "file-unreadable", f"{LEFT_OUT}: it is a link to a folder around it or the copy")
        return
    for file in sorted(_walk(entry)) if entry.is_dir() else [entry]:
        target = folder / entry.name / file.relative_to(entry)
        try:
            if file.is_dir() and (file == entry or not file.is_symlink()):
                target.mkdir()
                next(file.iterdir(), None)  # os.walk is silent about folders that it may not read
            else:
                shutil.copyfile(file, target)
        except (PermissionError, FileNotFoundError, IsADirectoryError, shutil.SpecialFileError) as error:
            yield Fix("", str(file), "file-unreadable", f"{LEFT_OUT}: {getattr(error, 'strerror', None) or error}")


def _walk(folder: Path) -> Iterator[Path]:
    yield folder
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _copy_splits(source: Path, target: Path, trained: set[str]) -> Iterator[Fix]:
    """Without cases that the copy lacks; what is no list of folds stays as it is."""
    shutil.copyfile(source, target)
    try:
        folds = json.loads(read_text(source))
    except (InputError, ValueError, RecursionError):
        return
    if not isinstance(folds, list) or not all(isinstance(fold, dict | list) for fold in folds):
        return
    gone: dict[str, None] = {}
    cut = [_cut(fold, trained, gone) for fold in folds]
    if gone:
        target.write_text(json.dumps(cut, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        listed = ", ".join([*gone][:LISTED]) + (", ..." if len(gone) > LISTED else "")
        yield Fix("", str(source), SPLIT_CODE, f"cases taken out that the copy lacks: {listed}")
    for index, (before, after) in enumerate(zip(folds, cut, strict=True)):
        if _validating(before) and not _validating(after):
            yield Fix("", str(source), SPLIT_CODE, f"{LEFT_OUT}: all cases that validate in fold {index}")


def _validating(fold: Any) -> Any:
    return fold.get("val") if isinstance(fold, dict) else fold


def _cut(fold: Any, trained: set[str], gone: dict[str, None]) -> Any:
    if isinstance(fold, dict):
        return {key: _cut(cases, trained, gone) for key, cases in fold.items()}
    if not isinstance(fold, list):
        return fold
    gone |= dict.fromkeys(case for case in fold if isinstance(case, str) and case not in trained)
    return [case for case in fold if not isinstance(case, str) or case in trained]
