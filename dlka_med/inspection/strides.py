"""How the maps of deformable layers lie over the image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dlka_med.layers import KernelPoints, visit_points


def strides_of_layers(network: nn.Module, image: Tensor) -> dict[str, tuple[float, ...]]:
    """Image voxels per voxel of the input of each deformable layer that runs for an image (B, C, *S), per axis."""
    found: dict[str, tuple[float, ...]] = {}

    def look(name: str, points: KernelPoints) -> None:
        found[name] = strides_over(network, image.shape[2:], points.size)

    visit_points(network, look, image)
    return found


def strides_over(network: nn.Module, image: Sequence[int], size: Sequence[int]) -> tuple[float, ...]:
    """Image voxels per voxel of a map of this size: networks pad the far end of an image to their `size_unit`."""
    units = getattr(network, "size_unit", (1,) * len(image))
    return tuple(-(-n // unit) * unit / mine for n, unit, mine in zip(image, units, size, strict=True))
