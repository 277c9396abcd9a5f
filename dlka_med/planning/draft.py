"""All rules in turn: a summary, a budget and what is known of the device become a config."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod

from dlka_med.config.labels import Declared
from dlka_med.config.loading import NETWORKS
from dlka_med.config.schema import RunConfig
from dlka_med.data.sides import flip_axes
from dlka_med.errors import InputError
from dlka_med.planning import rules_data, rules_grid, rules_training
from dlka_med.planning.choice import LONG, Budget, Choice, Choices, gib, nested
from dlka_med.planning.memory import kept_free
from dlka_med.planning.rules_network import network, sizes
from dlka_med.planning.size import Size
from dlka_med.planning.summary import Summary

MOST_VOXELS = {2: 512**2, 3: 160**3}  # of a window on a GPU; more only makes steps slower
MOST_ON_CPU = {2: 256**2, 3: 80**3}
SHRINK = 0.95  # below what the estimate says
LEAST_IN_TIME = {2: 128**2, 3: 32**3}  # a window that shows something is worth more than many steps
SMALLEST = {2: 64**2, 3: 16**3}

Estimate = Callable[[RunConfig], float]


@dataclass(frozen=True)
class Data:
    """What is to be planned for.

    Args:
        wanted: a network that was asked for.
        published: whether the networks of the paper can be afforded.
    """

    summary: Summary
    root: str
    labels: Declared
    wanted: str | None = None
    regions_class_order: tuple[int, ...] | None = None
    published: bool = False

    @cached_property
    def view(self) -> tuple[Choice, Choice]:
        """Network, and the plane of its slices."""
        return rules_grid.network_and_plane(self.summary, self.wanted, published=self.published)

    @property
    def dims(self) -> int:
        """Of the network's window."""
        return 2 if self.summary.dims == 2 or self.view[1].value is not None else 3

    @cached_property
    def viewed(self) -> Summary:
        """The cases as the network sees them: slices are not cropped."""
        return self.summary if self.view[1].value is None else self.summary.uncropped()

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Axes of a case that the window has."""
        return rules_grid.window_axes(self.summary, self.view[1].value)

    @cached_property
    def full(self) -> Choice:
        """Spacing before any thought of the budget."""
        return rules_grid.full_spacing(self.summary)

    @cached_property
    def whole(self) -> float:
        """Voxels of a median case, of slices those of one."""
        size = self.viewed.size_at(self.full.value)
        return prod(size[axis] for axis in self.axes)


@dataclass(frozen=True)
class Draft:
    """A config that may become the plan.

    Args:
        choices: every key of the config.
        size: of the network.
        is_long: whether it is the recipe of a long training.
        voxels: that the window was allowed to have.
        steps, seconds: of the training, and of one of them, as they are expected on average.
        seen: share of a median case that a step sees on average.
    """

    data: Data
    choices: Choices
    size: Size
    is_long: bool
    voxels: float
    steps: int
    seconds: float
    seen: float

    @cached_property
    def config(self) -> RunConfig:
        return RunConfig.model_validate(nested(self.choices))

    @property
    def resolved(self) -> RunConfig:
        """With the names of channels and labels, as it will be trained."""
        names = {
            "channels": tuple(one.name for one in self.data.summary.channels),
            "labels": self.data.labels,
            "regions_class_order": self.data.regions_class_order,
        }
        return self.config.model_copy(update={"dataset": self.config.dataset.model_copy(update=names)})

    @property
    def window(self) -> int:
        """Voxels of the window."""
        return prod(self.config.training.patch_size)

    def timed(self, budget: Budget, seconds: float) -> "Draft":
        """The same network and window where a step takes so many seconds."""
        per_second = self.window * self.size.batch / seconds
        return drafted(self.data, budget, self.size, self.is_long, self.voxels, per_second)


def drafted(data: Data, budget: Budget, size: Size, is_long: bool, voxels: float, per_second: float) -> Draft:
    """The config of a network of this size with a window of at most so many voxels.

    Args:
        is_long: whether it gets the recipe of a long training.
        per_second: voxels that this network trains on.
    """
    summary, axes, (name, plane) = data.viewed, data.axes, data.view
    spacing = rules_grid.coarser_spacing(summary, data.full, axes, voxels, summary.present)
    whole, mm = summary.size_at(spacing.value), spacing.value or (1.0,) * summary.dims
    steps_mm, extent = [mm[axis] for axis in axes], [whole[axis] for axis in axes]
    patch, strides = rules_grid.patch_and_strides(extent, steps_mm, voxels, rules_grid.DOWNSAMPLING[name.value])
    seconds = prod(patch) * size.batch / per_second
    growing = rules_training.growing(data.dims, is_long)
    pace = rules_training.pace(data.dims, growing.value, ends_by_time=budget.minutes is not None)
    full_steps, steps = max(budget.steps(seconds), 1), max(budget.steps(seconds / pace), 1)
    # A slice has no depth, and any slice of a case may be drawn.
    patch_mm = [patch[axes.index(axis)] * mm[axis] if axis in axes else 0.0 for axis in range(summary.dims)]
    size_mm = [n * step for n, step in zip(whole, mm, strict=True)]
    choices = {
        "name": rules_data.run_name(summary, name.value),
        "seed": Choice(0, "of all that is drawn"),
        **rules_data.dataset(summary, data.root, plane),
        **rules_data.preprocessing(summary, spacing, axes),
        "network.name": name,
        **network(name.value, data.dims, size, strides, is_long),
        **rules_training.duration(budget, steps, seconds / pace),
        "training.batch_size": Choice(size.batch, "patches of a step"),
        "training.patch_size": Choice(list(patch), rules_grid.patch_reason(patch, extent, strides)),
        "training.growing": growing,
        "training.foreground_oversampling": rules_training.oversampling(summary, patch_mm, size_mm),
        "training.start_from": Choice(None, "a run folder to fine-tune"),
        "training.start_partially": Choice(False, "true: other classes, channels or sizes than in that run"),
        "training.freeze": Choice([], "all of the network learns"),
        **rules_training.optimizer(data.dims, full_steps, deforms="offset_limit" in NETWORKS[name.value].model_fields),
        **rules_training.loss(),
        **rules_training.augmentation(summary, data.dims, is_long, None),
        **rules_training.hardware(budget, is_long),
        **rules_data.inference(data.dims, summary, size.batch if budget.on_gpu else 1),
    }
    inside = [min(n, there) for n, there in zip(patch, extent, strict=True)]
    # Of slices a step sees a part of one; a case has as many as the third axis is long.
    depth = prod(n for axis, n in enumerate(whole) if axis not in axes)
    seen = prod(inside) * size.batch / (prod(extent) * depth * pace)
    draft = Draft(data, choices, size, is_long, voxels, steps, seconds / pace, seen)
    changes = rules_training.augmentation(summary, data.dims, is_long, flip_axes(draft.resolved))
    return replace(draft, choices=choices | changes)


def fitted(data: Data, budget: Budget, speed: float, estimate: Estimate) -> Draft:
    """The best draft that the budget allows.

    Args:
        speed: voxels per second that a network of cost 1 trains on, see `Size`.
        estimate: bytes that a step of a config holds.

    Raises:
        InputError: nothing fits.
    """
    most = (MOST_VOXELS if budget.on_gpu else MOST_ON_CPU)[data.dims]
    small = sizes(data.view[0].value, data.dims, published=False)[0]
    per_step = min(max(data.whole, SMALLEST[data.dims]), most / 4) * small.batch
    is_long = budget.steps(5 * per_step * small.cost / speed) >= LONG
    data = replace(data, published=is_long and budget.on_gpu)
    need = 0.0
    for size in sizes(data.view[0].value, data.dims, data.published):
        per_second = speed / size.cost
        voxels = rules_grid.window_voxels(data.summary, data.whole, per_second, budget.seconds, size.batch)
        voxels = max(min(voxels, most), LEAST_IN_TIME[data.dims])
        draft = drafted(data, budget, size, is_long, voxels, per_second)
        room = budget.memory - kept_free(budget, draft.config.training.workers)
        while (need := estimate(draft.resolved)) > room:
            voxels = min(draft.window * max(room / need, 0.4) * SHRINK, voxels * SHRINK)
            if voxels < max(size.least, SMALLEST[data.dims] / 2):
                break
            draft = drafted(data, budget, size, is_long, voxels, per_second)
        else:
            return draft
    least = need + kept_free(budget, 1)
    raise InputError(
        f"no network fits into {gib(budget.memory)}: the smallest, with windows of "
        f"{list(draft.config.training.patch_size)} voxels, takes about {gib(least)}: give --memory "
        f"{ceil(10 * least / 2**30) / 10} or more, free memory, or train on another --device"
    )
