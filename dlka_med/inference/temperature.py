"""The temperature of a run: `calibration.json`, and the weights that it was fitted for."""

import hashlib
import json

from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.text_files import read_text

TEMPERATURE, WEIGHTS = "temperature", "weights"


def temperature_of(run: RunFolder) -> float:
    """What to divide a run's logits by before they become probabilities; 1 if it was not calibrated.

    Raises:
        InputError: `calibration.json` is damaged, or was fitted for other weights than the run has now.
    """
    file = run.calibration_file
    if not file.is_file():
        return 1.0
    mend = f"run dlka calibrate {run.path} again, or remove the file"
    try:
        content = json.loads(read_text(file))
        temperature, weights = float(content[TEMPERATURE]), dict(content[WEIGHTS])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the temperature in {file} ({error}): {mend}") from error
    if not 0 < temperature < float("inf"):
        raise InputError(f"{file}: temperature is {temperature:g}, expected a positive number: {mend}")
    if digest_of_weights(run) not in weights.values():
        raise InputError(f"{file} was fitted for other weights than {run.weights_file} holds now: {mend}")
    return temperature


def digest_of_weights(run: RunFolder) -> str:
    """SHA-256 of `weights.safetensors`.

    Raises:
        InputError: there are no weights yet.
    """
    run.refuse_untrained()
    return hashlib.sha256(run.weights_file.read_bytes()).hexdigest()
