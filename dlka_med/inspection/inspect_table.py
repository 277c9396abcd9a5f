"""What inspecting an image has found, as lines to read in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlka_med.evaluation.tables import aligned, cell
from dlka_med.inspection.tally import ALL

IDLE = 1e-3  # share of the labelled voxels
UNSEEN = (
    "-: no kernel of the layer has its centre in the image, which is thinner than a voxel of the layer's map:",
    "an image of more slices has figures.",
)


def format_inspection(content: Mapping[str, Any]) -> str:
    """Tables and lines of the content of `inspect.json`."""
    unit, windows = content["unit"], content["windows"]
    offsets = [["layer", "label", f"moved {unit}", "by image", "spread", "95 %", "outside", "unmoved", "at limit"]]
    effects = [["layer", "without it: logits", "labels", "offsets zero: logits", "labels", f"field {unit}"]]
    unseen = False
    for name, layer in content["layers"].items():
        if not layer["offsets"][ALL]["positions"]:
            unseen = True
            offsets.append([name, ALL, *["-"] * 7])
        for label, found in layer["offsets"].items():
            if not found["positions"]:
                continue
            lengths = (cell(found[key], 2) for key in ("moved", "by_image", "spread", "percentile_95"))
            shares = (_percent(found[key]) for key in ("outside", "outside_undeformed", "at_limit"))
            offsets.append([name if label == ALL else "", label, *lengths, *shares])
        silent, still = layer["effect"]["silent"], layer["effect"]["still"]
        changes = [_percent(change[key]) for change in (silent, still) for key in ("logits", "share_of_labelled")]
        effects.append([name, *changes, cell(layer["receptive_radius_still"], 1)])
    every = content["effect_of_all"]
    shares = [_percent(every[key]) for key in ("logits", "share_of_labelled")]
    effects.append(["all together", "-", "-", *shares, cell(content["receptive_radius_still"], 1)])
    effects.append(["as it is", "-", "-", "-", "-", cell(content["receptive_radius"], 1)])
    at = "" if content["slice"] is None else f", slice {content['slice']}"
    lines = [
        f"{content['case']}{at}: {windows['counted']} of {windows['all']} windows, labels of {content['labels_of']}",
        "",
        *aligned(offsets),
        *(UNSEEN if unseen else ()),
        "",
        *aligned(effects),
        "",
        "moved: mean length of the kernel points' displacements; by image: of what differs from a flat image of the",
        "same mean; spread: from position to position. outside, at limit: share of points. labels: voxels that change,",
        "as a share of the labelled ones. field: radius that holds 95 % of a logit's gradient, with the offsets of",
        "that layer at zero.",
        verdict(every),
    ]
    return "\n".join(lines) + "\n"


def verdict(every: Mapping[str, float | None]) -> str:
    """What the effect of all offsets together comes to, in words."""
    share = every["share_of_labelled"]
    voxels = f"{every['voxels']} voxel{'s' * (every['voxels'] != 1)} change{'s' * (every['voxels'] == 1)} label"
    of = "while none has one as it is" if share is None else f"{_percent(share)} of the labelled ones"
    if not every["voxels"] or (share is not None and share < IDLE):
        return f"With all offsets at zero {voxels}, {of}: on this image deforming does next to nothing."
    return f"With all offsets at zero {voxels}, {of}. Whether for the better, dlka compare --ablate tells."


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"
