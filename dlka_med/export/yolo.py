"""`C3_DCNv3_DLKA` as a layer that the model files of Ultralytics YOLO can name (AGPL-3.0; the extra `yolo`)."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from types import ModuleType

import torch

from dlka_med.blocks import C3_DCNv3_DLKA
from dlka_med.errors import InputError

NAME = C3_DCNv3_DLKA.__name__
PROBE = {
    "nc": 1,
    "depth_multiple": 0.5,
    "width_multiple": 0.5,
    "backbone": [[-1, 4, NAME, [32, False, 2]]],
    "head": [],
}


def register_ultralytics() -> None:
    """Let model files (YAML) of the installed `ultralytics` name `C3_DCNv3_DLKA`, for the running process.

    A row `[-1, 3, C3_DCNv3_DLKA, [512, False]]` is read as one of `C3`: output channels scaled by the width of the
    model, repeats by its depth, further arguments `shortcut, g, e`. The files of `ultralytics` stay as they are. A
    second call changes nothing. Processes that `ultralytics` starts itself, as for training on several devices, have
    to call it too.

    Importing `ultralytics` makes its settings folder (`YOLO_CONFIG_DIR` says where) and asks whether there is a
    network, unless `YOLO_OFFLINE` is set.

    Raises:
        InputError: `ultralytics` is not installed.
        RuntimeError: this version of it reads model files in another way; nothing is changed then.
    """
    try:
        from ultralytics import __version__
        from ultralytics.nn import tasks
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ultralytics":
            raise
        raise InputError('ultralytics is not installed: pip install "dlka_med[yolo]"') from error
    if vars(tasks).get(NAME) is C3_DCNv3_DLKA:
        return
    before = {name: vars(tasks)[name] for name in (NAME, "frozenset") if name in vars(tasks)}
    vars(tasks).update({NAME: C3_DCNv3_DLKA, "frozenset": extended(tasks)})
    try:
        check_parsed(tasks)
    except Exception as error:
        for name in (NAME, "frozenset"):
            del vars(tasks)[name]
        vars(tasks).update(before)
        raise RuntimeError(
            f"ultralytics {__version__} does not read model files as expected ({type(error).__name__}: {error}); "
            "versions from 8.3.80 to 8.4.190 are known to"
        ) from error


def extended(tasks: ModuleType) -> Callable[..., frozenset]:
    """`frozenset` for the module `tasks`, which puts our block into every set that holds `C3`.

    `parse_model` builds the sets of layers that take `(c1, c2)` and repeats anew in each call, so that there is
    nothing to add to; the name `frozenset` is what it looks up in its module.
    """

    def layer_set(layers: Iterable = ()) -> frozenset:
        layers = frozenset(layers)
        return layers | {C3_DCNv3_DLKA} if tasks.C3 in layers else layers

    return layer_set


def check_parsed(tasks: ModuleType) -> None:
    """Refuse, by a ValueError, a `parse_model` that does not treat our block as it treats `C3`."""
    with torch.device("meta"):  # which takes no random numbers
        layers, _ = tasks.parse_model(deepcopy(PROBE), ch=3, verbose=False)
    block = layers[0]
    if type(block) is not C3_DCNv3_DLKA:
        raise ValueError(f"expected a {NAME}, got a {type(block).__name__}")
    found = (block.cv1[0].in_channels, block.cv3[0].out_channels, len(block.m), block.m[0].shortcut)
    if found != (3, 16, 2, False):
        raise ValueError(f"expected 3 and 16 channels, 2 repeats and no shortcut, got {found}")
