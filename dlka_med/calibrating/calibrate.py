"""A trained run, or the folds of a cross-validation, gets the temperature of its probabilities."""

from pathlib import Path
from typing import Any

from dlka_med.calibrating.held_out import held_out
from dlka_med.calibrating.result import Calibration
from dlka_med.calibrating.sampling import VECTORS, Sample, draw
from dlka_med.calibrating.temperature import cross_fitted, deal_patients, fit_temperature, warn_of_bounds
from dlka_med.data.cases import Case
from dlka_med.data.intensity import named_intensity
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.errors import InputError
from dlka_med.files import writable_folder
from dlka_med.inference.device import find_device
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.inference.windows import Progress
from dlka_med.progress import progress, within
from dlka_med.run_folder import FoldsFolder, RunFolder


def calibrate(path: str | Path, *, device: str | None = None, vectors: int = VECTORS) -> dict[str, Any]:
    """Fit one temperature on the cases that validated, and write `calibration.json` and `reliability.png`.

    Each case is predicted as `dlka predict` does it, by weights that were not trained on it: of a folder of folds by
    the fold that held it out, and the one temperature is that of all folds, each of which gets the file too. Voxels are
    taken on the scan's own grid, where the reference was drawn and probabilities are given. A calibration that is there
    is replaced. The best weights were chosen on the same cases, so that these may be a little better than new ones.

    Args:
        path: run folder, or folder of folds.
        device: as PyTorch names it; None: cuda where there is one.
        vectors: logits of prepared voxels to keep of each case, near the foreground and far from it.

    Returns:
        The content of `calibration.json`, for `format_calibration`.

    Raises:
        InputError: the run, its dataset or the device cannot be used, nothing validates, or fewer than two patients
            show a structure.
    """
    runs, place = held_out(path), find_device(device)
    writable_folder(Path(path))
    samples: list[Sample] = []
    show, done, total = progress("predicting"), 0, sum(len(one.cases) for one in runs)
    weights = {one.run.path.resolve().name: digest_of_weights(one.run) for one in runs}
    for one in runs:
        predictor = Predictor.of_config(one.run.load_network(), one.run.config, device=place)
        for case in one.cases:
            samples += _sampled(predictor, one.run, case, vectors, within(show, done, total))
            done += 1
            show(done, total)
    parts = deal_patients(samples)
    temperature = fit_temperature(samples)
    warn_of_bounds(temperature)
    scheme = runs[0].run.config.dataset.scheme
    result = Calibration(
        temperature,
        weights,
        cases=total,
        patients=len({_patient(case) for one in runs for case in one.cases}),
        before=[(sample, 1.0) for sample in samples],
        after=cross_fitted(parts),
        regions=scheme.names if scheme.has_regions else (),
    )
    return result.write(_folder(path), [one.run for one in runs])


def _sampled(predictor: Predictor, run: RunFolder, case: Case, vectors: int, show: Progress) -> list[Sample]:
    try:
        prepared = _prepared(run, case)
        logits = predictor.prepared_logits(prepared, show)
        return draw(logits, prepared, run.config.dataset.scheme, _patient(case), vectors)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"case {case.id}: {lacking_memory(error, predictor.device)}") from error


def _prepared(run: RunFolder, case: Case) -> Prepared:
    config = run.config
    channels = config.dataset.channels or ()
    prepared = prepare(case, config.preprocessing, channels, config.dataset.scheme)
    return prepared.normalised(named_intensity(config.preprocessing, channels))


def _patient(case: Case) -> tuple[bool, str]:
    return (False, case.id) if case.group is None else (True, case.group)


def _folder(path: str | Path) -> RunFolder | FoldsFolder:
    folds = FoldsFolder(Path(path))
    return folds if folds.folds_file.is_file() else RunFolder(Path(path))
