"""Files of weights from anywhere, read without running code that they may hold."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

PICKLE = b"\x80"
CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")
# nnU-Net and its offspring keep losses and scores beside the weights, as numpy has them: plain values too.
NUMPY_TYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
NUMPY_VALUES = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in NUMPY_TYPES),
    *(
        (value.__reduce__()[0], f"numpy.{core}.multiarray.{function}")
        for core in ("core", "_core")
        for value, function in ((np.float64(0), "scalar"), (np.zeros(1), "_reconstruct"))
    ),
]


def read_weights(path: str | Path) -> dict[str, Any]:
    """Name -> tensor, on the CPU, of a safetensors file or one that `torch.save` wrote; see `named_tensors`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, holds code, or no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with torch.serialization.safe_globals(NUMPY_VALUES), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind is read as instructions and may fail in any way
        raise ValueError(_why_not(path, error)) from error
    return named_tensors(content, path)


def named_tensors(content: Any, source: object = "the checkpoint") -> dict[str, Any]:
    """The tensors or arrays inside the dictionaries of a checkpoint, such as `{"state_dict": ..., "epoch": 3}`.

    Raises:
        ValueError: there are none; `source` is named.
    """
    expected = f"expected a state dict, alone or under one of the keys {', '.join(CONTAINERS)}"
    if not isinstance(content, Mapping):
        raise ValueError(f"{source} holds a {type(content).__name__}: {expected}")
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return named_tensors(content[key], source)
    tensors = {str(name): value for name, value in content.items() if hasattr(value, "shape")}
    if not tensors:
        raise ValueError(f"{source} holds no named tensors: {expected}")
    return tensors


def _why_not(path: Path, error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign or (isinstance(error, pickle.UnpicklingError) and _first_byte(path) == PICKLE):
        kind = f"objects of {foreign[1]}" if foreign else "a plain pickle"
        return (
            f"{path} holds {kind}, not just tensors and plain values; reading it could run code, so it is refused: if "
            'you trust it, open it where it was made and save its weights alone, torch.save(checkpoint["state_dict"], '
            '"weights.pth")'
        )
    return (
        f"{path} is no readable file of weights ({type(error).__name__}): expected safetensors or what torch.save "
        "wrote; it may be damaged or cut off, so copy or download it again"
    )


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)
