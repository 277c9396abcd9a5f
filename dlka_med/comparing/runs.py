"""The runs of a comparison: trained, predicted, and what became of them."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dlka_med.comparing.folder import ComparisonFolder, RunKey
from dlka_med.config.schema import RunConfig
from dlka_med.data.formats import label_files
from dlka_med.errors import InputError, WriteError
from dlka_med.files import whole_file
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed, lock_of
from dlka_med.text_files import read_text
from dlka_med.training.checkpoint import has_finished
from dlka_med.training.interruption import EndedEarly
from dlka_med.training.schedule import Budget
from dlka_med.training.train import train

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        weights: SHA-256 of the file that predicted.
        cases, seconds: that were predicted, and in which time, loading included.
        failed: why it was left out; None: it was not.
    """

    weights: str = ""
    cases: int = 0
    seconds: float = 0.0
    failed: str | None = None


def run_all(
    folder: ComparisonFolder, keys: Sequence[RunKey], configs: Mapping[str, RunConfig], device: str | None
) -> None:
    """Train and predict these runs in turn; what is finished stays, what has begun goes on.

    A run that another process is at work on is left to it. One that cannot be trained or predicted is told, kept as
    left out, and tried again by the next call.

    Raises:
        WriteError: the disk is full.
        EndedEarly: somebody has ended a training; the same call goes on.
        KeyboardInterrupt: after Ctrl-C; likewise.
    """
    for key in keys:
        with claimed(lock_of(folder.run(key).path), wait=False) as free:
            if not free:
                log.info("%s: another process is training it", key)
                continue
            try:
                run = trained(folder.run(key), config_of(folder, key, configs), str(key))
                outcome = _predicted(folder, key, run, device)
            except WriteError:
                raise
            except InputError as mistake:
                log.error("%s is left out: %s", key, mistake)
                outcome = Outcome(failed=str(mistake))
            _keep(folder.outcome_file(key), outcome)


def config_of(folder: ComparisonFolder, key: RunKey, configs: Mapping[str, RunConfig]) -> RunConfig:
    """The config of one run; one that is there keeps its own name of the file of folds, which may have moved."""
    config, run = configs[key.network], folder.run(key)
    folds = run.config.dataset.folds if run.started else config.dataset.folds
    dataset = config.dataset.model_copy(update={"folds": folds, "fold": key.fold})
    return config.model_copy(update={"dataset": dataset, "seed": key.seed})


def outcome_of(folder: ComparisonFolder, key: RunKey) -> Outcome | None:
    """What became of the run; None while it is not finished."""
    try:
        outcome = Outcome(**json.loads(read_text(folder.outcome_file(key))))
    except (OSError, InputError, ValueError, TypeError):
        return None
    return outcome if outcome.failed is not None or folder.run(key).weights_file.is_file() else None


def trained(run: RunFolder, config: RunConfig, name: str) -> RunFolder:
    """The run, trained to its end; one that has begun goes on.

    Args:
        name: of the run, for the log.

    Raises:
        InputError: as in `train`.
        EndedEarly: somebody has ended it.
    """
    if has_finished(run, Budget.of(config.training)):
        log.info("%s is finished", name)
        return RunFolder.open(run.path)
    log.info("%s %s, into %s", name, "goes on" if run.started else "is trained", run.path)
    made = train(config, run.path, resume=run.started, is_claimed=True)
    if not has_finished(run, Budget.of(config.training)):
        raise EndedEarly
    return made


def _predicted(folder: ComparisonFolder, key: RunKey, run: RunFolder, device: str | None) -> Outcome:
    """Predict the cases that validate; label maps of other weights are made again."""
    weights, out = hashlib.sha256(run.weights_file.read_bytes()).hexdigest(), folder.predictions(key.network, key.seed)
    before = outcome_of(folder, key)
    if before is None or before.weights != weights:
        before = Outcome(weights)
        _forget(out, run.split["validation"])
    start = time.monotonic()
    written = predict_images(
        run.path,
        run.config.dataset.root,
        out,
        split="validation",
        device="cpu" if run.config.training.accelerator == "cpu" else device,
        skip_existing=True,
        postprocess=False,
    )
    seconds = time.monotonic() - start if written else 0.0
    return Outcome(weights, before.cases + len(written), before.seconds + seconds)


def _forget(predictions: Path, cases: Sequence[str]) -> None:
    for case, file in label_files(predictions).items() if predictions.is_dir() else ():
        if case in cases:
            file.unlink()


def _keep(file: Path, outcome: Outcome) -> None:
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
