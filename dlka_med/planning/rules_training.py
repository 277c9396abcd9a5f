"""Rules for the training: recipe, sampling, augmentation and what to expect of it."""

from collections.abc import Sequence
from math import ceil, prod
from statistics import fmean

from dlka_med.data.growth import SMALLEST
from dlka_med.planning.choice import STEPS_PER_EPOCH, Budget, Choice, Choices, rounded, span
from dlka_med.planning.rules_data import fold_count
from dlka_med.planning.rules_grid import LEAST_STEPS, MANY_PIECES
from dlka_med.planning.summary import Summary

EPOCHS = 15  # of a run that minutes end
VALIDATIONS = 4
FIXED_COST = 0.1  # share of a step that does not shrink with its patch
FEW_VIEWS = 5  # of each case in a training


def duration(budget: Budget, steps: int, seconds: float) -> Choices:
    """Epochs, minutes and how both are cut."""
    if budget.minutes is None:
        per_epoch, epochs = STEPS_PER_EPOCH, budget.epochs or 1
        choices = {
            "epochs": Choice(epochs, f"the budget: about {span(steps * seconds)} at {span(seconds)} a step"),
            "minutes": Choice(None, "the epochs end the training"),
            "steps_per_epoch": Choice(per_epoch, "as nnU-Net"),
        }
    else:
        per_epoch = _round(steps / EPOCHS)
        epochs = max(steps // per_epoch, 1)
        choices = {
            "epochs": Choice(None, "the minutes end the training"),
            "minutes": Choice(budget.minutes, f"the budget: about {steps} steps of {span(seconds)}"),
            "steps_per_epoch": Choice(per_epoch, f"about {epochs} epochs"),
        }
    choices["clock"] = Choice("wall", "minutes as they pass")
    every = max(round(epochs / VALIDATIONS), 1) if epochs <= 100 else 10
    choices["validate_every"] = Choice(every, f"about {max(epochs // every, 1)} validations in all")
    choices["validation_cases"] = Choice(None, "all of the fold, as far as the time of a validation reaches")
    return {f"training.{key}": choice for key, choice in choices.items()}


def _round(steps: float) -> int:
    """The nearest of 5, 10, 25, 50, 100, 250."""
    return min((5, 10, 25, 50, 100, 250), key=lambda nice: max(nice / max(steps, 1), max(steps, 1) / nice))


def growing(dims: int, is_long: bool) -> Choice:
    """`training.growing`."""
    if is_long or dims == 2:
        return Choice(0.0, "patches are of their full size from the start")
    return Choice(0.6, "share of the run in which patches grow from half their size: their steps are fast")


def pace(dims: int, growing: float, ends_by_time: bool) -> float:
    """How many steps are made in the time of one of full size, over a training whose patches grow."""
    grown = [SMALLEST + (1 - SMALLEST) * (n + 0.5) / 100 for n in range(100)]
    costs = [FIXED_COST + (1 - FIXED_COST) * size**dims for size in grown]
    if ends_by_time:  # they grow with the time, so that most steps are small ones
        return 1 - growing + growing * fmean(1 / cost for cost in costs)
    return 1 / (1 - growing + growing * fmean(costs))


def optimizer(dims: int, steps: int, deforms: bool = True) -> Choices:
    """How weights move: fast where steps are few.

    Args:
        steps: in how many of full size the time would go.
        deforms: whether the network predicts offsets.
    """
    at_start, offset_rate = (6e-3, 0.3) if dims == 3 else (3e-3, 0.1)
    rate = max(at_start * min((2000 / max(steps, 1)) ** 0.75, 1), 3e-4)
    settings = {
        "name": ("adamw", "sure in short runs and in long ones"),
        "learning_rate": (
            float(f"{rate:.1g}"),
            f"large steps for a short run, smaller ones for a long one ({steps} steps at full size)",
        ),
        "offset_rate": (offset_rate, offset_reason(deforms)),
        "rates": ({}, "all modules learn alike"),
        "weight_decay": (1e-2, "usual for adamw"),
        "momentum": (0.99, "of sgd only"),
        "schedule": ("cosine", "falls to zero with the end of the run"),
        "warmup": (0.05, "share of the run in which the rate rises: adamw has to learn its scales"),
        "gradient_clip": (1.0, "one bad patch must not undo a hundred steps"),
    }
    return {f"training.optimizer.{key}": Choice(*pair) for key, pair in settings.items()}


def offset_reason(deforms: bool) -> str:
    """Why `training.optimizer.offset_rate` is as it is."""
    if deforms:
        return "factor for what predicts offsets: at the full rate they run to their limit"
    return "of deformable layers, which this network has none of"


def loss() -> Choices:
    """Dice and cross-entropy, equally."""
    settings = {
        "dice_weight": (1.0, "Dice sees small structures"),
        "cross_entropy_weight": (1.0, "cross-entropy sees every voxel"),
        "include_background": (False, "the background would only dilute the Dice"),
        "scale_weights": (None, "halved from scale to scale"),
    }
    return {f"training.loss.{key}": Choice(*pair) for key, pair in settings.items()}


def oversampling(summary: Summary, patch_mm: Sequence[float], size_mm: Sequence[float]) -> Choice:
    """`training.foreground_oversampling`: more, the less often a random patch meets the rarest structure.

    Args:
        patch_mm, size_mm: lengths of the patch, 0 across slices, and of a case, along all axes of the case.
    """
    chances = {}
    for one in summary.present:
        chances[one.name] = prod(
            min((patch + wide) / max(size, patch), 1)
            for patch, wide, size in zip(patch_mm, one.extent, size_mm, strict=True)
        )
    rarest = min(chances, key=lambda name: chances[name])
    chance = chances[rarest]
    share = 0.33 if chance > 0.2 else 0.5 if chance > 0.05 else 0.67
    how = "always" if chance > 0.95 else f"in {100 * chance:.2g} % of its cases"
    return Choice(share, f"a random patch meets {rarest!r}, the rarest, {how}; the classes of a case take turns")


def augmentation(summary: Summary, dims: int, is_long: bool, flips: Sequence[int] | None) -> Choices:
    """Random changes: those of nnU-Net for a long run; fewer and smaller ones for a short one.

    Args:
        flips: axes that may be mirrored; None: not known yet.
    """
    scattered = max((one.pieces for one in summary.present), default=0) >= MANY_PIECES
    free = dims == 2 and summary.dims == 2 and scattered
    mild = not is_long and dims == 3
    turn = (180, "many small things have no upright") if free else (30, "as nnU-Net")
    short = "a short run has no time to learn what it will not meet"
    settings = {
        "flip_axes": (
            None if flips is None else list(flips),
            "left and right differ" if flips is not None and len(flips) < dims else "mirrored it is as good",
        ),
        "flip_probability": (0.5, "each axis every second time"),
        "rotate_probability": (0.3 if not is_long else 0.2, "patients lie differently"),
        "rotate_degrees": (15, short) if mild else turn,
        "scale_probability": (0.3 if not is_long else 0.2, "sizes differ"),
        "scale_range": ([0.85, 1.15], short) if mild else ([0.7, 1.4], "as nnU-Net"),
        "interpolation": ("linear", "cubic takes twice the time"),
        "noise_probability": (0.1, "as nnU-Net"),
        "noise_std": (0.1, "of standardised grey values"),
        "blur_probability": (0.0, short) if mild else (0.2 if is_long else 0.1, "scans differ in sharpness"),
        "blur_sigma": ([0.5, 1.0], "voxels"),
        "brightness_probability": (0.15, "as nnU-Net, each channel by itself"),
        "brightness_range": ([0.8, 1.2] if mild else [0.75, 1.25], "the image is multiplied by it"),
        "contrast_probability": (0.15, "as nnU-Net"),
        "contrast_range": ([0.8, 1.2] if mild else [0.75, 1.25], "distances to the mean are multiplied by it"),
        "gamma_probability": (0.15 if mild else 0.3 if is_long else 0.2, "scanners differ in their curves"),
        "gamma_range": ([0.8, 1.25] if mild else [0.7, 1.5], "exponent of grey values"),
        "low_resolution_probability": (0.25, "as nnU-Net") if is_long else (0.0, short),
        "low_resolution_range": ([0.5, 1.0], "zoom of the simulated coarse scan"),
    }
    if mild:
        settings["flip_axes"] = ([], short)
        settings["flip_probability"] = (0.0, "nothing is mirrored")
    return {f"training.augmentation.{key}": Choice(*pair) for key, pair in settings.items()}


def hardware(budget: Budget, is_long: bool) -> Choices:
    """Where and how the network runs."""
    kind = budget.device.partition(":")[0]
    workers = max(min(8, budget.cores - 1), 1) if budget.on_gpu else 1
    settings = {
        "ema": (0.999, "averaged weights, over the last thousand steps")
        if is_long
        else (0.99, "averaged weights: a short run ends noisily"),
        "precision": (budget.precision, "what the device computes best"),
        "accelerator": (kind if kind in ("cpu", "cuda") else "auto", "the device that was probed"),
        "devices": (1, "the plan was measured on one"),
        "nodes": (1, "one machine"),
        "strategy": ("auto", "one device shares with nobody"),
        "workers": (workers, "loaders" if budget.on_gpu else "one loader: the cores are for the network"),
        "loggers": ([], "the run folder has all records; [tensorboard], mlflow and wandb show them elsewhere"),
    }
    return {f"training.{key}": Choice(*pair) for key, pair in settings.items()}


def outlook(summary: Summary, budget: Budget, steps: int, seconds: float, seen: float) -> list[str]:
    """What to expect, in lines.

    Args:
        seen: voxels of a step as a share of those of a median case.
    """
    training = max(summary.cases * (1 - 1 / fold_count(summary) if summary.groups > 1 else 1), 1)
    views = steps * seen / training
    lines = [f"about {steps} steps of {span(seconds)}; each training case is seen {rounded(views)} times over"]
    if budget.minutes is not None and (steps < LEAST_STEPS or views < FEW_VIEWS):
        more = max(LEAST_STEPS / max(steps, 1), FEW_VIEWS / max(views, 1e-9))
        lines.append(
            f"this is too short to reach far: expect rough outlines at best; from about --minutes "
            f"{ceil(more * budget.minutes)} on it is worth judging"
        )
    if budget.minutes is None and steps * seconds > 14 * 86400:
        lines.append(f"{budget.epochs} epochs take about {span(steps * seconds)} here: --minutes plans for less time")
    lacking = [one.name for one in summary.structures if not one.cases]
    if lacking:
        named = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        lines.append(f"{len(lacking)} of {summary.labels} labels are in no case and cannot be learned: {named}")
    return lines
