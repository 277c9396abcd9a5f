"""From a config to a trained run folder."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.backends import cudnn

from dlka_med.config.labels import IGNORED
from dlka_med.config.schema import RunConfig
from dlka_med.config.training import Training
from dlka_med.errors import InputError
from dlka_med.files import remove_unfinished, writable_folder
from dlka_med.inference.predictor import Predictor
from dlka_med.metrics import dice
from dlka_med.paths import could_hold_files
from dlka_med.run_folder import RunFolder, build_run_network
from dlka_med.shards import claimed, lock_of
from dlka_med.training.callbacks import Recorder, Safekeeping
from dlka_med.training.checkpoint import SafeCheckpointIO, is_finished, latest_checkpoint, progress_of
from dlka_med.training.clock import TIME_OF, Clock
from dlka_med.training.data import RunData
from dlka_med.training.deformation import DeformationMonitor
from dlka_med.training.interruption import Interruption
from dlka_med.training.log import training_words
from dlka_med.training.loggers import refuse_missing
from dlka_med.training.pictures import Pictures
from dlka_med.training.reporting import Reporter
from dlka_med.training.resume import resumed_config
from dlka_med.training.schedule import Budget, learning_rate_factor
from dlka_med.training.start import first_network
from dlka_med.training.task import SegmentationTask
from dlka_med.training.validation import Validation

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

log = logging.getLogger("dlka_med")


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    extend: bool = False,
    is_claimed: bool = False,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> RunFolder:
    """Train the network of a config and keep the weights that validate best.

    Validation predicts the held-out fold with the `Predictor` that ships, on the scans' own grids; test cases are
    never read. Interrupting is safe: the folder resumes after its last finished epoch.

    Args:
        config: with `resume`, differences to the folder's own config are refused unless they cannot change the
            result so far (`dlka_med.training.resume.CHANGEABLE`).
        out: the run folder to make; with `resume`, to go on with.
        resume: continue exactly: epoch, optimiser, schedule, random state, best score.
        extend: with `resume`, `config` may have more epochs or minutes than the run was made for. Its learning rate
            goes back up to where the longer course has it, and falls to zero at the new end; the log says so.
        is_claimed: the caller keeps other processes out of the folder.
        reasons: why values of the config are what they are, by dotted key; they are kept in the folder.

    Raises:
        InputError: the config, the data, the hardware or the folder cannot be used, or another process trains into
            it; nothing is lost.
        KeyboardInterrupt: after Ctrl-C; the folder can be resumed.
    """
    run = RunFolder(Path(out))
    with training_words(run), nullcontext() if is_claimed else _claimed(run):
        before = None
        if resume:
            before = RunFolder.open(run.path).config.training
            config = resumed_config(config, RunFolder.open(run.path), extend=extend)
        elif rank_zero_only.rank == 0:
            run.refuse_started()
            writable_folder(run.path.parent)
        _check_hardware(config)
        refuse_missing(config.training.loggers)
        if rank_zero_only.rank == 0:
            remove_unfinished(run.path)
        checkpoint = latest_checkpoint(run) if resume else None
        if checkpoint is not None and before is not None:
            _tell_course(checkpoint, before, config.training)
        interruption = Interruption(run)
        with interruption.told():
            data = RunData(config, run.path, resume, reasons)
            if checkpoint is None:
                network = first_network(data.config, data.held_out)
            else:
                network = build_run_network(data.config, pretrained=False)
            task = SegmentationTask(network, data.config.training, data.config.dataset.scheme, config.seed)
            _fit(task, data, checkpoint, interruption)
    return RunFolder.open(run.path)


def _tell_course(checkpoint: Path, before: Training, now: Training) -> None:
    """Say where the learning rate goes on if the run became longer or shorter."""
    if (before.epochs, before.minutes) == (now.epochs, now.minutes) or rank_zero_only.rank != 0:
        return
    settings, rates = now.optimizer, []
    for training in (before, now):
        progress = progress_of(checkpoint, Budget.of(training))
        rates.append(settings.learning_rate * learning_rate_factor(progress, settings.schedule, settings.warmup))
    log.info(
        "the run gets another length: its learning rate, which stood at %.2e, goes on at %.2e and falls to zero at the "
        "new end",
        *rates,
    )


@contextmanager
def _claimed(run: RunFolder) -> Iterator[None]:
    """Keep other processes out of the folder; those that train together have one that does."""
    if rank_zero_only.rank != 0:
        yield
        return
    could_hold_files(run.path)
    with claimed(lock_of(run.path), wait=False) as free:
        if not free:
            raise InputError(f"another process is training into {run.path}: wait for it, or name another folder")
        yield


def _fit(task: SegmentationTask, data: RunData, checkpoint: Path | None, interruption: Interruption) -> None:
    config, training, run = data.config, data.config.training, data.run
    clock = Clock(Budget.of(training), TIME_OF[training.clock], interruption.asked)
    pictures = Pictures(data)
    validation = Validation(
        _scorer(data, pictures),
        data.split["validation"][: training.validation_cases],
        data.is_labelled,
        config.dataset.scheme.names,
        training.validate_every,
        run,
        clock,
    )
    if checkpoint is not None and is_finished(checkpoint, task, clock.budget):
        log.info("%s is finished: dlka train %s --extend N goes on for longer", run.path, run.path)
        return
    if not validation.cases and rank_zero_only.rank == 0:
        log.info("dataset.fold is all: nothing validates, and the latest weights are kept without a score")
    recorder = Recorder(clock, run)
    reporter = Reporter(config, run, recorder, validation, pictures)
    with _fastest_algorithms():
        trainer = pl.Trainer(
            max_epochs=-1,  # the clock ends the run
            accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[training.accelerator],
            devices=training.devices,
            num_nodes=training.nodes,
            strategy=training.strategy,
            precision=PRECISION[training.precision],
            gradient_clip_val=training.optimizer.gradient_clip,
            callbacks=[
                clock,
                Safekeeping(clock, validation, run),
                validation,
                DeformationMonitor(),
                recorder,
                reporter,
                interruption,
            ],
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        with reporter.ending():
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
    if task.progress < 1:
        which = "validated" if validation.cases else "its latest"
        log.info("ended as asked, with %s weights: dlka train %s --resume goes on to its end", which, run.path)


def _scorer(data: RunData, pictures: Pictures) -> Callable[[nn.Module, str], list[float | None]]:
    config, scheme = data.config, data.config.dataset.scheme

    def score(network: nn.Module, case: str) -> list[float | None]:
        predictor = Predictor.of_config(network, config)
        prediction = predictor.segment(data.prepared(case))
        reference = data.reference(case)
        prediction[reference == IGNORED] = IGNORED
        if config.training.loggers:
            pictures.keep(case, prediction, reference)
        return [dice(scheme.mask(name, prediction), scheme.mask(name, reference)) for name in scheme.names]

    return score


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """All patches and windows are of one size, for which cuDNN may look for its fastest algorithms."""
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


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
