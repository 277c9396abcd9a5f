"""Which cases are predicted, and where their label maps go."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dlka_med.data.cases import Case, dataset_around, find_cases
from dlka_med.data.channel_files import check_dims
from dlka_med.data.formats import OUTPUTS
from dlka_med.errors import InputError
from dlka_med.inference.writing import label_map_ending
from dlka_med.run_folder import PARTS, RunFolder


def cases_to_predict(
    images: str | Path,
    members: Sequence[RunFolder],
    *,
    split: str | None = None,
    one_file_per_case: bool = False,
    only: Collection[str] | None = None,
    series: Sequence[str] = (),
) -> list[Case]:
    """The cases of an image, a folder or a dataset that runs can predict; further arguments are as in `predict_images`.

    Args:
        members: runs that predict together.

    Raises:
        InputError: there is nothing to predict, or it does not fit the runs or their split.
    """
    run = members[0]
    dataset = run.config.dataset
    found = find_cases(
        images,
        dataset.channels or (),
        dataset.labels,
        one_file_per_case=one_file_per_case,
        renamed=lies_in(images, dataset.root),
        series=series,
    )
    cases = [case for case in _of_split(found, members, split, images) if only is None or case.id in only]
    check_dims(cases, run.config.image_dims, f"the run {run.path} was trained on")
    return cases


def targets_of(cases: Sequence[Case], out: Path, form: str | None = None) -> dict[str, Path]:
    """Where the label map of each case goes.

    Args:
        form: as in `label_map_ending`.

    Raises:
        InputError: it would replace an image, lie among the images, in a dataset or in a series, or be the second label
            map of its case, in another format than the first; or as in `label_map_ending`.
    """
    targets = {case.id: out / f"{case.id}{label_map_ending(case.images[0], form)}" for case in cases}
    inputs = {_real(image) for case in cases for image in case.images}
    for target in targets.values():
        if inputs & {_real(target), *_real(target).parents}:
            raise InputError(
                f"the prediction {target} would replace an image or lie in a series: name another folder for the output"
            )
    if (
        _real(out) in {_real(image.parent) for case in cases for image in case.images}
        or (out / "dataset.json").is_file()
    ):
        raise InputError(
            f"{out} holds images or a dataset, among which label maps would be taken for images: name another folder "
            "for the output"
        )
    for case, target in targets.items():
        for known, ending in OUTPUTS.items():
            other = out / f"{case}{ending}"
            if other != target and other.is_file():
                raise InputError(
                    f"{other} is a label map of the case {case}, which may have no second one, {target.name}: choose "
                    f"--format {known}, or name another folder for the output"
                )
    return targets


def _real(path: Path) -> Path:
    """Without links, as far as they lead; `resolve` raises where one leads to itself."""
    return Path(os.path.realpath(path))


def existing_of(targets: Mapping[str, Path], *, refused: bool) -> list[str]:
    """Ids of the cases whose label maps are there.

    Raises:
        InputError: there are some, and they are `refused`.
    """
    existing = [case for case, target in targets.items() if target.exists()]
    if existing and refused:
        raise InputError(
            f"{targets[existing[0]]} exists already ({len(existing)} of {len(targets)} predictions do): "
            "name another folder, or choose to skip the existing ones"
        )
    return existing


def _of_split(cases: Sequence[Case], members: Sequence[RunFolder], split: str | None, images: str | Path) -> list[Case]:
    if split is None:
        return list(cases)
    if split not in (*PARTS, "all"):
        raise InputError(f"split is {split!r}, expected one of {', '.join(PARTS)}, all")
    parts, run = [part for part in PARTS if split in (part, "all")], members[0]
    wanted = [case for part in parts for case in run.split[part]]
    if other := [one for one in members if set(wanted) != {case for part in parts for case in one.split[part]}]:
        raise InputError(
            f"the {split} cases of {run.path} and {other[0].path} differ, and some would be predicted by a run that "
            "was trained on them: give no split, or a single run (dlka train --folds all leaves in RUN/predictions "
            "what each fold predicts of the cases that it did not see)"
        )
    if not wanted:
        why = "the run was trained on all cases (dataset.fold: all)" if run.config.dataset.fold == "all" else ""
        raise InputError(f"{run.split_file} has no {split} case{why and f', since {why}'}: choose another split")
    found = {case.id: case for case in cases}
    if missing := [case for case in wanted if case not in found]:
        raise InputError(
            f"{images} lacks {len(missing)} of the {len(wanted)} {split} cases of {run.split_file}, such as "
            f"{missing[0]}: give the dataset that the run was trained on, or no split"
        )
    return [found[case] for case in wanted]


def lies_in(images: str | Path, root: str) -> bool:
    """Whether these are images of the run's own dataset, where its config may have changed names."""
    found = dataset_around(images) or images
    return os.path.isdir(found) and os.path.isdir(root) and os.path.samefile(found, root)
