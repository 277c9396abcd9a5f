"""What was trained on what: data, split, weights, versions, machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlka_med import __version__
from dlka_med.data.cases import Dataset
from dlka_med.errors import InputError
from dlka_med.evaluation.figures import read_rows
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.machine import software
from dlka_med.provenance import Provenance
from dlka_med.report.subject import Part, Subject
from dlka_med.run_folder import RunFolder
from dlka_med.text_files import read_text

Fact = tuple[str, str]


def facts_of(part: Part, dataset: Dataset | None) -> list[Fact]:
    """Terms and what is to say of them, of one training.

    Args:
        dataset: as it is today; None: it cannot be read.
    """
    run = part.run
    return [
        ("Network", f"{run.config.network.name}, {run.config.image_dims}D"),
        *_course(run),
        *_weights(run),
        *_data(run, dataset),
        *_split(run, dataset),
        *_machine(run),
        ("Seed", str(run.config.seed)),
    ]


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    """Of `metrics.csv`; none before the first epoch."""
    return read_rows(run.metrics_file) if run.metrics_file.is_file() else []


def about_this_report(subject: Subject) -> str:
    """With which versions it was written."""
    named = ", ".join(f"{name} {version}" for name, version in software().items() if name in ("torch", "monai"))
    return f"dlka_med {__version__}, {named}"


def fingerprints(part: Part) -> list[tuple[str, str]]:
    """The cases that trained, with a digest of each image; empty where the run does not say."""
    try:
        return sorted(Provenance.of_run(part.run).cases)
    except InputError:
        return []


def _course(run: RunFolder) -> list[Fact]:
    rows, training = rows_of(run), run.config.training
    wanted = f"{training.minutes:g} minutes" if training.minutes is not None else _epochs(training.epochs)
    if not rows:
        return [("Training", f"no epoch finished yet, of {wanted}")]
    last = rows[-1]
    done = _epochs(last.get("epoch", len(rows)))
    if last.get("step"):
        done += f", {last['step']} steps"
    if last.get("minutes"):
        done += f" in {float(last['minutes']):.1f} minutes"
    return [("Training", f"{done}; the limit is {wanted}")]


def _epochs(count: object) -> str:
    return f"{count} epoch" if str(count) == "1" else f"{count} epochs"


def _weights(run: RunFolder) -> list[Fact]:
    if not run.weights_file.is_file():
        return [("Weights", "none yet")]
    told = f"SHA-256 {digest_of_weights(run)[:16]}"
    known = run.weights_metadata
    if "epoch" in known:
        told = f"epoch {known['epoch']}; {told}"
    if known.get("validation_dice") not in (None, "None"):
        told = f"validation Dice {float(known['validation_dice']):.4f} at {told}"
    return [("Weights", told)]


def _data(run: RunFolder, dataset: Dataset | None) -> list[Fact]:
    asked = run.config.dataset
    name = Path(asked.root).name if dataset is None else dataset.name
    told = f"{name}: channels {', '.join(asked.channels or ())}; labels {', '.join(asked.scheme.names)}"
    return [("Dataset", told), ("Images that trained", _trained(run, dataset))]


def _trained(run: RunFolder, dataset: Dataset | None) -> str:
    try:
        known = Provenance.of_run(run)
    except InputError as error:
        return str(error)
    if not known.cases:
        return "nobody knows which (imported weights)"
    text = "\n".join(f"{name} {print_}" for name, print_ in sorted(known.cases))
    told = f"{len(known.cases)}, digest {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    told += "" if known.complete else "; perhaps more, of weights that it started from"
    if dataset is not None:
        try:
            changed = known.outdated(dataset.cases)
        except InputError as error:
            return f"{told}; {error}"
        told += f"; {len(changed)} are others today, such as {changed[0]}" if changed else "; the same files today"
    return told


def _split(run: RunFolder, dataset: Dataset | None) -> list[Fact]:
    groups = {} if dataset is None else {case.id: case.group for case in dataset.cases if case.group}
    told = [f"{len(run.split[part])} {word}" for part, word in _PARTS.items() if run.split[part]]
    told = f"{', '.join(told) or 'no case'}; fold {run.config.dataset.fold} of {_folds(run.config.dataset.folds)}"
    return [("Split", f"{told}; cases of a group ({len(set(groups.values()))}) stay together" if groups else told)]


_PARTS = {"train": "train", "validation": "validate", "test": "test"}


def _folds(folds: int | str) -> str:
    return str(folds) if isinstance(folds, int) else Path(folds).name


def _machine(run: RunFolder) -> list[Fact]:
    if not run.machine_file.is_file():
        return [("Versions and machine", "not recorded: the run was made before dlka_med kept them")]
    try:
        noted: Sequence[Mapping[str, str]] = json.loads(read_text(run.machine_file))
        last = dict(noted[-1])
        versions, began = last.pop("versions"), last.pop("began")
        told = ", ".join(f"{name} {version}" for name, version in dict(versions).items())
        machine = ", ".join(f"{value}" for value in last.values())
    except (InputError, ValueError, TypeError, KeyError, IndexError) as error:
        return [("Versions and machine", f"{run.machine_file.name} is damaged ({error})")]
    again = f"; begun {len(noted)} times" if len(noted) > 1 else ""
    return [("Versions", told), ("Machine", machine), ("Begun", f"{began}{again}")]
