"""What each choice of a recipe gives: twelve trainings in which every choice is changed in half of them.

    python examples/recipe_effects.py CONFIG --out FOLDER -s training.clock=processor \\
        --change training.ema=null --change training.growing=0 --change training.batch_size=4

Changing one thing at a time compares single runs, whose seeds move the Dice by as much as most choices do. Here each of
up to eleven changes is made in six runs and not in the six others, balanced against all other changes (the design of
Plackett and Burman, Biometrika 33, 1946), so that each effect is a difference of two means of six seeds. What two
changes do only together is spread over the effects of others. The error is that of Lenth (Technometrics 31, 1989), who
takes most of the eleven contrasts for noise: columns without a change are nothing else. Weights are those of the end of
a run. Runs are shared by as many of these commands as are started, and a repeated command goes on.
"""

import argparse
import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from dlka_med.comparing.runs import trained
from dlka_med.comparing.weights import validating_once
from dlka_med.config.loading import load_config
from dlka_med.data.formats import label_files
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed, lock_of

FIRST_ROW = (1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1)


@dataclass(frozen=True)
class Effect:
    """Mean of a score with a change minus that without, and how far chance alone takes such a difference (95 %)."""

    change: str
    difference: float
    margin: float


def design() -> np.ndarray:
    """Whether a change is made (1) or not (-1): 12 runs x 11 changes, of which any two are orthogonal."""
    return np.stack([*(np.roll(FIRST_ROW, shift) for shift in range(11)), -np.ones(11)]).astype(int)


def effects(scores: Sequence[float], changes: Sequence[str]) -> list[Effect]:
    """Effects of the changes, from the scores of the 12 runs of the design."""
    contrasts = np.asarray(scores) @ design() / 6
    sizes = np.abs(contrasts)
    error = 1.5 * np.median(sizes[sizes <= 2.5 * 1.5 * np.median(sizes)])
    margin = float(stats.t.ppf(0.975, len(sizes) / 3) * error)
    return [Effect(change, float(found), margin) for change, found in zip(changes, contrasts, strict=False)]


def train_all(config: Path, out: Path, settings: Sequence[str], changes: Sequence[Sequence[str]]) -> None:
    """Train those of the 12 runs that no other process trains; a finished one stays."""
    configs = {}
    for number, row in enumerate(design()):
        made = [word for change, level in zip(changes, row, strict=False) if level > 0 for word in change]
        told = f"run {number} ({', '.join(made) or 'nothing changed'})"
        configs[told] = validating_once(load_config(config, [*settings, *made, f"seed={number}"]))
    for number, (told, chosen) in enumerate(configs.items()):
        run = RunFolder(out / f"run_{number}")
        with claimed(lock_of(run.path), wait=False) as free:
            if free:
                made = trained(run, chosen, told)
                predict_images(
                    made.path,
                    chosen.dataset.root,
                    predictions_of(run),
                    split="validation",
                    skip_existing=True,
                    postprocess=False,
                )


def predictions_of(run: RunFolder) -> Path:
    """The label maps of all cases that the run held out."""
    return run.path.with_name(f"{run.path.name}_predictions")


def score_of(run: RunFolder) -> tuple[float, int] | None:
    """The mean Dice over all held-out cases, and the steps; None while there is not all of it.

    Not the Dice in `metrics.csv`: of short runs that is over as many cases as their minutes leave time for, which is
    fewer of a slow network.
    """
    predictions = predictions_of(run)
    if not (run.metrics_file.is_file() and predictions.is_dir()):
        return None
    held_out = run.split["validation"]
    if set(held_out) - label_files(predictions).keys():
        return None
    with run.metrics_file.open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    found = evaluate(predictions, run.config.dataset.root, only=held_out)
    return found.mean["dice"].mean, int(last["step"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("config", type=Path)
    add("--out", type=Path, required=True, metavar="FOLDER", help="of the runs")
    add(
        "-s", "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="of all runs; repeatable"
    )
    add("--change", action="append", nargs="+", required=True, metavar="KEY=VALUE", help="made at once; repeatable")
    given = parser.parse_args(arguments)
    if len(given.change) > len(FIRST_ROW):
        parser.error(f"12 runs tell {len(FIRST_ROW)} changes apart, not {len(given.change)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train_all(given.config, given.out, given.settings, given.change)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    found = [score_of(RunFolder(out)) for out in (given.out / f"run_{number}" for number in range(12))]
    if None in found:
        print(f"{found.count(None)} of 12 runs are not finished: the same command goes on")
        return
    scores, steps = zip(*found, strict=True)
    print(f"Dice {np.mean(scores):.4f} in the mean of 12 runs, {min(scores):.4f} to {max(scores):.4f}\n")
    print("| change | Dice, with minus without | beyond chance from | steps, with and without |")
    print("|---|---|---|---|")
    for effect, column in zip(effects(scores, [" ".join(change) for change in given.change]), design().T, strict=False):
        with_it, without = (np.mean(np.asarray(steps)[column == level]) for level in (1, -1))
        print(f"| {effect.change} | {effect.difference:+.4f} | {effect.margin:.4f} | {with_it:.0f}, {without:.0f} |")


if __name__ == "__main__":
    main()
