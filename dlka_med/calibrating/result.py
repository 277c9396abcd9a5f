"""What calibrating a run has found, as files and as a table to read in a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.calibrating.sampling import Sample
from dlka_med.calibrating.temperature import measured
from dlka_med.evaluation.figures_calibration import plot_reliability
from dlka_med.evaluation.tables import aligned, cell
from dlka_med.inference.held_out import HeldOut, learners, write_into_all
from dlka_med.metrics import Reliability
from dlka_med.metrics.calibration import MARGIN

RULE = (
    f"near: voxels within {MARGIN} voxels along every axis of the foreground of reference or prediction, by which the "
    "temperature is fitted; all: every voxel that the network saw. Of either kind a sample is drawn in each case, and "
    "stands for all of them; voxels to be ignored are left out. regions, reliability: near. after: each patient's "
    "voxels at the temperature fitted on other patients."
)
FIGURES = ("nll", "brier", "ece", "mce")


@dataclass(frozen=True)
class Calibration:
    """A temperature, and how believable the probabilities are before and after.

    Attributes:
        temperature: fitted on all held-out cases.
        weights: SHA-256 of the weights that it belongs to, by the names of the runs.
        cases, patients: that were held out.
        before: every sample at a temperature of 1.
        after: every sample at the temperature fitted on other patients.
        regions: names, where the network tells regions apart; their voxels are counted once for each.
    """

    temperature: float
    weights: Mapping[str, str]
    cases: int
    patients: int
    before: list[tuple[Sample, float]]
    after: list[tuple[Sample, float]]
    regions: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `calibration.json`."""
        near = {name: self.near(name) for name in ("before", "after")}
        content = {
            "temperature": self.temperature,
            "cases": self.cases,
            "patients": self.patients,
            "voxels_drawn": {"near": self._drawn(near=True), "all": self._drawn(near=True) + self._drawn(near=False)},
            "rule": RULE,
        }
        for name, found in near.items():
            content[name] = {"near": figures(_joined(found)), "all": figures(_joined(self._measured(name, near=False)))}
        if self.regions:
            content["regions"] = {
                region: {name: figures(found[index]) for name, found in near.items()}
                for index, region in enumerate(self.regions)
            }
        content["held_out_temperatures"] = sorted({temperature for _, temperature in self.after})
        content["reliability"] = {name: _bins(_joined(found)) for name, found in near.items()}
        return content | {"weights": dict(self.weights)}

    def near(self, when: str) -> list[Reliability]:
        """Of voxels near the foreground, before or after: of the classes, or of each region."""
        return self._measured(when, near=True)

    def write(self, path: str | Path, runs: Sequence[HeldOut]) -> dict[str, Any]:
        """Write `reliability.png` into the folder and `calibration.json` into it and its runs; give its content."""
        content, figure = self.summary, Path(path) / "reliability.png"
        plot_reliability(*(_joined(self.near(when)) for when in ("before", "after")), figure)
        write_into_all([folder.calibration_file for folder in learners(path, runs)], content)
        return content

    def _measured(self, when: str, *, near: bool) -> list[Reliability]:
        samples = self.before if when == "before" else self.after
        return measured([pair for pair in samples if pair[0].near or not near])

    def _drawn(self, *, near: bool) -> int:
        return sum(sample.size for sample, _ in self.before if sample.near == near)


def format_calibration(summary: Mapping[str, Any]) -> str:
    """A table to read in a terminal, of the content of `calibration.json`."""
    before, after = summary["before"], summary["after"]
    table = [["", "before", "after"]]
    for kind, word in (("near", "near the foreground"), ("all", "all voxels")):
        for name in FIGURES:
            table.append([f"{name.upper()}, {word}", cell(before[kind][name], 4), cell(after[kind][name], 4)])
    for region, found in summary.get("regions", {}).items():
        table.append([f"ECE, {region}", *(cell(found[when]["ece"], 4) for when in ("before", "after"))])
    told = (
        f"temperature {summary['temperature']:.3f}, from {summary['cases']} held-out cases of {summary['patients']} "
        "patients; after: on patients that it was not fitted on"
    )
    return "\n".join([*aligned(table), told]) + "\n"


def figures(found: Reliability) -> dict[str, float | None]:
    """The scores of a reliability diagram by their names."""
    return {name: getattr(found, name) for name in FIGURES}


def _joined(found: Sequence[Reliability]) -> Reliability:
    return sum(found, Reliability.empty())


def _bins(found: Reliability) -> list[dict[str, float | None]]:
    edges = np.linspace(0, 1, len(found.voxels) + 1).tolist()
    rows = zip(edges, edges[1:], found.voxels.tolist(), *(mean.tolist() for mean in found.means), strict=False)
    return [
        {"from": low, "to": high, "voxels": voxels}
        | ({"confidence": confidence, "accuracy": accuracy} if voxels else {"confidence": None, "accuracy": None})
        for low, high, voxels, confidence, accuracy in rows
    ]
