"""Where a network runs."""

import torch

from dlka_med.errors import InputError


def find_device(name: str | None) -> torch.device:
    """The device of this name, as PyTorch spells it; None: cuda where there is one.

    Raises:
        InputError: it is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"there is no device called {name!r}: name cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"the device {name} is not there: PyTorch finds {torch.cuda.device_count()} CUDA devices")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name} cannot be used ({str(error).partition(chr(10))[0]})") from error
    return device
