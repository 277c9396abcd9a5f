"""One optimisation step of a segmentation network, in Lightning's words."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dlka_med.config.labels import LabelScheme
from dlka_med.config.training import Training as TrainingConfig
from dlka_med.losses import PyramidLoss
from dlka_med.training.parameters import check_rates, frozen_modules, make_optimizer
from dlka_med.training.schedule import learning_rate_factor


class SegmentationTask(pl.LightningModule):
    """Network, loss and optimiser; `progress` (0 to 1) drives the learning rate and is set by the clock.

    `row` collects what is known of the current epoch: the recorder writes it down.
    """

    def __init__(self, network: nn.Module, training: TrainingConfig, labels: LabelScheme, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        self._frozen = frozen_modules(network, training.freeze)
        check_rates(network, training.optimizer)  # before the cases are prepared
        self.training_config = training
        self.seed = seed
        self.loss = PyramidLoss.of(training.loss, labels, network.scale_strides)
        self.averaged = None if training.ema is None else _average(network, training.ema)
        self.progress = 0.0
        self.row: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self.train()

    @property
    def shipped_network(self) -> nn.Module:
        """The network that validation judges and the run folder keeps."""
        return self.network if self.averaged is None else self.averaged.module

    def train(self, mode: bool = True) -> "SegmentationTask":
        """As of every module, but that frozen ones keep their norms' statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        image = batch["image"]
        image = image.to(memory_format=torch.channels_last_3d if image.ndim == 5 else torch.channels_last)
        loss = self.loss(self.network.forward_pyramid(image), batch["label"])
        self._losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.network, self.training_config.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["row"] = self.row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.row = checkpoint.get("row", {})

    def on_train_epoch_start(self) -> None:
        """Randomness of an epoch follows from its number, so that a resumed run draws the same."""
        torch.manual_seed(self.seed + 1_000_003 * self.trainer.current_epoch + 7919 * self.global_rank)
        self.row, self._losses = {}, []

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        settings = self.training_config.optimizer
        rate = settings.learning_rate * learning_rate_factor(self.progress, settings.schedule, settings.warmup)
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = rate * group["rate"]
        self.row["learning_rate"] = rate

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def mean_loss(self) -> float:
        """Mean training loss of the epoch over its steps and devices; NaN if there was no step."""
        if not self._losses:
            return float("nan")
        return float(self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean"))


def _average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential average whose decay grows with the number of steps, so that short runs forget the start."""

    def blend(averages: Sequence[Tensor], new: Sequence[Tensor], count: Tensor) -> None:
        # The count stays a tensor: to read it, a GPU would have to finish all that it was given.
        share = 1 - ((1 + count) / (10 + count)).clamp(max=decay)
        steps = torch._foreach_sub(new, averages)
        torch._foreach_mul_(steps, share)
        torch._foreach_add_(averages, steps)

    return AveragedModel(network, multi_avg_fn=blend).requires_grad_(False)
