"""Label maps for images on disk."""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch

from dlka_med.config.dataset import Dataset
from dlka_med.config.labels import IGNORE, LabelScheme
from dlka_med.data.cases import Case, check_dims, dataset_around, find_cases
from dlka_med.data.intensity import named_intensity, warn_of_outliers
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.data.sides import mirror_axes
from dlka_med.errors import InputError, WriteError
from dlka_med.files import whole_file, writable_folder
from dlka_med.inference.budget import GIB, Budget
from dlka_med.inference.device import find_device
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.writing import label_map_ending, write_label_map
from dlka_med.machine import peak_memory
from dlka_med.paths import could_hold_files
from dlka_med.progress import progress, within
from dlka_med.run_folder import PARTS, RunFolder
from dlka_med.text_files import read_text

logger = logging.getLogger("dlka_med")


def predict_images(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    split: Literal["train", "validation", "test", "all"] | None = None,
    device: str | None = None,
    mirror: bool | Sequence[int] = False,
    overlap: float | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    one_file_per_case: bool = False,
    only: Collection[str] | None = None,
    memory: float | None = None,
) -> list[Path]:
    """Write a label map for each image, on the image's own grid, and `labels.json` with the names.

    It is called `<case id>.nii.gz` for a volume and `<case id>.png` for a 2D image. The voxels hold the label
    values of the dataset that the run was trained on. A bad case, or one too large for the memory, does not keep the
    others from being predicted; the mistakes are reported together at the end.

    Args:
        run: folder made by training.
        images: an image file, a folder of them, or a dataset.
        out: folder for the label maps; it may exist.
        split: only these cases of the run's split (all: its three parts); None: everything found.
        device: as PyTorch names it; None: cuda where there is one.
        mirror: test-time mirroring along these axes of the prepared image, or slice; True: along those that training
            mirrored; False: as in the run's config. Axes that training never mirrored get a warning.
        overlap: of neighbouring windows, 0 <= overlap < 1; None: as in the run's config.
        overwrite: replace label maps that are there already.
        skip_existing: leave out the cases whose label maps are there already.
        one_file_per_case: files that end in _0000, _0001 and so on are cases of their own, not channels of one.
        only: ids of cases; others are left out.
        memory: GiB that predicting may hold at its peak, Python itself included, and of a GPU as much; None: what is
            free. How many windows pass the network at once, where their logits are summed, and whether the next case
            is prepared meanwhile follow from it; a case that needs more is left out, with what it needs.

    Returns:
        The files written, in the order of the cases.

    Raises:
        InputError: the run, the images, `out` or an option cannot be used (before any work); or bad cases.
        WriteError: the disk is full; at once, and nothing is half-written.
    """
    if overwrite and skip_existing:
        raise InputError("overwrite and skip_existing contradict each other: choose one")
    folder, out, place = RunFolder.open(run), Path(out), find_device(device)
    dataset = folder.config.dataset
    could_hold_files(out)
    found = find_cases(
        images,
        dataset.channels or (),
        dataset.labels,
        one_file_per_case=one_file_per_case,
        renamed=_lies_in(images, dataset.root),
    )
    cases = [case for case in _chosen(found, folder, split, images) if only is None or case.id in only]
    check_dims(cases, folder.config.image_dims, f"the run {folder.path} was trained on")
    targets = {case.id: out / f"{case.id}{label_map_ending(case.images[0])}" for case in cases}
    _spare_inputs(cases, targets)
    existing = {case.id: target for case in cases if (target := targets[case.id]).exists()}
    if existing and not (overwrite or skip_existing):
        raise InputError(
            f"{next(iter(existing.values()))} exists already ({len(existing)} of {len(cases)} predictions do): "
            "name another folder, or choose to skip the existing ones"
        )
    if skip_existing:
        cases = [case for case in cases if case.id not in existing]
    predictor = _predictor(folder, place, mirror, overlap)
    writable_folder(out)
    _write_names(out / "labels.json", dataset, replace=overwrite)
    if not cases:
        return []
    budget = Budget(predictor, folder.config, None if memory is None else memory * GIB)
    extents = {case.id: extent for case in cases if (extent := budget.expected(case)) is not None}
    if extents:
        logger.info(budget.outlook([*extents.values()]))
    written, mistakes, show = [], [], progress("predicting")

    def load(case: Case) -> Prepared:
        if case.id in extents:
            budget.check_preparing(extents[case.id])
        return _prepare(folder, case)

    def ahead(case: Case, following: Case) -> bool:
        both = [extents.get(one.id) for one in (case, following)]
        return None in both or budget.has_room_ahead(*both)

    for done, (case, ready) in enumerate(_prepared_ahead(cases, load, ahead)):
        try:
            windows = within(show, done, len(cases))
            _predict_one(predictor, budget, ready.result(), windows, targets[case.id], dataset.scheme, case.images[0])
            written.append(targets[case.id])
        except WriteError:
            raise
        except InputError as mistake:
            logger.error("case %s is left out: %s", case.id, mistake)
            mistakes.append(f"{case.id}: {mistake}")
        except Exception as error:
            if not is_out_of_memory(error):
                logger.error("while predicting the case %s", case.id)
                raise
            mistake = lacking_memory(error, predictor.device)
            logger.error("case %s is left out: %s", case.id, mistake)
            mistakes.append(f"{case.id}: {mistake}")
        show(done + 1, len(cases))
    logger.info("memory of the process at its peak: %.1f GiB", peak_memory() / GIB)
    if mistakes:
        raise InputError(
            f"{len(mistakes)} of {len(cases)} cases could not be predicted (the others are in {out}):\n"
            + "\n".join(mistakes)
        )
    return written


def _predict_one(
    predictor: Predictor,
    budget: Budget,
    prepared: Prepared,
    windows: Callable[[int, int], None],
    target: Path,
    labels: LabelScheme,
    image: Path,
) -> None:
    predictor.load = budget.load(budget.extent(prepared))
    write_label_map(target, predictor.segment(prepared, windows), labels, image, prepared.reader)


def _predictor(
    run: RunFolder,
    device: torch.device,
    mirror: bool | Sequence[int],
    overlap: float | None,
) -> Predictor:
    network, config = run.load_network(), run.config
    changes: dict[str, Any] = {"device": device}
    if overlap is not None:
        changes["overlap"] = overlap
    changes["mirror_axes"] = mirror_axes(config, mirror)
    try:
        return Predictor.of_run(network, config, **changes)
    except ValueError as error:
        raise InputError(str(error)) from error


def _prepare(run: RunFolder, case: Case) -> Prepared:
    channels, preprocessing = run.config.dataset.channels or (), run.config.preprocessing
    prepared, intensity = prepare(case, preprocessing, channels), named_intensity(preprocessing, channels)
    warn_of_outliers(case.id, channels, intensity, prepared.measured)
    return prepared.normalised(intensity)


def _prepared_ahead(
    cases: Sequence[Case], load: Callable[[Case], Prepared], ahead: Callable[[Case, Case], bool]
) -> Iterator[tuple[Case, Future[Prepared]]]:
    """Each case with its preparation; the next one is prepared in a thread while this one is predicted, if both fit."""
    with ThreadPoolExecutor(1) as pool:
        following = None
        for case, after in zip_longest(cases, cases[1:]):
            ready = following or pool.submit(load, case)
            following = pool.submit(load, after) if after is not None and ahead(case, after) else None
            yield case, ready


def _chosen(cases: Sequence[Case], run: RunFolder, split: str | None, images: str | Path) -> list[Case]:
    if split is None:
        return list(cases)
    if split not in (*PARTS, "all"):
        raise InputError(f"split is {split!r}, expected one of {', '.join(PARTS)}, all")
    wanted = [case for part in PARTS if split in (part, "all") for case in run.split[part]]
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


def _lies_in(images: str | Path, root: str) -> bool:
    """Whether these are images of the run's own dataset, where its config may have changed names."""
    found = dataset_around(images) or images
    return os.path.isdir(found) and os.path.isdir(root) and os.path.samefile(found, root)


def _spare_inputs(cases: Sequence[Case], targets: Mapping[str, Path]) -> None:
    inputs = {image.resolve() for case in cases for image in case.images}
    for target in targets.values():
        if target.resolve() in inputs:
            raise InputError(f"the prediction {target} would replace an image: name another folder for the output")


def _write_names(path: Path, dataset: Dataset, *, replace: bool) -> None:
    """`labels.json`; one with other labels is not mixed with ours."""
    labels = {name: value for name, value in (dataset.labels or {}).items() if name != IGNORE}
    content: dict[str, Any] = {"labels": {name: v if isinstance(v, int) else [*v] for name, v in labels.items()}}
    if dataset.regions_class_order is not None:
        content["regions_class_order"] = [*dataset.regions_class_order]
    if path.exists() and not replace:
        try:
            same = json.loads(read_text(path)) == content
        except ValueError:
            same = False
        if not same:
            raise InputError(f"{path} names other labels than this run: name another folder for the output")
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
