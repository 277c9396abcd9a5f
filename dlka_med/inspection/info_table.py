"""What `dlka info` tells, as lines to read in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlka_med.evaluation.tables import aligned
from dlka_med.planning.choice import gib, shape, span
from dlka_med.planning.probe import BUSY


def format_info(content: Mapping[str, Any]) -> str:
    """Tables and lines of the content of `describe`."""
    window, stages = shape(content["window"]), content["stages"]
    head = (
        f"{content['name']}: {content['network']}, windows of {window} voxels, "
        f"{_some(content['channels'], 'channel')}, {_some(content['outputs'], 'output')}"
    )
    total = content["multiply_adds"]
    types = [["multiply-adds of a window", short_count(total), ""]]
    types += [
        [f"  {name}", short_count(number), f"{100 * number / total:.1f} %"]
        for name, number in content["multiply_adds_by_type"].items()
    ]
    table = [["stage", "output", "channels", "parameters", "multiply-adds", "gate"]]
    for stage in stages:
        size = stage["shape"] or ()
        table.append(
            [
                stage["name"],
                shape(size[1:]) if size else "-",
                str(size[0]) if size else "-",
                f"{stage['parameters']:,}",
                short_count(stage["multiply_adds"]),
                ", ".join(stage["gates"]),
            ]
        )
    lines = [head, "", f"parameters: {content['parameters']:,}", "", *aligned(types), "", *aligned(table), ""]
    return "\n".join([*lines, *_field(content), *_training(content), *_prediction(content)]) + "\n"


def _field(content: Mapping[str, Any]) -> list[str]:
    field = content["receptive_field"]
    tried = field["tried"]
    lines = [
        f"receptive field without offsets: {_sizes(field['theoretical'], tried)} voxels",
        f"receptive field measured, 95 % of a logit's gradient on noise, {field['weights']} weights: "
        f"{_sizes(field['measured'], tried)} voxels",
    ]
    if field["with_offsets_at_most"] is not None:
        lines.insert(
            1, f"receptive field with all offsets at their limit: {_sizes(field['with_offsets_at_most'], tried)} voxels"
        )
    return lines


def _training(content: Mapping[str, Any]) -> list[str]:
    found = content["training"]
    lines = [
        f"activations: {gib(found['activations'])} of a training step, {gib(content['activations_of_window'])} of a "
        "window that is predicted",
        f"training, memory of a step: {gib(found['estimated_peak'])} estimated",
    ]
    if "seconds_per_step" not in found:
        return [lines[0], f"{lines[1]}; not timed: {found['why_not']}"]
    lines[1] += f", {gib(found['measured_peak'])} measured on {content['device']}"
    lines.append(
        f"training: {span(found['seconds_per_step'])} a step of full size; the config's limit means about "
        f"{found['steps']:,} steps in {span(60 * found['minutes'])}"
    )
    if found["waited"] > BUSY:
        lines.append(f"other programs took {100 * found['waited']:.0f} % of the processor meanwhile: times are rough")
    return lines


def _prediction(content: Mapping[str, Any]) -> list[str]:
    found = content.get("prediction")
    if found is None:
        return []
    lines = [f"prediction, a window: {span(found['seconds_per_window'])} on {content['device']}"]
    if "cases" in found:
        lines.append(
            f"prediction, a case: {span(found['seconds_per_case'])} of the network (median; "
            f"{span(found['slowest_case'])} at most, {found['windows_per_case']:g} windows); all {found['cases']} "
            f"cases: {span(found['seconds_of_all'])}"
        )
        if found["peak_of_process"] is not None:
            lines.append(f"prediction, memory of the process: {gib(found['peak_of_process'])}")
    return lines


def _sizes(sizes: Sequence[int | None], tried: Sequence[int]) -> str:
    pairs = zip(sizes, tried, strict=True)
    return " x ".join(f"over {most}" if size is None else str(size) for size, most in pairs)


def short_count(number: int) -> str:
    """A number in three digits, with k, M, G or T."""
    rounded = float(f"{number:.3g}")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= size:
            return f"{rounded / size:.3g} {unit}"
    return str(number)


def _some(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
