"""A trained run, or the folds of a cross-validation, gets the temperature of its probabilities."""

from pathlib import Path
from typing import Any

from dlka_med.calibrating.result import Calibration
from dlka_med.calibrating.sampling import BESIDE, DRAWING, VECTORS, Sample, draw
from dlka_med.calibrating.temperature import cross_fitted, deal_patients, fit_temperature, refuse_few, warn_of_bounds
from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.files import writable_folder
from dlka_med.inference.budget import Learning
from dlka_med.inference.device import find_device
from dlka_med.inference.held_out import held_out, patient_of
from dlka_med.inference.out_of_fold import out_of_fold
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.inference.windows import Progress


def calibrate(
    path: str | Path, *, device: str | None = None, vectors: int = VECTORS, memory: float | None = None
) -> dict[str, Any]:
    """Fit one temperature on the cases that validated, and write `calibration.json` and `reliability.png`.

    Each case is predicted as `dlka predict` does it, by weights that were not trained on it: of a folder of folds by
    the fold that held it out, and the one temperature is that of all folds, each of which gets the file too. Voxels are
    taken on the scan's own grid, where the reference was drawn and probabilities are given. A calibration that is there
    is replaced. The best weights were chosen on the same cases, so that these may be a little better than new ones.

    Args:
        path: run folder, or folder of folds.
        device: as PyTorch names it; None: cuda where there is one.
        vectors: logits of prepared voxels to keep of each case, near the foreground and far from it.
        memory: GiB, as in `out_of_fold`.

    Returns:
        The content of `calibration.json`, for `format_calibration`.

    Raises:
        InputError: the run, its dataset or the device cannot be used, nothing validates, fewer than two patients
            show a structure, or a case needs more memory than there is.
    """
    runs, place = held_out(path, "a temperature"), find_device(device)
    patients = {patient_of(case) for one in runs for case in one.cases}
    refuse_few(len(patients), "")
    writable_folder(Path(path))
    scheme = runs[0].run.config.dataset.scheme

    def sampled(predictor: Predictor, prepared: Prepared, case: Case, show: Progress) -> list[Sample]:
        return draw(predictor.prepared_logits(prepared, show), prepared, scheme, patient_of(case), vectors)

    weights = {one.run.path.resolve().name: digest_of_weights(one.run) for one in runs}
    learning = Learning(logits=True, after=DRAWING, kept=2 * vectors, beside=2 * vectors * BESIDE)
    samples = [sample for found in out_of_fold(runs, place, sampled, learning, memory) for sample in found]
    parts = deal_patients(samples)
    temperature = fit_temperature(samples)
    warn_of_bounds(temperature)
    result = Calibration(
        temperature,
        weights,
        cases=sum(len(one.cases) for one in runs),
        patients=len(patients),
        before=[(sample, 1.0) for sample in samples],
        after=cross_fitted(parts),
        regions=scheme.names if scheme.has_regions else (),
    )
    return result.write(path, runs)
