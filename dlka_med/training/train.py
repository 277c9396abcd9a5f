"""From a config to a trained run folder."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.files import writable_folder
from dlka_med.inference.predictor import Predictor
from dlka_med.metrics import dice
from dlka_med.run_folder import RunFolder, build_run_network
from dlka_med.training.callbacks import Clock, Recorder, Validation
from dlka_med.training.checkpoint import SafeCheckpointIO, is_finished, usable_checkpoint
from dlka_med.training.data import RunData
from dlka_med.training.deformation import DeformationMonitor
from dlka_med.training.interruption import Interruption
from dlka_med.training.resume import resumed_config
from dlka_med.training.schedule import Budget
from dlka_med.training.start import start_from_run
from dlka_med.training.task import SegmentationTask

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

log = logging.getLogger("dlka_med")


def train(config: RunConfig, out: str | Path, *, resume: bool = False) -> RunFolder:
    """Train the network of a config and keep the weights that validate best.

    Validation predicts the held-out fold with the `Predictor` that ships, on the scans' own grids; test cases are
    never read. Interrupting is safe: the folder resumes after its last finished epoch.

    Args:
        config: with `resume`, differences to the folder's own config are refused unless they cannot change the
            result so far (`dlka_med.training.resume.CHANGEABLE`).
        out: the run folder to make; with `resume`, to go on with.
        resume: continue exactly: epoch, optimiser, schedule, random state, best score.

    Raises:
        InputError: the config, the data, the hardware or the folder cannot be used; nothing is lost.
        KeyboardInterrupt: after Ctrl-C; the folder can be resumed.
    """
    out = Path(out)
    if resume:
        config = resumed_config(config, RunFolder.open(out))
    elif rank_zero_only.rank == 0:
        RunFolder(out).refuse_started()
        writable_folder(out.parent)
    _check_hardware(config)
    data = RunData(config, out, resume)
    config, training = data.config, data.config.training
    torch.manual_seed(config.seed)
    fresh = not resume and training.start_from is None
    network = build_run_network(config, pretrained=fresh)
    if not resume:
        start_from_run(network, training)
    task = SegmentationTask(network, training, config.seed)
    clock = Clock(Budget(training.epochs, training.minutes, training.steps_per_epoch))
    validation = Validation(
        _scorer(data),
        data.split["validation"][: training.validation_cases],
        [name for name, value in sorted((config.dataset.labels or {}).items(), key=lambda i: i[1]) if value],
        training.validate_every,
        data.run,
        clock,
    )
    interruption = Interruption()
    with _our_words():
        trainer = pl.Trainer(
            max_epochs=training.epochs if training.epochs is not None else -1,
            accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[training.accelerator],
            devices=training.devices,
            num_nodes=training.nodes,
            strategy=training.strategy,
            precision=PRECISION[training.precision],
            gradient_clip_val=training.optimizer.gradient_clip,
            callbacks=[clock, validation, DeformationMonitor(), Recorder(clock, data.run), interruption],
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        checkpoint = usable_checkpoint(data.run, task) if resume else None
        if checkpoint is not None and is_finished(checkpoint, clock.budget):
            log.info("%s is finished: raise training.minutes or training.epochs to go on", out)
            return RunFolder.open(out)
        with interruption.told(data.run):
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
    return RunFolder.open(out)


def _scorer(data: RunData) -> Callable[[nn.Module, str], list[float | None]]:
    config, labels = data.config, data.config.dataset.labels or {}

    def score(network: nn.Module, case: str) -> list[float | None]:
        predictor = Predictor.of_run(network, config)
        prediction = predictor.segment(data.prepared(case))
        reference = data.reference(case)
        return [dice(prediction == index, reference == index) for index in range(1, len(labels))]

    return score


@contextmanager
def _our_words() -> Iterator[None]:
    """Lightning's advice stays off the screen, its errors do not; our lines show even if nobody set up logging."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    shown = logging.StreamHandler()
    if not log.hasHandlers():
        log.addHandler(shown)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        log.removeHandler(shown)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_hardware(config: RunConfig) -> None:
    training, found = config.training, torch.cuda.device_count()
    on_gpu = training.accelerator == "cuda" or (training.accelerator == "auto" and found > 0)
    if on_gpu and found < training.devices:
        raise InputError(
            f"training.devices is {training.devices}, but PyTorch finds {found} CUDA devices: "
            "lower it, or set training.accelerator to cpu"
        )
    if not on_gpu and training.devices * training.nodes > 1 and training.strategy == "auto":
        raise InputError("training.strategy is auto, but several CPU processes need ddp")
    if not on_gpu and training.precision == "fp16":
        raise InputError("training.precision is fp16, which needs a CUDA device: use bf16 or fp32")
