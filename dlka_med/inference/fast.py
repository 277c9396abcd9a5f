"""A quicker way to predict, and what it costs: measured once on the run's own validation cases, kept in `fast.json`."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import inf
from statistics import fmean
from typing import Any

import numpy as np
import torch

from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.data.cases import Case, dataset_of
from dlka_med.data.resample import coarse_axis
from dlka_med.errors import InputError, WriteError
from dlka_med.files import whole_file
from dlka_med.inference.budget import Budget, measure_window
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.metrics import dice
from dlka_med.progress import progress, within
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed, lock_of
from dlka_med.text_files import read_text

FILE = "fast.json"
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
OVERLAP = 0.25  # of neighbouring windows
CASES = 8  # that are enough to see what it costs
WORTH = 0.9  # bf16 is taken where a window takes less than this share of its time, a spacing of so many fewer windows
COARSER = (1.25, 1.5)  # times the spacing of the run
TOLERANCE = 0.005  # of Dice, that no label may lose by a coarser spacing, against the usual way

log = logging.getLogger("dlka_med")


def fast_predictor(run: RunFolder, predictor: Predictor, limit: float | None = None) -> Predictor:
    """The quick way of a run: larger steps of the window, no mirroring, bf16 where that is quicker on this device, and
    a coarser spacing where it spares windows and costs no label more than `TOLERANCE` on the validation cases.

    What it costs is logged. It is measured against `predictor` on the first validation cases when somebody asks for
    the first time, and after the weights, the settings or the kind of device have changed; `fast.json` in the run keeps
    it. Where the cases are not at hand, the log says that it is not known.

    Args:
        predictor: of the run, as its config has it.
        limit: bytes of memory, see `Budget`.
    """
    changes = {"overlap": min(OVERLAP, predictor.overlap), "mirror_axes": ()}
    asked = {
        "weights": digest_of_weights(run),
        "device": predictor.device.type,
        "usual": _settings(predictor),
    }
    with claimed(lock_of(run.path / FILE), wait=True) if os.access(run.path, os.W_OK) else nullcontext():
        known = _known(run, asked)
        if known is None:
            quick = _quickest(run, predictor, changes)
        else:
            precision, times = PRECISIONS[known["fast"]["precision"]], known["fast"]["coarser"]
            quick = _like(run, predictor, coarser=times, **changes, precision=precision)
        if known is None or "unknown" in known:
            known = asked | {"fast": _settings(quick) | {"coarser": 1}} | _measured(run, predictor, quick, limit)
            quick = _coarser(run, quick, known, limit)
            _keep(run, known)
    log.info("%s", _told(known))
    return quick


def _like(run: RunFolder, predictor: Predictor, coarser: float = 1, **changes: Any) -> Predictor:
    """Another way of a run: `coarser` times its spacing, in which the run's preprocessing brings cases."""
    same = {"device": predictor.device, "thresholds": predictor.decision.thresholds}
    same["temperature"] = predictor.temperatures
    config, spacing = run.config, _times(run.config.preprocessing.spacing, coarser)
    preprocessing = config.preprocessing.model_copy(update={"spacing": spacing})
    config = config.model_copy(update={"preprocessing": preprocessing})
    return Predictor.of_config(predictor.networks, config, **same | changes)


def _times(spacing: Sequence[float | None] | None, factor: float) -> tuple[float | None, ...] | None:
    """A coarser spacing; along thick slices, which resampling does not mix, and where images keep theirs, the same."""
    if spacing is None:
        return None
    thick = None if None in spacing else coarse_axis(np.array(spacing))
    return tuple(wish if wish is None or axis == thick else factor * wish for axis, wish in enumerate(spacing))


def _coarser(run: RunFolder, quick: Predictor, known: dict[str, Any], limit: float | None) -> Predictor:
    """The quick way at the coarsest spacing that may be, which `known` then tells of; a coarser one is not tried where
    the last one fails.
    """
    spacing = run.config.preprocessing.spacing
    if "figures" not in known or _times(spacing, COARSER[0]) == spacing:
        return quick
    cases, usual = _validation_cases(run), known["figures"]["usual"]["labels"]
    changes = {"overlap": quick.overlap, "mirror_axes": (), "precision": PRECISIONS[known["fast"]["precision"]]}
    for times in COARSER:
        other = _like(run, quick, times, **changes)
        if not _windows(other, cases, limit) < WORTH * _windows(quick, cases, limit):
            continue
        found = _tried(run, cases, {"fast": other}, limit)
        known.setdefault("tried", {})[f"{times:g}"] = found.get("fast", found)
        if "fast" not in found or _loses(found["fast"]["labels"], usual):
            break
        known["figures"]["fast"], known["fast"]["coarser"], quick = found["fast"], times, other
    return quick


def _loses(labels: Mapping[str, float], usual: Mapping[str, float]) -> bool:
    """Whether a label has less Dice than usually; one that neither way nor a reference shows is right."""
    return any(labels.get(name, 1) < usual.get(name, 1) - TOLERANCE for name in {*labels, *usual})


def _windows(way: Predictor, cases: Sequence[Case], limit: float | None) -> float:
    """How many windows pass, by the headers of the cases; infinite where one has no usable header."""
    budget = Budget(way, way.config, limit)
    extents = [budget.expected(case) for case in cases]
    return inf if None in extents else sum(extent.layout.count for extent in extents)


def _quickest(run: RunFolder, predictor: Predictor, changes: Mapping[str, Any]) -> Predictor:
    plain = _like(run, predictor, **changes)
    if plain.dtype != torch.float32 or not _has_bf16(predictor.device):
        return plain
    half, channels = _like(run, predictor, **changes, precision="bf16"), len(run.config.dataset.channels or ())
    plain_takes, half_takes = (min(measure_window(each, channels).seconds for _ in range(2)) for each in (plain, half))
    return half if half_takes < WORTH * plain_takes else plain


def _has_bf16(device: torch.device) -> bool:
    """Whether the device computes with bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(supported is not None and supported() for supported in told)


def _measured(run: RunFolder, usual: Predictor, quick: Predictor, limit: float | None) -> dict[str, Any]:
    """How many cases were predicted in both ways, and the figures of each; or why there are none."""
    try:
        cases = _validation_cases(run)
    except InputError as error:
        return {"unknown": str(error)}
    found = _tried(run, cases, {"usual": usual, "fast": quick}, limit)
    return found if "unknown" in found else {"cases": len(cases), "figures": found}


def _tried(run: RunFolder, cases: Sequence[Case], ways: Mapping[str, Predictor], limit: float | None) -> dict[str, Any]:
    """The figures of each way, or why there are none."""
    try:
        return _figures(run, cases, ways, limit)
    except InputError as error:
        return {"unknown": str(error)}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {"unknown": lacking_memory(error, next(iter(ways.values())).device)}


def _validation_cases(run: RunFolder) -> list[Case]:
    root, wanted = run.config.dataset.root, run.split["validation"][:CASES]
    if not wanted:
        raise InputError("no case validated the run")
    if not os.path.isdir(root):
        raise InputError(f"its dataset is no longer in {root} (dataset.root in {run.config_file})")
    found = {case.id: case for case in dataset_of(run.config.dataset, grouped=False).cases}
    if missing := [case for case in wanted if case not in found]:
        raise InputError(f"{root} lacks its validation case {missing[0]}")
    return [found[case] for case in wanted]


def _figures(
    run: RunFolder, cases: Sequence[Case], ways: Mapping[str, Predictor], limit: float | None
) -> dict[str, dict[str, Any]]:
    """For each way the Dice of the labels, each a mean over cases, their mean, and the seconds per case, from its files
    to its label map.
    """
    scheme = run.config.dataset.scheme
    budgets = {name: Budget(way, way.config, limit) for name, way in ways.items()}
    scores: dict[str, dict[str, list[float]]] = {name: {label: [] for label in scheme.names} for name in ways}
    seconds, done = dict.fromkeys(ways, 0.0), 0
    show, total = progress("measuring what the fast way costs", unit="prediction"), len(cases) * len(ways)
    for case in cases:
        for name, way in ways.items():
            started = time.perf_counter()
            prepared = way.prepared(case, labelled=True)
            way.load = budgets[name].load(budgets[name].extent(prepared))
            classes = way.segment(prepared, within(show, done, total))
            seconds[name] += time.perf_counter() - started
            for label, score in _scores(classes, prepared.native_label, scheme).items():
                scores[name][label].append(score)
            done += 1
            show(done, total)
    means = {name: {label: fmean(each) for label, each in of.items() if each} for name, of in scores.items()}
    if not all(means.values()):
        raise InputError(f"its first {len(cases)} validation cases show no structure")
    return {
        name: {"dice": fmean(of.values()), "labels": of, "seconds": seconds[name] / len(cases)}
        for name, of in means.items()
    }


def _scores(classes: np.ndarray, reference: np.ndarray, scheme: LabelScheme) -> dict[str, float]:
    """Dice of each label that one of them has."""
    counted = reference != IGNORED
    masks = {name: [scheme.mask(name, each) & counted for each in (classes, reference)] for name in scheme.names}
    return {name: score for name, pair in masks.items() if (score := dice(*pair)) is not None}


def _settings(predictor: Predictor) -> dict[str, Any]:
    decision, settings = predictor.decision, {"overlap": predictor.overlap, "mirror_axes": list(predictor.mirror_axes)}
    settings["precision"] = str(predictor.dtype).removeprefix("torch.")
    if decision.thresholds is not None:
        settings |= {"thresholds": list(decision.thresholds), "temperature": decision.temperature}
    return settings


def _known(run: RunFolder, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was found for this very question, perhaps without figures; None: nothing."""
    try:
        content = json.loads(read_text(run.path / FILE))
        same = all(content[key] == value for key, value in asked.items())
        quick = content["fast"]
        usable = quick["precision"] in PRECISIONS and quick["coarser"] in (1, *COARSER)
        if quick["precision"] != content["usual"]["precision"]:
            usable &= _has_bf16(torch.device(asked["device"]))  # another machine may have measured it
        return content if same and usable and _told(content) else None
    except (InputError, ValueError, KeyError, TypeError):
        return None


def _keep(run: RunFolder, content: Mapping[str, Any]) -> None:
    try:
        with whole_file(run.path / FILE) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except WriteError as error:
        log.warning("what the fast way costs is measured again next time: %s", error)


def _told(content: Mapping[str, Any]) -> str:
    quick = content["fast"]
    way = f"the fast way (overlap {quick['overlap']:g}, no mirroring, {quick['precision']}{_at(quick['coarser'])})"
    if "unknown" in content:
        return f"{way}: what it costs in Dice is not known, since {content['unknown']}"
    before, after = content["figures"]["usual"], content["figures"]["fast"]
    return (
        f"{way} on {content['cases']} validation cases: mean Dice {after['dice']:.4f} instead of {before['dice']:.4f} "
        f"({after['dice'] - before['dice']:+.4f}), {after['seconds']:.2g} s per case instead of "
        f"{before['seconds']:.2g}"
    )


def _at(coarser: float) -> str:
    return "" if coarser == 1 else f", {coarser:g} times the spacing"
