"""By which run and settings label maps are made, and what a case was to that run."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dlka_med.data.cases import Case
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.prediction_folder import Made, PredictionFolder
from dlka_med.provenance import Provenance, fingerprint
from dlka_med.run_folder import RunFolder

NAME = "run"
"""The fact that is no part of an id: a run may be moved."""


def facts_of(runs: Sequence[RunFolder], predictor: Predictor, **settings: Any) -> dict[str, Any]:
    """All that predictions depend on, as JSON: weights, config and settings. Not the device, which only rounds.

    Args:
        runs: whose networks predict together.
        predictor: with the temperatures 1 where nothing depends on them.
        settings: further ones, or those that are to stand in place of what the runs say now.
    """
    config, decision = runs[0].config, predictor.decision
    described = {
        "preprocessing": [run.config.preprocessing.model_dump(mode="json") for run in runs],
        "network": [run.config.network.model_dump(mode="json") for run in runs],
        "dataset": config.dataset.model_dump(
            mode="json", include={"channels", "labels", "regions_class_order", "slices"}
        ),
        "patch_size": list(predictor.patch_size),
    }
    return {
        NAME: runs[0].path.resolve().name,
        "weights": [digest_of_weights(run) for run in runs],
        "config": _digest(described),
        "overlap": predictor.overlap,
        "mirror_axes": list(predictor.mirror_axes),
        "precision": str(predictor.dtype).removeprefix("torch."),
        "thresholds": None if decision.thresholds is None else list(decision.thresholds),
        "temperatures": list(predictor.temperatures),
        **settings,
    }


def id_of(facts: Mapping[str, Any]) -> str:
    """A short name for a run with its settings, wherever its folder lies."""
    return _digest({key: value for key, value in facts.items() if key != NAME})[:12]


def name_and_weights(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The name of the run that facts are of, and the digests of its weights; none where they do not say."""
    weights = facts.get("weights")
    return str(facts.get(NAME, "unknown")), [str(one) for one in weights] if isinstance(weights, list) else []


def refuse_others(
    folder: PredictionFolder, facts: Mapping[str, Any], cases: Iterable[Case], masks: Mapping[str, str] | None = None
) -> set[str]:
    """Ids of those of the cases, whose label maps are there, that this run was still about to make.

    Args:
        masks: of each case the mark of the mask about which it is cropped.

    Raises:
        InputError: a label map is of another run, of other settings, of another mask, of another image, or nobody knows
            of which.
    """
    runs, made, run, unfinished = folder.runs, folder.made, id_of(facts), set()
    for each in cases:
        case, image = each.id, _image_of(each)
        if case not in made:
            raise InputError(
                f"{folder.path} holds a label map of the case {case}, but {folder.cases_file.name} there does not say "
                "which run made it: name another folder, so that runs are not mixed, or move it away"
            )
        if made[case].part is None:
            unfinished.add(case)
        elif made[case].run != run:
            before = runs.get(made[case].run, {})
            keys = dict.fromkeys([*facts, *before])
            changed = [key for key in keys if key != NAME and before.get(key) != facts.get(key)]
            named = [
                f"{key} {before.get(key)} there, {facts.get(key)} now" for key in changed if _is_short(before, key)
            ]
            told = "; ".join(named) or f"other {' and '.join(changed)}"
            raise InputError(
                f"{folder.path} holds a label map of the case {case} by another run or other settings "
                f"({before.get(NAME, 'unknown')}: {told}): name another folder, so that runs are not mixed"
            )
        elif made[case].mask != (masks or {}).get(case):
            raise InputError(
                f"{folder.path} holds a label map of the case {case} that was cropped about another mask than it has "
                "now: name another folder, so that they are not mixed, or move the label map away"
            )
        elif image is not None and made[case].image not in (None, image):
            raise InputError(
                f"{folder.path} holds a label map of the case {case} that was made of another image than it has now: "
                "move the label map away, and it is predicted anew"
            )
    return unfinished


class Origin:
    """What cases were to a run, or to several that predict together.

    Raises:
        InputError: what a run says of its weights is damaged.
    """

    def __init__(self, runs: Sequence[RunFolder]):
        self._known = [(Provenance.of_run(run), run.split) for run in runs]

    def part(self, case: Case) -> str:
        """`Made.part` of a case; with several runs whatever is nearest to having trained one of them.

        Images are known by their content, and by their names where a run tells no more.
        """
        image = _image_of(case)
        parts = {_part(case, image, provenance, split) for provenance, split in self._known}
        return next(part for part in ("train", "validation", "test", "unknown", "new") if part in parts)


def made_by(facts: Mapping[str, Any], origin: Origin, case: Case, mask: str | None = None) -> Made:
    """What to remember of a case, and of the mask about which it was cropped."""
    return Made(id_of(facts), origin.part(case), mask, _image_of(case))


def _image_of(case: Case) -> str | None:
    try:
        return fingerprint(case)
    except InputError:  # no file that could be read, as where the case is a folder
        return None


def _part(case: Case, image: str | None, provenance: Provenance, split: Mapping[str, Sequence[str]]) -> str:
    if provenance.trained(case.id, image):
        return "train"
    by_name = image is None or len(provenance.validated) < len(split["validation"])
    if image in provenance.validated or (by_name and case.id in split["validation"]):
        return "validation"
    if case.id in split["test"]:
        return "test"
    return "new" if provenance.complete else "unknown"


def _is_short(before: Mapping[str, Any], key: str) -> bool:
    return bool(before) and key not in ("weights", "config")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
