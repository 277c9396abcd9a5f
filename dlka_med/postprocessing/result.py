"""What was learned about post-processing, as a file and as a table to read in a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dlka_med.evaluation.tables import aligned, cell
from dlka_med.inference.kept_steps import STEPS, step_to_json
from dlka_med.inference.postprocess import RULE as STEPS_RULE
from dlka_med.inference.temperature import WEIGHTS
from dlka_med.postprocessing.choice import RULE, Decision, Gain
from dlka_med.statistics import LEVEL


@dataclass(frozen=True)
class Learned:
    """All decisions, and what they rest on.

    Attributes:
        unit: of volumes, mm3 or pixels.
        cases, patients: that were held out.
        weights: SHA-256 of the weights that they belong to, by the names of the runs.
    """

    decisions: Sequence[Decision]
    unit: str
    cases: int
    patients: int
    weights: Mapping[str, str]

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `postprocessing.json`."""
        kept = [one.step for one in self.decisions if one.kept and one.step is not None]
        return {
            STEPS: [step_to_json(step, self.unit) for step in kept],
            "cases": self.cases,
            "patients": self.patients,
            "what": STEPS_RULE,
            "rule": RULE,
            "tried": [self._tried(one) for one in self.decisions],
            WEIGHTS: dict(self.weights),
        }

    def _tried(self, decision: Decision) -> dict[str, Any]:
        found = {
            "label": decision.family.label,
            "of": "holes" if decision.family.of_holes else "components",
            "best": None if decision.step is None else step_to_json(decision.step, self.unit),
            "kept": decision.kept,
            "refusal": decision.refusal,
            **_figures(decision.mean),
            "interval": None if decision.interval is None else list(decision.interval),
            "chance": decision.chance,
            "better": decision.better,
            "worse": decision.worse,
        }
        if not decision.family.of_holes:
            found |= {"false_removed": decision.false_removed, "true_removed": decision.true_removed}
        if len(decision.labels) > 1:
            found["labels"] = {name: _figures(gain) for name, gain in decision.labels.items()}
        return found


def format_postprocessing(summary: Mapping[str, Any]) -> str:
    """A table to read in a terminal, of the content of `postprocessing.json`."""
    head = ["label", "step", "Dice", "after", "gain", f"{LEVEL:.0%} interval", "chance", "better", "worse", "kept"]
    table = [head]
    for tried in summary["tried"]:
        span = tried["interval"]
        table.append(
            [
                "all foreground" if tried["label"] is None else tried["label"],
                _name(tried["best"], tried["of"]),
                cell(tried["before"], 4),
                cell(tried["after"], 4),
                f"{tried['gain']:+.4f}",
                "-" if span is None else f"{span[0]:+.4f} to {span[1]:+.4f}",
                cell(tried["chance"], 3),
                str(tried["better"]),
                str(tried["worse"]),
                "yes" if tried["kept"] else f"no: {tried['refusal']}",
            ]
        )
    told = (
        f"{len(summary[STEPS])} of {len(summary['tried'])} steps are kept, from {summary['cases']} held-out cases of "
        f"{summary['patients']} patients; after, gain, better, worse: on patients that did not choose the step; Dice "
        "is 1 where prediction and reference are both empty"
    )
    return "\n".join([*aligned(table), told]) + "\n"


def _name(best: Mapping[str, Any] | None, of: str) -> str:
    if best is None:
        return of
    (volume,) = [f" {value:g} {unit}" for unit, value in best.items() if unit not in ("step", "label")] or [""]
    return f"{best['step']}{volume}"


def _figures(gain: Gain) -> dict[str, float]:
    return asdict(gain) | {"gain": gain.gain}
