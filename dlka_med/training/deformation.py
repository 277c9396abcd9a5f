"""What the deformable layers do while a network trains: neither a loss nor a Dice shows that one has died."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from dlka_med.layers import Deformation, deformable_layers, effects_of_layers, measure_deformation
from dlka_med.training.task import SegmentationTask

STUCK = 0.5  # share of the kernel points at the limit
LEAVING = 0.1  # share of the kernel points that deforming took out of the image
STILL = 1e-3  # voxels of mean displacement
IDLE = 1e-3  # share of the logits' deviation that a layer changes

log = logging.getLogger("dlka_med")


class DeformationMonitor(pl.Callback):
    """After each validation: displacement and share outside the image of every deformable layer, for the records.

    Measured with the network that ships on the images of the epoch's last training batch. A layer whose kernel points
    leave the image or stick to their limit is warned of, at the end of the training one that never moved, too, and
    one on which the logits do not depend.
    """

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self.warned: set[str] = set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: SegmentationTask, outputs: Any, batch: Any, index: int
    ) -> None:
        self.images = batch["image"]

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        if "validation_seconds" not in task.row or self.images is None or not trainer.is_global_zero:
            return
        network = task.shipped_network
        with trainer.precision_plugin.forward_context():
            measured = measure_deformation(network, self.images)
            if not measured:
                return
            task.row |= columns(measured)
            log.info(summary(measured))
            self._warn(measured, _learning(task.network) if trainer.should_stop else ())
            if trainer.should_stop:
                tell_effects(effects_of_layers(network, self.images))

    def _warn(self, measured: Mapping[str, Deformation], learned: Collection[str]) -> None:
        """Warn of layers; of those that never moved among the ones that have `learned` to the end."""
        for name, layer in measured.items():
            if name in self.warned:
                continue
            if layer.outside > layer.outside_undeformed + LEAVING:
                self.warned.add(name)
                log.warning(
                    "deformation: %.0f %% of the kernel points of %s lie outside the image (%.0f %% before they move), "
                    "where they read and learn nothing: set network.offset_limit, or lower "
                    "training.optimizer.offset_rate",
                    100 * layer.outside,
                    name,
                    100 * layer.outside_undeformed,
                )
            elif layer.at_limit > STUCK:
                self.warned.add(name)
                log.warning(
                    "deformation: %.0f %% of the kernel points of %s are at network.offset_limit, where they hardly "
                    "learn: raise it, or lower training.optimizer.offset_rate",
                    100 * layer.at_limit,
                    name,
                )
        still = [name for name in learned if measured[name].displacement < STILL]
        if still:
            log.warning(
                "deformation: the kernel points of %d of %d layers never moved (less than %g voxels): %s; raise "
                "training.optimizer.offset_rate or network.layer_scale, or use adamw",
                len(still),
                len(learned),
                STILL,
                ", ".join(still),
            )


def _learning(network: nn.Module) -> list[str]:
    """Names of the deformable layers that are not frozen."""
    layers = deformable_layers(network)
    return [name for name, layer in layers.items() if any(p.requires_grad for p in layer.parameters())]


def columns(measured: Mapping[str, Deformation]) -> dict[str, float]:
    """Columns of `metrics.csv`: displacement in voxels of the layer's map, and shares of kernel points."""
    row = {}
    for name, layer in measured.items():
        row[f"displacement {name}"] = layer.displacement
        row[f"outside {name}"] = layer.outside
        row[f"outside undeformed {name}"] = layer.outside_undeformed
        row[f"at limit {name}"] = layer.at_limit
    return row


def summary(measured: Mapping[str, Deformation]) -> str:
    """One line of the log."""
    moved = [layer.displacement for layer in measured.values()]
    held = max(layer.at_limit for layer in measured.values())
    gone = [layer.outside - layer.outside_undeformed for layer in measured.values()]
    return (
        f"deformation of {len(measured)} layers: kernel points move {min(moved):.2g} to {max(moved):.2g} voxels on "
        f"average; deforming changes the share outside the image by {100 * min(gone):+.0f} to "
        f"{100 * max(gone):+.0f} percentage points; at most {100 * held:.0f} % of a layer's points are at the limit"
    )


def tell_effects(effects: Mapping[str, tuple[float, float]]) -> None:
    """Log how much the logits depend on each deformable layer, and warn of those they do not depend on.

    Args:
        effects: of `effects_of_layers`.
    """
    log.info("effect on the logits, as a share of their deviation, of zeroing a layer / only its offsets:")
    for name, (layer, offsets) in effects.items():
        log.info("  %s: %.2g / %.2g", name, layer, offsets)
    if idle := [name for name, (layer, _) in effects.items() if layer < IDLE]:
        log.warning(
            "deformation: %d of %d layers change the logits by less than %g %% of their deviation, so that the network "
            "does without them: %s; train longer, or raise network.layer_scale",
            len(idle),
            len(effects),
            100 * IDLE,
            ", ".join(idle),
        )
