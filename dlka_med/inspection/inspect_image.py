"""Where the kernel points of a run's deformable layers go on one image, and whether that changes anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlka_med.errors import InputError
from dlka_med.evaluation.figures_deformation import Ground, plot_fields, plot_lengths, plot_points
from dlka_med.files import refuse_existing, whole_folder
from dlka_med.inference.device import find_device
from dlka_med.inference.predictor import Predictor
from dlka_med.inspection.aims import aims_at, fields_at
from dlka_med.inspection.effects import EVERY, Effects, classes
from dlka_med.inspection.strides import strides_over
from dlka_med.inspection.tally import ALL, Tally, count
from dlka_med.inspection.view import View, Window, read_view
from dlka_med.layers import KernelPoints, deformable_layers, visit_points
from dlka_med.progress import progress
from dlka_med.run_folder import RunFolder

WINDOWS, PLACES = 4, 3
BACKGROUND = "background"
ROWS = 4  # of a picture, one for each layer and place


def inspect_image(
    run: str | Path,
    image: str | Path,
    out: str | Path | None = None,
    *,
    label: str | Path | None = None,
    device: str | None = None,
    windows: int = WINDOWS,
) -> dict[str, Any]:
    """Look at the deformable layers of a run while it sees one image; write pictures and figures.

    Args:
        run: folder made by training.
        image: one image, as `predict` takes it.
        out: new folder for `inspect.json`, a picture of kernel points per stage, histograms and receptive fields; None:
            `inspect/<case id>`.
        label: label map by which figures are told apart; None: the network's own prediction.
        device: as PyTorch names it; None: cuda where there is one.
        windows: that are counted at most, those with most labelled voxels.

    Returns:
        The content of `inspect.json`, and under `out` where it lies.

    Raises:
        InputError: nothing deforms in the run's network; the run, the image or the label cannot be used; `out` holds
            something.
    """
    folder, place = RunFolder.open(run), find_device(device)
    predictor = Predictor.of_run(folder.path, postprocess=False, device=place)
    network = predictor.networks[0].eval()
    layers = deformable_layers(network)
    if not layers:
        raise InputError(
            f"{folder.path}: nothing deforms in its network, {folder.config.network.name}"
            f"{_gates(folder.config.network)}: there are no kernel points to look at"
        )
    view = read_view(folder, predictor, image, label)
    target = Path("inspect") / view.case_id if out is None else Path(out)
    refuse_existing(target)
    scheme = folder.config.dataset.scheme
    names = {index: _named(scheme.value_names[value], value) for index, value in enumerate(scheme.values) if value}
    seen, number = view.windows(windows)
    tallies, effects = _counted(predictor, view, seen, {0: BACKGROUND} | names)
    places = view.places(PLACES)
    outputs = [_output(predictor, view, at) for at in places]
    fields, radii = fields_at(network, view, places, outputs, [*layers])
    content = _content(view, layers, tallies, effects, radii, {"counted": len(seen), "all": number})
    ground = Ground(view.image, view.labels, names, view.spacing, view.unit, view.codes)
    seen_on = view.case_id if view.slice is None else f"{view.case_id}, slice {view.slice}"
    aims, stages = aims_at(network, view, places), _stages([*layers])
    with whole_folder(target) as made:
        for stage, members in stages.items():
            rows = max(1, ROWS // len(members))
            shown = {_short(name, stage): aims[name][:rows] for name in members if name in aims}
            plot_points(ground, shown, f"{seen_on}: kernel points of {stage}", made / f"points_{stage}.png")
        lengths = {name: {label: _kept(one) for label, one in found.items()} for name, found in tallies.items()}
        plot_lengths(lengths, view.unit, made / "offsets.png")
        plot_fields(ground, fields, made / "receptive_field.png")
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (made / "inspect.json").write_text(text + "\n", encoding="utf-8")
    return content | {"out": str(target)}


def _named(name: str, value: int) -> str:
    """What a label is called beside all voxels and the background."""
    return f"{name} ({value})" if name in (ALL, BACKGROUND) else name


def _counted(
    predictor: Predictor, view: View, windows: list[Window], names: Mapping[int, str]
) -> tuple[dict[str, dict[str, Tally]], Effects]:
    network, show = predictor.networks[0], progress("inspecting", "window")
    tallies: dict[str, dict[str, Tally]] = {}
    effects = Effects([*deformable_layers(network)], predictor.decision.painted)
    for done, window in enumerate(windows, 1):
        flat: dict[str, KernelPoints] = {}
        visit_points(network, flat.__setitem__, window.flat()[None].to(predictor.device))

        def look(name: str, points: KernelPoints, window: Window = window, flat: dict = flat) -> None:
            found = tallies.setdefault(name, {label: Tally() for label in (ALL, *names.values())})
            strides = strides_over(network, view.patch, points.size)
            count(found, points, flat.pop(name), window, names, strides, view.spacing)

        logits = visit_points(network, look, window.image[None].to(predictor.device))
        effects.add(network, window, logits)
        show(done, len(windows))
    return tallies, effects


def _output(predictor: Predictor, view: View, place: tuple[int, ...]) -> int:
    """The output whose logit is looked at: that of the class found there, or the strongest region."""
    window = view.around(place)
    local = tuple(at - start for at, start in zip(place, window.origin, strict=True))
    with torch.no_grad():
        logits = predictor.networks[0](window.image[None].to(predictor.device))[(0, slice(None), *local)]
    return int(classes(logits[:, None], None)[0])


def _content(
    view: View,
    layers: Mapping[str, Any],
    tallies: Mapping[str, Mapping[str, Tally]],
    effects: Effects,
    radii: Mapping[str, list[float]],
    windows: Mapping[str, int],
) -> dict[str, Any]:
    changes = effects.figures
    means = {name: _mean(found) for name, found in radii.items()}
    told = {
        name: {
            "kind": type(layer).__name__,
            "kernel": list(layer.geometry.kernel_size),
            "dilation": list(layer.geometry.dilation),
            "limit_voxels": layer.offset_limit,
            "offsets": {label: one.figures for label, one in tallies[name].items()},
            "effect": changes[name],
            "receptive_radius_still": means.get(name, means[EVERY]),
        }
        for name, layer in layers.items()
        if name in tallies
    }
    return {
        "case": view.case_id,
        "slice": view.slice,
        "labels_of": view.told,
        "unit": view.unit,
        "spacing": list(view.spacing),
        "windows": dict(windows),
        "layers": told,
        "effect_of_all": changes[EVERY]["still"],
        "receptive_radius": means["as is"],
        "receptive_radius_still": means[EVERY],
    }


def _mean(values: list[float]) -> float | None:
    """None where no gradient flows."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _kept(tally: Tally) -> np.ndarray:
    return np.concatenate(tally.lengths) if tally.lengths else np.empty(0)


def _stages(layers: list[str]) -> dict[str, list[str]]:
    """Layers by the stage they stand in: the first two parts of their name, such as decoder.1."""
    found: dict[str, list[str]] = {}
    for name in layers:
        found.setdefault(".".join(name.split(".")[:2]) or "network", []).append(name)
    return found


def _short(name: str, stage: str) -> str:
    rest = name.removeprefix(stage).strip(".").replace("attention.gate.", "")
    return rest or stage


def _gates(network: Any) -> str:
    gates = getattr(network, "deformation", None)
    if gates is None:
        return ""
    return f" (network.deformation: {gates if isinstance(gates, str) else ', '.join(gates)})"
