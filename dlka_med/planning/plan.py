"""From a folder of cases and a budget to a config that trains."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from dlka_med.checking.findings import lines
from dlka_med.checking.rules import apply
from dlka_med.checking.survey import Survey
from dlka_med.config.dataset import Dataset as DatasetConfig
from dlka_med.config.loading import one_line, save_config
from dlka_med.config.schema import RunConfig
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.cases import Dataset, read_dataset, with_names
from dlka_med.data.description import read_description
from dlka_med.data.fingerprint import fingerprint
from dlka_med.data.folds import Folds, write_folds
from dlka_med.data.splits import find_folds
from dlka_med.data.workers import cores
from dlka_med.errors import InputError
from dlka_med.planning.choice import Budget, Choice, gib, rounded, shape, span
from dlka_med.planning.draft import Data, Draft, fitted
from dlka_med.planning.memory import case_bytes, estimated_peak, free_memory, kept_free
from dlka_med.planning.probe import BUSY, Measured, probe
from dlka_med.planning.rules_training import outlook
from dlka_med.planning.summary import Summary, summarise
from dlka_med.progress import progress

ROUNDS = 5
NEAR = 1.5  # times more or less work in a step than the measured time asks for
SPEED_OF_CORE, SPEED_OF_GPU = {2: 9e4, 3: 2e5}, 5e6  # voxels per second of networks of cost 1, until it is measured
MINUTES, EPOCHS = 20.0, 1000

Probe = Callable[[RunConfig, str], Measured]
Estimate = Callable[[RunConfig, str], float]

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Trial:
    """A draft, what it was thought to hold, and what it held."""

    draft: Draft
    estimate: float
    measured: Measured

    def __str__(self) -> str:
        training, measured = self.draft.config.training, self.measured
        asked = f"{shape(training.patch_size)} x {training.batch_size}, {self.draft.size.words}"
        if measured.failed:
            return f"{asked}: estimated {gib(self.estimate)}, failed: {measured.failed}"
        off = 100 * (self.estimate / measured.peak - 1)
        return (
            f"{asked}: estimated {gib(self.estimate)}, held {gib(measured.peak)} ({off:+.0f} %), "
            f"{span(measured.seconds)} a step"
            + (f" (others took {100 * measured.waited:.0f} % of the processor)" if measured.waited > BUSY else "")
        )


@dataclass(frozen=True)
class Plan:
    """A config that was tried, why it is so, and what led to it; the last trial, if any, is of the config itself."""

    config: RunConfig
    reasons: dict[str, str]
    summary: Summary
    budget: Budget
    trials: tuple[Trial, ...]
    outlook: tuple[str, ...]

    @property
    def head(self) -> str:
        """What stands above the config."""
        summary, name = self.summary, one_line(self.summary.name)
        kind = "volumes" if summary.dims == 3 else "2D images"
        words = [
            f"{name}: {summary.cases} {kind} in {summary.groups} groups, {shape(summary.size_at(None))} voxels "
            f"of {shape(summary.spacing)} mm (medians), {len(summary.channels)} channels, {summary.labels} labels.",
            f"Planned for {self.budget}.",
            *(f"{line[:1].upper()}{line[1:]}." for line in self.outlook),
        ]
        if self.trials:
            words += ["", "Probes, memory at the peak of a step:"]
            words += [f"  {one_line(str(trial))}" for trial in self.trials]
        return "".join(f"# {line}".rstrip() + "\n" for line in words) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the config; `load_config` reads it back."""
        save_config(self.config, path, self.reasons, self.head)


def plan(
    root: str | Path,
    out: str | Path,
    *,
    network: str | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    memory: float | None = None,
    device: str | None = None,
    workers: int | None = None,
    probe: Probe = probe,
    estimate: Estimate = estimated_peak,
) -> Plan:
    """Plan a training on a dataset, try its steps, and write its config, with folds and facts of the data beside it.

    Args:
        out: YAML file of the config; the facts get its name with the ending `.data.json`, the folds `.folds.json`.
            Folds that are there already stay, and cases that they do not name join them.
        network: a name of `dlka_med.networks.NETWORKS`; None: of volumes `dlka_net_3d`, of images and slices
            `dlka_net_2d` for a long run on a GPU, else `dlka_unet`.
        minutes, epochs: what the training may take; None: 20 minutes on a CPU, 1000 epochs of 250 steps elsewhere.
        memory: GiB that it may take; None: most of what is free.
        device: as PyTorch names it; None: a GPU if there is one.
        workers: processes that read the cases; None: one per core.
        probe, estimate: what measures and what estimates a step.

    Raises:
        InputError: the dataset cannot be used for training, or nothing fits into the budget.
    """
    budget = budget_of(minutes, epochs, memory, device)
    dataset = read_dataset(root)
    named = with_names(DatasetConfig(root=str(Path(root).absolute())), dataset)
    facts = fingerprint(dataset.cases, dataset.channels, workers, progress("reading cases"))
    refuse_errors(dataset, facts)
    summary = summarise(dataset, facts)
    data = Data(summary, named.root, named.labels, network, named.regions_class_order)
    if network is not None and data.view[0].value != network:
        raise InputError(f"{root} holds 2D images, but {network} is trained on volumes: leave --network away")
    log.info("%s", _read(summary))
    folds_file = Path(out).absolute().with_suffix(".folds.json")
    kept = find_folds(dataset, folds_file) if folds_file.is_file() else None
    trials = tried(data, budget, probe, estimate)
    final = with_folds(trials[-1].draft, dataset, kept, folds_file)
    made = Plan(
        config=final.config,
        reasons={key: choice.reason for key, choice in final.choices.items()},
        summary=summary,
        budget=budget,
        trials=tuple(trials),
        outlook=tuple(_outlook(final, budget, trials[-1].measured)),
    )
    facts_file = Path(out).with_suffix(".data.json")
    summary.save(facts_file)
    made.save(out)
    for line in made.outlook:
        log.info("%s", line)
    log.info("%s is written, beside it the folds and, in %s, the facts of the data", out, facts_file)
    return made


def with_folds(draft: Draft, dataset: Dataset, kept: Folds | None, file: Path) -> Draft:
    """The draft with its folds in a file, so that a case that comes later moves nobody.

    Args:
        kept: folds of an earlier plan, which all cases have joined; None: they are dealt now.
    """
    asked = draft.config.dataset
    if asked.fold == "all":
        return draft
    folds = kept or find_folds(dataset, asked.folds)
    write_folds(file, folds)
    reason = f"{len(folds)} folds {draft.choices['dataset.folds'].reason}; cases that come later join them"
    return replace(draft, choices=draft.choices | {"dataset.folds": Choice(str(file), reason)})


def refuse_errors(dataset: Dataset, facts: Sequence[CaseFacts]) -> None:
    """Raise `InputError` if labelled cases have errors, in the words of a check."""
    root = dataset.root
    survey = Survey(replace(dataset, test=()), read_description(root / "dataset.json"), tuple(facts))
    errors = [finding for finding in apply(survey) if finding.severity == "error"]
    if errors:
        listed = "\n".join(lines(errors))
        raise InputError(
            f"{root} has errors and would not train:\n{listed}\ndlka check {root} tells all of it, its --fix OUT "
            "makes a mended copy"
        )


def budget_of(minutes: float | None, epochs: int | None, memory: float | None, device: str | None) -> Budget:
    """The budget that was asked for, on a device that is there.

    Raises:
        InputError: both limits of time are given, or there is no such device.
    """
    if minutes is not None and epochs is not None:
        raise InputError("--minutes and --epochs are both given: one of them ends the training")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"--device {place} cannot be used ({said}): name another one, such as cpu") from error
    on_gpu = place != "cpu"
    if minutes is None and epochs is None:
        minutes, epochs = (None, EPOCHS) if on_gpu else (MINUTES, None)
    precision = "fp32"
    if place.startswith("cuda"):
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    room = free_memory(place) if memory is None else memory * 2**30
    return Budget(place, room, minutes, epochs, cores(), precision)


def tried(data: Data, budget: Budget, probe: Probe, estimate: Estimate) -> list[Trial]:
    """Drafts and their probes, until one fits; the last is the plan.

    Raises:
        InputError: nothing fits, or not a step fits into the minutes.
    """
    speed = SPEED_OF_GPU if budget.on_gpu else SPEED_OF_CORE[data.dims] * budget.cores
    known: dict[str, float] = {}
    margin, trials = 1.0, []

    def needed(config: RunConfig) -> float:
        training = config.training
        key = repr((config.network, training.patch_size, training.batch_size, training.precision, training.ema))
        if key not in known:
            known[key] = estimate(config, budget.device)
        return margin * known[key]

    for _ in range(ROUNDS):
        draft = fitted(data, budget, speed, needed)
        expected = needed(draft.resolved)
        log.info("trying %s voxels x %d", shape(draft.config.training.patch_size), draft.size.batch)
        trial = Trial(draft, expected, probe(draft.resolved, budget.device))
        log.info("%s", trial)
        trials.append(trial)
        if trial.measured.failed:
            margin *= 1.3
            continue
        margin = max(margin * trial.measured.peak / expected, 0.5)
        speed = draft.window * draft.size.batch * draft.size.cost / trial.measured.seconds
        kept = trial.measured.peak + kept_free(budget, draft.config.training.workers) <= budget.memory
        if kept and _is_near(draft, fitted(data, budget, speed, needed)):
            break
    usable = [trial for trial in trials if not trial.measured.failed]
    if not usable or usable[-1] is not trials[-1]:
        raise InputError(
            f"the steps that should fit into {gib(budget.memory)} on {budget.device} did not "
            f"({trials[-1].measured.failed}): give less with --memory"
        )
    last = trials[-1]
    if last.measured.seconds > budget.seconds:
        raise InputError(
            f"one step takes {span(last.measured.seconds)}, so none fits into {budget.minutes:g} minutes: give "
            f"--minutes {ceil(last.measured.seconds * 100 / 60) / 10} or more"
        )
    timed = last.draft.timed(budget, last.measured.seconds)
    return [*trials[:-1], Trial(timed, last.estimate, last.measured)]


def _is_near(tried: Draft, better: Draft) -> bool:
    ratio = tried.window * tried.size.batch / (better.window * better.size.batch)
    return tried.size == better.size and 1 / NEAR < ratio < NEAR


def _read(summary: Summary) -> str:
    smallest = min(summary.present, key=lambda one: one.thickness)
    thickness = f"{rounded(smallest.thickness)} {'mm' if summary.dims == 3 else 'pixels'}"
    return (
        f"{summary.cases} cases in {summary.groups} groups: {shape(summary.size_at(None))} voxels of "
        f"{shape(summary.spacing)} mm (medians), {len(summary.channels)} channels, {len(summary.present)} of "
        f"{summary.labels} labels present, the thinnest {smallest.name!r} (pieces of {thickness})"
    )


def _outlook(draft: Draft, budget: Budget, measured: Measured) -> list[str]:
    summary = draft.data.viewed
    words = outlook(summary, budget, draft.steps, draft.seconds, draft.seen)
    held = measured.peak + kept_free(budget, draft.config.training.workers)
    if held > budget.memory:
        words.append(f"this training takes about {gib(held)}, more than the {gib(budget.memory)} given")
    if measured.waited > BUSY:
        words.append("other programs took a part of the processor while this was measured, so that times are rough")
    spacing, patch = draft.config.preprocessing.spacing, draft.config.training.patch_size
    voxels, usual = summary.voxels_at(spacing), summary.size_at(spacing)
    needed = case_bytes(voxels, summary.outputs, len(summary.channels), usual, patch)
    if not budget.on_gpu and needed > budget.memory:
        words.append(f"to predict the largest case takes about {gib(needed)}, more than the {gib(budget.memory)} given")
    return words
