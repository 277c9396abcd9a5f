"""The post-processing of a run: `postprocessing.json`, and the weights that it was learned for."""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from dlka_med.config.labels import LabelScheme
from dlka_med.errors import InputError
from dlka_med.inference.postprocess import Kind, Step, postprocess, voxel_volume
from dlka_med.inference.temperature import WEIGHTS, digest_of_weights
from dlka_med.run_folder import RunFolder
from dlka_med.text_files import read_text

STEPS = "steps"
LEFT_OUT = "--no-postprocess (in Python postprocess=False)"
HELD = 9  # bytes per voxel at the peak: two label maps, a mask, its outside, and the numbers of its parts

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class PostProcessing:
    """What is done to the label maps of a run.

    Args:
        steps: in their order.
        scheme: of the run.
        unit: of volumes.
    """

    steps: tuple[Step, ...]
    scheme: LabelScheme
    unit: str

    def __call__(self, classes: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Class indices (*S) after all steps.

        Args:
            affine: voxel -> world, from which the volume of a voxel follows.
        """
        return postprocess(classes, self.steps, self.scheme, voxel_volume(affine)) if self.steps else classes

    @property
    def bytes_per_voxel(self) -> int:
        """What is held at the peak, the label map before and after included."""
        return HELD

    def __str__(self) -> str:
        return ", ".join(step.told(self.unit) for step in self.steps) or "none, since no step helped"


def postprocessing_of(run: RunFolder) -> PostProcessing | None:
    """What a run has learned to do to its label maps; None if it was not asked to learn.

    Raises:
        InputError: `postprocessing.json` is damaged, or was learned for other weights than the run has now.
    """
    file = run.postprocessing_file
    if not file.is_file():
        return None
    mend = f"run dlka postprocess {run.path} again, remove the file, or predict with {LEFT_OUT}"
    try:
        content = json.loads(read_text(file))
        listed, weights = content[STEPS], dict(content[WEIGHTS])
        if not isinstance(listed, list):
            raise TypeError(f"{STEPS} must be a list")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the post-processing in {file} ({error}): {mend}") from error
    scheme, unit = run.config.dataset.scheme, unit_of(run)
    try:
        steps = tuple(_read(step, f"{STEPS}[{place}]", scheme, unit) for place, step in enumerate(listed))
    except ValueError as error:
        raise InputError(f"{file}: {error}: {mend}") from error
    if digest_of_weights(run) not in weights.values():
        raise InputError(f"{file} was learned for other weights than {run.weights_file} holds now: {mend}")
    return PostProcessing(steps, scheme, unit)


def agreed_postprocessing(members: Sequence[RunFolder], cases: Collection[str] = ()) -> PostProcessing | None:
    """The steps that runs which predict together have learned; None if there are none. The log tells them.

    Args:
        cases: ids of what is predicted.

    Raises:
        InputError: they have learned different steps, or as in `postprocessing_of`.
    """
    learned = [postprocessing_of(run) for run in members]
    run, found = members[0], learned[0]
    for other, theirs in zip(members[1:], learned[1:], strict=True):
        if (theirs.steps if theirs else ()) != (found.steps if found else ()):
            raise InputError(
                f"{run.path} and {other.path} have learned different steps: predict with {LEFT_OUT}, or let "
                "dlka postprocess learn it of the folder of folds"
            )
    if found is not None:
        log.info("post-processing by %s: %s", run.postprocessing_file, found)
        known = sum(any(case in one.split["validation"] for one in members) for case in cases)
        if found.steps and known:
            log.info("it was learned on %d of these cases, or more: figures on them flatter it a little", known)
    return found if found and found.steps else None


def unit_of(run: RunFolder) -> str:
    """Of the volumes of a run's label maps."""
    return "mm3" if run.config.image_dims == 3 else "pixels"


def step_to_json(step: Step, unit: str) -> dict[str, Any]:
    """As it stands in `postprocessing.json`."""
    return {"step": step.kind, "label": step.label} | ({unit: step.volume} if step.kind == "minimum" else {})


def _read(content: Any, key: str, scheme: LabelScheme, unit: str) -> Step:
    if not isinstance(content, dict):
        raise ValueError(f"{key} is {content!r}, expected a step such as {step_to_json(Step('largest'), unit)}")
    kind, label = content.get("step"), content.get("label")
    if kind not in get_args(Kind):
        raise ValueError(f"{key}.step is {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if "label" not in content:
        raise ValueError(f"{key} has no label: name one, or null for all foreground as one")
    if label not in (scheme.names if kind == "holes" else (None, *scheme.names)):
        raise ValueError(f"{key}.label is {label!r}, expected one of {', '.join(scheme.names)}")
    if strange := set(content) - set(step_to_json(Step(kind, label), unit)):
        raise ValueError(f"{key} has the unknown key {min(strange)}")
    volume = content.get(unit)
    if kind == "minimum" and (
        isinstance(volume, bool) or not isinstance(volume, int | float) or not 0 < volume < np.inf
    ):
        raise ValueError(f"{key}.{unit} is {volume!r}, expected a positive number")
    return Step(kind, label, volume)
