"""What changes where deformable layers do nothing, or leave their kernel points where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlka_med.inspection.view import Window
from dlka_med.layers import outputs_without, without_offsets

EVERY = "all layers together"


@dataclass
class Change:
    """Sums over windows: of squared changes of logits, and of voxels whose label changes."""

    squared: float = 0.0
    voxels: int = 0

    def add(self, changed: Tensor, plain: Tensor, painted: Sequence[int] | None) -> None:
        """Logits (K, N) with and without the change."""
        self.squared += (changed.double() - plain.double()).square().sum().item()
        self.voxels += int((classes(changed, painted) != classes(plain, painted)).sum())


class Effects:
    """Effects of each layer, and of all together, on the logits and labels of windows.

    Args:
        names: of the deformable layers.
        painted: see `Predictor`.
    """

    def __init__(self, names: Sequence[str], painted: Sequence[int] | None) -> None:
        self._painted = painted
        self._silent = {name: Change() for name in names}
        self._still = {name: Change() for name in (*names, EVERY)}
        self._count = self._labelled = 0
        self._sum = self._squared = 0.0

    def add(self, network: nn.Module, window: Window, plain: Tensor) -> None:
        """One window; `plain` (1, K, *S) are its logits."""
        part, image = (0, slice(None), *window.inside), window.image[None].to(plain.device)
        plain = plain[part].flatten(1)
        self._count += plain.numel()
        self._sum += plain.double().sum().item()
        self._squared += plain.double().square().sum().item()
        self._labelled += int((classes(plain, self._painted) > 0).sum())
        for name, silent, still in outputs_without(network, image):
            self._silent[name].add(silent[part].flatten(1), plain, self._painted)
            self._still[name].add(still[part].flatten(1), plain, self._painted)
        with torch.no_grad(), without_offsets(network):
            self._still[EVERY].add(network(image)[part].flatten(1), plain, self._painted)

    @property
    def figures(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """By layer, if it is `silent` (returns zeros) or `still` (moves no point): the change of the logits as a share
        of their deviation, the voxels whose label changes, and these as a share of the labelled ones, None of none.
        """
        deviation = max(self._squared / self._count - (self._sum / self._count) ** 2, 1e-30) ** 0.5

        def told(change: Change) -> dict[str, float | None]:
            share = change.voxels / self._labelled if self._labelled else None
            logits = (change.squared / self._count) ** 0.5 / deviation
            return {"logits": logits, "voxels": change.voxels, "share_of_labelled": share}

        found = {name: {"still": told(change)} for name, change in self._still.items()}
        for name, change in self._silent.items():
            found[name]["silent"] = told(change)
        return found


def classes(logits: Tensor, painted: Sequence[int] | None) -> Tensor:
    """Class indices (N,) of logits (K, N)."""
    if painted is None:
        return logits.argmax(0)
    found = torch.zeros_like(logits[0], dtype=torch.long)
    for index, region in zip(painted, logits, strict=True):
        found[region > 0] = index
    return found
