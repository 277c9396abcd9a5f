"""A case as its image, reference and prediction, and the picture of it."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.data.grid import spacing_of
from dlka_med.data.load import load_case
from dlka_med.errors import InputError
from dlka_med.evaluation.figures import UNKNOWN, Panel, overlay
from dlka_med.evaluation.label_maps import read_label_map
from dlka_med.evaluation.uncertainty import LEVELS, largest_entropy, read_uncertainty
from dlka_med.inference.predict import predict_images
from dlka_med.report.subject import Subject, case_of


def read_panel(
    case: Case, prediction: Path | None, config: RunConfig, title: str = "", uncertainty: Path | None = None
) -> Panel:
    """The case with label values on its own grid, of a volume turned so that its axes run to the right, front and top.

    Args:
        uncertainty: map of the case that `dlka predict --uncertainty` wrote.

    Raises:
        InputError: a file is damaged, or the prediction or the map lies on another grid.
    """
    scheme = config.dataset.scheme
    loaded = load_case(case, config.dataset.channels or (), scheme)
    reference = None
    if loaded.label is not None:
        values = np.array(scheme.values)
        reference = np.where(loaded.label == IGNORED, UNKNOWN, values[np.minimum(loaded.label, len(values) - 1)])
    predicted = None if prediction is None else read_label_map(prediction).array
    if predicted is not None and predicted.shape != loaded.image.shape[1:]:
        raise InputError(
            f"{prediction} has the shape {predicted.shape}, but its image {case.images[0]} has "
            f"{loaded.image.shape[1:]}: predict this dataset"
        )
    entropy = None
    if uncertainty is not None:
        levels = read_uncertainty(uncertainty, loaded.image.shape[1:])
        entropy = (levels * (largest_entropy(scheme) / (LEVELS - 1))).astype(np.float32)
    spacing, image = spacing_of(loaded.affine), loaded.image
    if len(loaded.affine) == 4:
        axes = nib.io_orientation(loaded.affine)
        image = np.moveaxis(nib.apply_orientation(np.moveaxis(image, 0, -1), axes), -1, 0)
        reference, predicted, entropy = (
            None if one is None else nib.apply_orientation(one, axes) for one in (reference, predicted, entropy)
        )
        spacing = spacing[np.argsort(axes[:, 0])]
    return Panel(title or case.id, image, reference, predicted, tuple(spacing.tolist()), entropy)


def values_by_name(scheme: LabelScheme) -> dict[str, int]:
    """What to call each value of a label map, the background left out; of regions each value has its own name."""
    found: dict[str, int] = {}
    for value, name in scheme.value_names.items():
        if value != scheme.ignore:
            found[name if name not in found else f"{name} ({value})"] = value
    return found


def draw_case(subject: Subject, name: str, out: Path, device: str | None = None) -> None:
    """Predict a case by weights that did not see it, if there are such, and draw it beside its reference.

    Args:
        name: id of a case of the run's dataset.
        out: PNG, SVG or PDF, as its name ends.

    Raises:
        InputError: there is no such case, or no weights yet; or as in `predict_images`.
    """
    case, part = case_of(subject, name)
    config = part.run.config
    with tempfile.TemporaryDirectory() as folder:
        (written,) = predict_images(part.run.path, config.dataset.root, folder, device=device, only=[name])
        seen = " (the network trained on it)" if name in part.run.split["train"] else ""
        panel = read_panel(case, written, config, f"{name}{seen}")
    overlay(
        panel.image,
        panel.reference,
        panel.prediction,
        values_by_name(config.dataset.scheme),
        out,
        spacing=panel.spacing,
        title=panel.title,
        marks=True,
    )
