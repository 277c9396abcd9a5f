"""A comparison as files, and as a table to read in a terminal."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlka_med.comparing.result import Comparison, Contestant
from dlka_med.comparing.tuning import OF_SEVERAL_FOLDS, read_searches, searched_on_compared
from dlka_med.evaluation.figures_compare import Point, plot_comparison, plot_variants
from dlka_med.evaluation.tables import aligned, cell, columns, comparison_lines, records
from dlka_med.files import whole_file
from dlka_med.statistics import LEVEL, TOO_FEW


def write(result: Comparison) -> None:
    """Write `compare.json`, `compare.csv`, `scores.csv` and `compare.png`, the first of them last."""
    files = result.files
    _write_csv(files.table_file, _rows(result))
    scores = [
        {"network": name, "seed": seed} | record
        for name, one in result.networks.items()
        for seed, evaluation in one.seeds.items()
        for record in records(evaluation)
    ]
    _write_csv(files.scores_file, scores, ["network", "seed", *columns(result.first)])
    plot = plot_comparison if files.read().ablated is None else plot_variants
    plot(points_of(result), files.figure_file)
    text = json.dumps(result.summary(), indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(files.result_file) as file:
        file.write_text(text + "\n", encoding="utf-8")


def points_of(result: Comparison) -> list[Point]:
    """The networks that the picture can show."""
    points = []
    for name, one in result.networks.items():
        dice, seconds = one.mean.mean["dice"], one.costs.seconds_per_step
        if dice.mean is not None and seconds:
            seeds = [mean for mean in one.seed_means.values() if mean is not None]
            points.append(Point(name, seconds, dice.mean, dice.interval, seeds))
    return points


def format_comparison(result: Comparison) -> str:
    """A table to read in a terminal, what may be claimed, and what was left out."""
    evaluation, protocol = result.first, result.first.protocol
    head = ["network", "Dice", f"{LEVEL:.0%} interval", "spread of seeds", f"HD95 {evaluation.unit}"]
    head += [f"NSD {protocol.tolerance:g} {evaluation.unit}", "parameters", "multiply-adds", "estimated GiB"]
    table = [[*head, "s per step", "steps", "s per case"]]
    table += [[name, *_cells(one)] for name, one in result.networks.items()]
    seeds = sorted({seed for one in result.networks.values() for seed in one.seeds})
    lines = aligned(table)
    lines.append(f"{evaluation.cases} cases of {evaluation.patients} patients, {_counted(len(seeds), 'seed')}")
    lines.append(result.weights)
    if any(one.mean.mean["dice"].interval is None for one in result.networks.values()):
        lines.append(TOO_FEW)
    if single := [name for name, one in result.networks.items() if one.spread is None]:
        lines.append(f"of one seed no spread is known: {', '.join(single)}")
    if searches := read_searches(result.files):
        lines.append("learning rates, tuned: " + "; ".join(f"{name} {one}" for name, one in searches.items()))
    if searched_on_compared(result.files.read()):
        lines.append(OF_SEVERAL_FOLDS)
    lines += [f"left out: {run}: {why}" for run, why in result.left_out.items()]
    if result.lost:
        lines.append(f"{len(result.lost)} cases that some runs did not predict are compared for nobody")
    lines += comparison_lines(evaluation)
    if evaluation.ranks and any(one.spread is None for one in result.networks.values()):
        lines.append("ranks are between these trainings over patients: other seeds may rank otherwise")
    return "\n".join(lines) + "\n"


def _cells(one: Contestant) -> list[str]:
    mean, costs = one.mean.mean, one.costs
    span = mean["dice"].interval
    return [
        cell(mean["dice"].mean, 4),
        "-" if span is None else f"{span[0]:.3f} to {span[1]:.3f}",
        cell(one.spread, 4),
        cell(mean["hd95"].mean, 2),
        cell(mean["nsd"].mean, 4),
        f"{costs.parameters / 1e6:.3g} M",
        f"{costs.multiply_adds / 1e9:.3g} G",
        f"{costs.estimated_peak_bytes / 2**30:.2f}",
        "-" if costs.seconds_per_step is None else f"{costs.seconds_per_step:.3g}",
        f"{costs.steps:.0f}",
        "-" if costs.seconds_per_case is None else f"{costs.seconds_per_case:.3g}",
    ]


def _rows(result: Comparison) -> list[dict[str, object]]:
    rows = []
    for name, one in result.networks.items():
        row: dict[str, object] = {"network": name}
        for measure in ("dice", "hd95", "nsd"):
            statistic, known = one.mean.mean[measure], one.mean.measures[measure]
            column = known.column(measure, one.mean.unit)
            low, high = statistic.interval or (None, None)
            row |= {column: statistic.mean, f"{column}_low": low, f"{column}_high": high}
        row |= {"spread_of_seeds": one.spread, "seeds": len(one.seeds), "cases": one.mean.cases}
        rows.append(row | {"patients": one.mean.patients} | vars(one.costs))
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]], names: Sequence[str] | None = None) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if names is None else names)
        writer.writeheader()
        writer.writerows(rows)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
