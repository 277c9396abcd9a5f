"""Kernel points and receptive fields of single places, as pictures want them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dlka_med.evaluation.figures_deformation import Aim, Field
from dlka_med.inspection.receptive import gradient, radius
from dlka_med.inspection.strides import strides_over
from dlka_med.inspection.tally import home_positions
from dlka_med.inspection.view import View, Window
from dlka_med.layers import KernelPoints, visit_points, without_offsets


def aims_at(network: nn.Module, view: View, places: Sequence[tuple[int, ...]]) -> dict[str, list[Aim]]:
    """By layer, one `Aim` for each place: the kernel of the output position nearest to it."""
    found: dict[str, list[Aim]] = {}
    for place in places:
        window = view.around(place)
        flat: dict[str, NDArray] = {}

        def keep(name: str, points: KernelPoints, flat: dict[str, NDArray] = flat) -> None:
            flat[name] = _drift(points)

        def look(
            name: str,
            points: KernelPoints,
            window: Window = window,
            place: tuple[int, ...] = place,
            flat: dict[str, NDArray] = flat,
        ) -> None:
            found.setdefault(name, []).append(_aim(network, view, window, points, place, flat[name]))

        visit_points(network, keep, _on(network, window.flat()[None]))
        visit_points(network, look, _on(network, window.image[None]))
    return found


def fields_at(
    network: nn.Module, view: View, places: Sequence[tuple[int, ...]], outputs: Sequence[int], layers: Sequence[str]
) -> tuple[list[Field], dict[str, list[float]]]:
    """Receptive fields of the logit of each place, as the network is and with all offsets at zero.

    Args:
        outputs: of the network, the one that is looked at in each place.
        layers: whose offsets are also set to zero one at a time.

    Returns:
        Fields, and the radii in mm that hold 95 % of the gradient, by what is still: "as is", "all layers together"
        and each layer.
    """
    fields, radii = [], {}
    for place, output in zip(places, outputs, strict=True):
        window = view.around(place)
        image = _on(network, window.image)
        local = tuple(at - start for at, start in zip(place, window.origin, strict=True))

        def seen(*still: str, image: Tensor = image, local: tuple[int, ...] = local, output: int = output) -> NDArray:
            with without_offsets(network, still):
                return gradient(network, image, local, output)

        maps = {"as is": seen(), "all layers together": seen(*layers)}
        maps |= {name: seen(name) for name in layers} if len(layers) > 1 else {}
        for name, field in maps.items():
            radii.setdefault(name, []).append(radius(field, local, view.spacing))
        fields.append(
            Field(
                place,
                window.origin,
                maps["as is"],
                maps["all layers together"],
                radii["as is"][-1],
                radii["all layers together"][-1],
            )
        )
    return fields, radii


def _drift(points: KernelPoints) -> NDArray[np.float64]:
    """Mean displacement of each kernel (d, *S'), in voxels of the layer's input."""
    return points.offsets[0].mean((0, 1)).cpu().numpy()


def _aim(
    network: nn.Module, view: View, window: Window, points: KernelPoints, place: Sequence[int], flat: NDArray
) -> Aim:
    strides, origin = strides_over(network, view.patch, points.size), np.array(window.origin)
    scale = np.array(strides)

    def in_view(positions: NDArray, axis: int) -> NDArray:
        """Voxels of the layer's input as voxels of the view."""
        shape = [-1 if index == axis else 1 for index in range(positions.ndim)]
        return (positions + 0.5) * scale.reshape(shape) - 0.5 + origin.reshape(shape)

    homes = in_view(home_positions(points), 0)
    away = np.linalg.norm((homes - np.reshape(place, (-1, *[1] * len(place)))), axis=0)
    nearest = np.unravel_index(away.argmin(), away.shape)
    at = (0, slice(None), slice(None), slice(None), *nearest)
    start, moved = (each[at].cpu().numpy() for each in (points.start, points.start + points.offsets))
    weight = None if points.modulation is None else points.modulation[(0, slice(None), slice(None), *nearest)]
    drift = (_drift(points) - flat) * scale.reshape(-1, *[1] * len(place))
    return Aim(
        place=tuple(place),
        stride=strides,
        start=in_view(start, 2),
        moved=in_view(moved, 2),
        weight=None if weight is None else weight.double().cpu().numpy(),
        homes=homes,
        drift=drift,
    )


def _on(network: nn.Module, image: Tensor) -> Tensor:
    return image.to(next(network.parameters()).device)
