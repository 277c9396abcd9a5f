"""Checkpoints of training: written whole, read without unpickling code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from dlka_med.errors import InputError
from dlka_med.files import whole_file


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as whole files that hold tensors and plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"cannot resume from {path}: it is damaged or not a checkpoint of this toolkit ({error}); "
                "train anew into another folder"
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
