"""Label maps for images on disk."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dlka_med.config.dataset import Dataset
from dlka_med.config.labels import IGNORE
from dlka_med.data.cases import Case
from dlka_med.data.intensity import named_intensity, warn_of_outliers
from dlka_med.data.prepare import Prepared
from dlka_med.data.readers import Reader
from dlka_med.data.sides import mirror_axes
from dlka_med.errors import InputError, WriteError
from dlka_med.files import whole_file, writable_folder
from dlka_med.inference.budget import GIB, Budget
from dlka_med.inference.cases import cases_to_predict, existing_of, targets_of
from dlka_med.inference.crop import Crop
from dlka_med.inference.decision import thresholds_of
from dlka_med.inference.device import find_device
from dlka_med.inference.extras import Collected, Extras, remove_extras
from dlka_med.inference.fast import fast_predictor
from dlka_med.inference.kept_steps import agreed_postprocessing
from dlka_med.inference.members import members_of
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.pipeline import overlapped
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.probabilities import Numbers
from dlka_med.inference.record import Origin, facts_of, id_of, made_by, refuse_others
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.inference.writing import bytes_to_write, write_label_map
from dlka_med.machine import peak_memory
from dlka_med.paths import could_hold_files
from dlka_med.prediction_folder import PredictionFolder
from dlka_med.progress import progress, within
from dlka_med.run_folder import RunFolder
from dlka_med.shards import ALONE, Shard
from dlka_med.text_files import read_text

logger = logging.getLogger("dlka_med")


def predict_images(
    run: str | Path | Sequence[str | Path],
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
    shard: Shard = ALONE,
    crop: str | Path | None = None,
    fast: bool = False,
    probabilities: Numbers | None = None,
    uncertainty: bool = False,
    thresholds: Mapping[str, float] | None = None,
    form: str | None = None,
    series: Sequence[str] = (),
    postprocess: bool = True,
) -> list[Path]:
    """Write a label map for each image, on the image's own grid, and `labels.json` with the names.

    It is called `<case id>` with the ending of its format: that of the image (of `.hdr` .nii.gz, of `.mhd` .mha, of
    DICOM a DICOM-SEG file `.dcm`), PNG for a 2D image. The voxels hold the label values of the dataset that the run was
    trained on, those of DICOM-SEG the segments. A bad case, or one too large for the memory, does not keep the others
    from being predicted; the mistakes are reported together at the end, and in `failed.json`. `cases.json` says which
    run made each label map and what the case was to it, see `PredictionFolder`. While the network is at a case the next
    one is read and the last one written, if both fit into the memory.

    Args:
        run: folder made by training; a folder of folds, whose runs predict together, or several of either do: their
            probabilities are averaged.
        images: an image file, a folder of them, a dataset, or DICOM: a folder or a zip file of a series, or a folder of
            those.
        out: folder for the label maps; it may exist.
        split: only these cases of the run's split (all: its three parts); None: everything found.
        device: as PyTorch names it; None: cuda where there is one.
        mirror: test-time mirroring along these axes of the prepared image, or slice; True: along those that training
            mirrored; False: as in the run's config. Axes that training never mirrored get a warning.
        overlap: of neighbouring windows, 0 <= overlap < 1; None: as in the run's config.
        overwrite: replace label maps that are there already, and all that stands beside them.
        skip_existing: leave out the cases whose label maps are there already, made by this run with these settings.
        one_file_per_case: files that end in _0000, _0001 and so on are cases of their own, not channels of one.
        only: ids of cases; others are left out.
        memory: GiB that predicting may hold at its peak, Python itself included, and of a GPU as much; None: what is
            free. How many windows pass the network at once, where their logits are summed, and whether cases are read
            and written meanwhile follow from it; a case that needs more is left out, with what it needs.
        shard: (i, n): of these cases only the i-th, counted from 0, and every n-th after it, for n processes at a time.
        crop: masks or label maps by case, in a folder or, for a single case, one file, on the grids of the images. Only
            the box of what is not 0 in them, and half a window around it, but no less than a window, is predicted; all
            else is background.
        fast: larger steps of the window, no mirroring, bf16 where that is quicker, a coarser spacing where that costs
            hardly anything, see `fast_predictor`; what this costs is measured on the validation cases of the run at the
            first time, and logged.
        probabilities: also write those of all classes or regions into `out/probabilities`, in these numbers; see
            `write_probabilities`.
        uncertainty: also write their entropy into `out/uncertainty`, from 0 to 1, and how far several runs disagree
            into `out/disagreement`.
        thresholds: probability over which a voxel belongs to a region, by its name, in place of 0.5.
        form: of the label maps of volumes: nii.gz, nii, nrrd, mha or dicom-seg; None: that of the image.
        series: of DICOM files, UID or number of the series for each channel; nothing: the only one that is a volume.
        postprocess: whether the steps that `dlka postprocess` kept are done to the label maps, if the run has any.

    Returns:
        The files written, in the order of the cases.

    Raises:
        InputError: the run, the images, `out` or an option cannot be used, or with `skip_existing` a label map is not
            of this run (before any work); or bad cases.
        WriteError: the disk is full; the case after that is the last one, and nothing is half-written.
    """
    if overwrite and skip_existing:
        raise InputError("overwrite and skip_existing contradict each other: choose one")
    if fast and (mirror is not False or overlap is not None):
        raise InputError("the fast way chooses overlap and mirroring itself: give no other, or leave out fast")
    members, out, place = members_of(run), Path(out), find_device(device)
    if fast and len(members) > 1:
        raise InputError("what the fast way costs is measured for one run: name a single one, or leave out fast")
    folder, extras = members[0], Extras(probabilities, uncertainty)
    cuts = thresholds_of(folder.config.dataset.scheme, thresholds or {})
    dataset, record = folder.config.dataset, PredictionFolder(out)
    could_hold_files(out)
    chosen = {"split": split, "one_file_per_case": one_file_per_case, "only": only, "series": series}
    cases = cases_to_predict(images, members, **chosen)
    cut = None if crop is None else Crop.of(crop, cases)
    if shard != ALONE:
        cases, among = cases[shard[0] :: shard[1]], len(cases)
        logger.info("shard %d of %d: %d of %d cases", *shard, len(cases), among)
    targets = targets_of(cases, out, form)
    existing = existing_of(targets, refused=not (overwrite or skip_existing))
    masks = {} if cut is None else {case.id: cut.mark(case.id) for case in cases}
    limit = None if memory is None else memory * GIB
    predictor = _predictor(members, place, mirror, overlap, cuts, calibrated=bool(extras or cuts))
    weights = [digest_of_weights(member) for member in members]  # before a training beside this replaces them
    if fast and cases:
        predictor = fast_predictor(folder, predictor, limit)
    steps = agreed_postprocessing(members, [case.id for case in cases]) if postprocess else None
    settings: dict[str, Any] = {"crop": None if cut is None else "about masks", "postprocessing": steps and str(steps)}
    if predictor.config.preprocessing.spacing != folder.config.preprocessing.spacing:
        settings["spacing"] = list(predictor.config.preprocessing.spacing)
    settings["weights"] = weights
    facts = facts_of(members, predictor, **settings, probabilities=probabilities, uncertainty=uncertainty)
    origin = Origin(members)
    if skip_existing:
        unfinished = refuse_others(record, facts, [case for case in cases if case.id in existing], masks)
        among, cases = len(cases), [case for case in cases if case.id not in existing or case.id in unfinished]
        logger.info("%d of %d cases are predicted already", among - len(cases), among)
    writable_folder(out)
    _write_names(out / "labels.json", dataset, replace=overwrite)
    if not cases:
        return []
    earlier = {*existing, *record.made}
    record.begin(id_of(facts), facts, [case.id for case in cases])
    writing = max(bytes_to_write(targets[case.id], dataset.scheme) for case in cases)
    if steps is not None:
        writing = max(steps.bytes_per_voxel, 1 + writing)  # the map before stays there
    budget = Budget(predictor, predictor.config, limit, extras.bytes_per_voxel, extras.bytes_to_write(writing))
    extents = {case.id: extent for case in cases if (extent := budget.expected(case)) is not None}
    if extents:
        logger.info(budget.outlook([*extents.values()]))
    show, done = progress("predicting"), 0

    def read(case: Case) -> Prepared:
        if case.id in extents:
            budget.check_preparing(extents[case.id])
        prepared = _prepare(predictor, case)
        if cut is None:
            return prepared
        return cut(prepared, case, predictor.layout(prepared.image.shape[1:], prepared.affine).patch)

    def work(case: Case, prepared: Callable[[], Prepared]) -> Answer:
        nonlocal done
        try:
            ready = prepared()
            predictor.load = budget.load(budget.extent(ready))
            windows = within(show, done, len(cases))
            classes, beside = extras.segment(predictor, ready, windows, targets[case.id], case.images[0])
            return Answer(classes, ready.native_affine, ready.reader, beside)
        finally:
            done += 1
            if done < len(cases):
                show(done, len(cases))

    def write(case: Case, answer: Answer) -> None:
        if case.id in earlier:
            remove_extras(targets[case.id], case.id)
        answer.beside.write()
        classes = answer.classes if steps is None else steps(answer.classes, answer.affine)
        write_label_map(targets[case.id], classes, dataset.scheme, case.images[0], answer.reader, dataset.segments)
        record.finish(case.id, made_by(facts, origin, case, masks.get(case.id)))

    def beside(last: Case | None, case: Case, following: Case | None) -> tuple[bool, bool]:
        if case.id not in extents:
            return True, True
        return budget.beside(*(None if one is None else extents.get(one.id) for one in (last, case, following)))

    written, mistakes = [], []
    with closing(overlapped(cases, read, work, write, beside)) as outcomes:
        for case, error in outcomes:
            if error is None:
                written.append(targets[case.id])
                continue
            mistake = _mistake(error, case, predictor.device)
            logger.error("case %s is left out: %s", case.id, mistake)
            record.fail(case.id, mistake)
            mistakes.append(f"{case.id}: {mistake}")
    show(len(cases), len(cases))
    logger.info("memory of the process at its peak: %.1f GiB", peak_memory() / GIB)
    if mistakes:
        where = f"the others are in {out}, the reasons in {record.failed_file.name} there"
        if not written:
            where = f"the reasons are in {record.failed_file}"
        raise InputError(
            f"{len(mistakes)} of {len(cases)} cases could not be predicted ({where}):\n" + "\n".join(mistakes)
        )
    return written


@dataclass(frozen=True)
class Answer:
    """What is written of a case: class indices on its native grid, by the affine, and what stands beside them;
    `reader` read its images.
    """

    classes: np.ndarray
    affine: np.ndarray
    reader: Reader
    beside: Collected


def _mistake(error: Exception, case: Case, device: torch.device) -> str:
    """Why a case is left out; an error that is not its own is raised."""
    if isinstance(error, InputError) and not isinstance(error, WriteError):
        return str(error)
    if not is_out_of_memory(error):
        if not isinstance(error, WriteError):
            logger.error("while predicting the case %s", case.id)
        raise error
    return lacking_memory(error, device)


def _predictor(
    members: Sequence[RunFolder],
    device: torch.device,
    mirror: bool | Sequence[int],
    overlap: float | None,
    thresholds: Sequence[float] | None,
    *,
    calibrated: bool,
) -> Predictor:
    changes: dict[str, Any] = {"device": device, "mirror_axes": mirror_axes(members[0].config, mirror)}
    changes["thresholds"] = thresholds
    if overlap is not None:
        changes["overlap"] = overlap
    if len(members) == 1 and not calibrated:
        changes["temperature"] = 1.0  # nothing depends on it, so that an outdated one does not matter
    try:
        return Predictor.of_run([member.path for member in members], postprocess=False, **changes)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _prepare(predictor: Predictor, case: Case) -> Prepared:
    try:
        prepared = predictor.prepared(case)
    except Exception as error:
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        logger.debug("while reading the case %s", case.id, exc_info=True)
        raise InputError(f"{case.images[0]} cannot be read ({type(error).__name__}: {error})") from error
    channels = predictor.config.dataset.channels or ()
    intensity = named_intensity(predictor.config.preprocessing, channels)
    warn_of_outliers(case.id, channels, intensity, prepared.measured)
    return prepared


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
