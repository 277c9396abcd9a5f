"""A trained run, or the folds of a cross-validation, learns what to do to its label maps."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlka_med.config.labels import LabelScheme
from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.files import writable_folder
from dlka_med.inference.budget import Learning
from dlka_med.inference.device import find_device
from dlka_med.inference.held_out import held_out, learners, patient_of, write_into_all
from dlka_med.inference.kept_steps import unit_of
from dlka_med.inference.out_of_fold import out_of_fold
from dlka_med.inference.postprocess import boxes_of, voxel_volume
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.inference.windows import Progress
from dlka_med.postprocessing.choice import LEAST_PATIENTS, Decision, decide
from dlka_med.postprocessing.result import Learned
from dlka_med.postprocessing.trials import PACKING, Family, HeldMap, Trial, confusion, try_family
from dlka_med.progress import progress

log = logging.getLogger("dlka_med")


def learn_postprocessing(
    path: str | Path, *, device: str | None = None, cases: int | None = None, memory: float | None = None
) -> dict[str, Any]:
    """Learn on the cases that validated which steps help, and write `postprocessing.json`, which `predict` follows.

    Each case is predicted as `dlka predict` does it, without post-processing, by weights that were not trained on it:
    of a folder of folds by the fold that held it out, and the steps are those of all folds, each of which gets the
    file too. What is there already is replaced. `choice.RULE` says when a step is kept.

    Args:
        path: run folder, or folder of folds.
        device: as PyTorch names it; None: cuda where there is one.
        cases: of each run, at most; the most telling ones; None: all.
        memory: GiB that predicting them may hold, as in `out_of_fold`.

    Returns:
        The content of `postprocessing.json`, for `format_postprocessing`.

    Raises:
        InputError: the run, its dataset or the device cannot be used, too few patients validate, or a case needs
            more memory than there is.
    """
    runs, place = held_out(path, "post-processing"), find_device(device)
    runs = [replace(one, cases=one.cases[:cases]) for one in runs]
    patients = {patient_of(case) for one in runs for case in one.cases}
    if len(patients) < LEAST_PATIENTS:
        raise InputError(
            f"{path}: {len(patients)} held-out patients cannot tell whether a step helps, {LEAST_PATIENTS} is the "
            "least: hold out more cases, or train all folds with dlka train --folds all and give their folder"
        )
    writable_folder(Path(path))
    weights = {one.run.path.resolve().name: digest_of_weights(one.run) for one in runs}
    scheme, unit = runs[0].run.config.dataset.scheme, unit_of(runs[0].run)
    decisions = learn_steps(list(out_of_fold(runs, place, _held_map, Learning(after=PACKING), memory)), scheme)
    learned = Learned(decisions, unit, sum(len(one.cases) for one in runs), len(patients), weights)
    content = learned.summary
    write_into_all([folder.postprocessing_file for folder in learners(path, runs)], content)
    return content


def learn_steps(maps: Sequence[HeldMap], scheme: LabelScheme) -> list[Decision]:
    """Decide about every family of steps; the maps are changed by those that are kept."""
    decisions: list[Decision] = []
    stages = stages_of(scheme)
    total = sum(map(len, stages))
    show = progress("looking for steps that help", "step", closing_line=False)
    voxels, patients = [one.voxel for one in maps], [one.patient for one in maps]
    while stages:
        stage, *stages = stages
        trials: list[list[Trial]] = [_trials(stage, one, scheme) for one in maps]
        found = [
            decide(family, of_family, family.scored(scheme), voxels, patients)
            for family, of_family in zip(stage, zip(*trials, strict=True), strict=True)
        ]
        first = next((place for place, one in enumerate(found, 1) if one.kept), len(found))
        if stage[0].of_holes and first < len(stage):
            # A hole may hold those of labels that it encloses, which are filled with it.
            found, stages = found[:first], [stage[first:], *stages]
        decisions += found
        if steps := [one.step for one in found if one.kept and one.step is not None]:
            for one in maps:
                one.change(steps, scheme)
        show(len(decisions), total)
    return decisions


def stages_of(scheme: LabelScheme) -> list[list[Family]]:
    """Families in the order in which they are decided and done; those of one stage start from the same maps.

    What is removed of one class, or filled in it, takes no voxel from another; regions share voxels.
    """
    families = [[Family(name, of_holes) for name in scheme.names] for of_holes in (False, True)]
    if scheme.has_regions:
        families = [[one] for stage in families for one in stage]
    whole = [] if len(scheme.names) == 1 and not scheme.has_regions else [[Family(None)]]
    return [*whole, *families]


def _trials(stage: Sequence[Family], one: HeldMap, scheme: LabelScheme) -> list[Trial]:
    prediction, reference = one.prediction, one.reference
    boxes, confused = boxes_of(prediction), confusion(prediction, reference)
    return [try_family(family, prediction, reference, scheme, boxes, confused) for family in stage]


def _held_map(predictor: Predictor, prepared: Prepared, case: Case, show: Progress) -> HeldMap:
    patient = "{:d} {}".format(*patient_of(case))
    classes, voxel = predictor.segment(prepared, show), voxel_volume(prepared.native_affine)
    return HeldMap(classes, prepared.native_label, voxel, patient)
