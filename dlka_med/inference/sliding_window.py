"""Networks that see whole images through overlapping windows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from dlka_med.config.dataset import Intensity
from dlka_med.config.record import Plane
from dlka_med.data.intensity import Scale
from dlka_med.data.prepare import Prepared
from dlka_med.data.slices import slice_axis
from dlka_med.inference.decision import check_temperature
from dlka_med.inference.ensemble import counted_together, mean_logits
from dlka_med.inference.forward import Precision, dtype_of, window_forward
from dlka_med.inference.windows import Layout, Load, Progress, finite, slabs_of_logits


class SlidingWindow:
    """Logits of whole images by a network, or by several that are averaged, in 2D or 3D; Gaussian weights.

    Only `network.forward` is called: (B, C, *patch_size) -> logits (B, K, *patch_size). While it predicts,
    the network is in eval mode and without gradients; every module's mode is put back afterwards. An image smaller
    than the window is padded on all sides with what an empty voxel of it is, and its logits are cropped back.

    Several networks are an ensemble: the probabilities of each, on the prepared grid, are averaged. All are held,
    since weights are small beside logits; of these every network has a band.

    `load`, which may be set, is how much is done at once; where memory lacks less is done.

    Args:
        network: any segmentation network, or several; they are moved to `device`.
        patch_size: voxels of the window, one number per spatial axis.
        overlap: share of the window that neighbouring windows have in common, 0 <= overlap < 1.
        mirror_axes: spatial axes of test-time mirroring: logits are averaged over all combinations of flips.
        batch_size: windows per forward pass.
        device: where the networks run; None: where the parameters of the first are.
        slices: a window of two axes sees volumes slice by slice in this plane; None: images of its own dims.
        has_regions: whether probabilities are those of regions (sigmoid) or of classes (softmax).
        precision: in which the network runs, as in training; fp16 needs a GPU, bf16 there one that has it, else fp32.
        temperature: by which logits are divided before they become probabilities (`dlka calibrate`), one for each
            network or one for all.
        intensities: of each network, which then scales the grey values of a case on its own: cases come as `prepare`
            gives them. None: cases come normalised.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        *,
        patch_size: Sequence[int],
        overlap: float = 0.5,
        mirror_axes: Sequence[int] = (),
        batch_size: int = 1,
        device: str | torch.device | None = None,
        slices: Plane | None = None,
        has_regions: bool = False,
        precision: Precision = "fp32",
        temperature: float | Sequence[float] = 1.0,
        intensities: Sequence[Sequence[Intensity]] | None = None,
    ):
        self.patch_size = tuple(int(size) for size in patch_size)
        dims = len(self.patch_size)
        if dims not in (2, 3) or min(self.patch_size) < 1:
            raise ValueError(f"patch_size needs 2 or 3 positive numbers, got {self.patch_size}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be at least 0 and less than 1, got {overlap}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        self.mirror_axes = tuple(sorted(set(mirror_axes)))
        if any(not 0 <= axis < dims for axis in self.mirror_axes):
            raise ValueError(f"mirror_axes must be among 0 to {dims - 1}, got {self.mirror_axes}")
        networks = [network] if isinstance(network, nn.Module) else list(network)
        parameter = next(chain(networks[0].parameters(), networks[0].buffers()), None)
        self.device = torch.device(device or (parameter.device if parameter is not None else "cpu"))
        self.networks = tuple(one.to(self.device) for one in networks)
        one_for_all = isinstance(temperature, int | float)
        self.temperatures = (float(temperature),) * len(networks) if one_for_all else tuple(temperature)
        if len(self.temperatures) != len(networks) or len(intensities or networks) != len(networks):
            raise ValueError(f"{len(networks)} networks need as many temperatures and intensities")
        for one in self.temperatures:
            check_temperature(one)
        self.overlap, self.batch_size, self.slices = overlap, batch_size, slices
        self.has_regions, self.intensities = has_regions, intensities
        self.load = Load(batch_size)
        self.dtype = dtype_of(precision, self.device)

    @property
    def temperature(self) -> float:
        """By which to divide the logits of `prepared_logits`; those of an ensemble are of calibrated probabilities."""
        return self.temperatures[0] if len(self.networks) == 1 else 1.0

    def logits(self, image: Tensor, progress: Progress | None = None, empty: Sequence[float] = ()) -> Tensor:
        """Logits (K, *S), float32, on the CPU, of an image (C, *S) with the axes of the window.

        `empty` are the values around it, one per channel; without them they are 0. `progress` is called with the
        number of windows done and of all windows after each forward pass.

        Raises:
            ValueError: the image has another number of axes than the window, or each network scales grey values on its
                own, by what was measured of a case.
        """
        if self.intensities is not None:
            raise ValueError("networks that scale grey values each on its own take prepared cases: use prepared_logits")
        pixels, shape = image.detach().cpu().float().numpy(), image.shape[1:]
        identity = np.eye(len(shape) + 1)
        case = Prepared("image", pixels, None, identity, tuple(shape), identity, empty=tuple(empty))
        if len(shape) != len(self.patch_size):
            raise ValueError(f"expected an image (C, *S) for windows of {self.patch_size}, got {tuple(image.shape)}")
        return self.prepared_logits(case, progress)

    def prepared_logits(self, prepared: Prepared, progress: Progress | None = None) -> Tensor:
        """Logits (K, *S), float32, on the prepared grid of a case, on the CPU: all of them are held.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        layout, whole = self.layout(prepared.image.shape[1:], prepared.affine), None
        with self.evaluating():
            for start, logits in self.slabs(prepared, progress):
                if whole is None:
                    whole = torch.empty(len(logits), *layout.shape)
                whole.movedim(layout.axis + 1, 1)[:, start : start + logits.shape[1]] = logits
        return whole

    def slabs(
        self, prepared: Prepared, progress: Progress | None, disagreement: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits of the prepared grid along the axis of its layout, of several networks those of their mean."""
        layout, streams = self.layout(prepared.image.shape[1:], prepared.affine), []
        counted = counted_together(progress, len(self.networks))
        for number, network in enumerate(self.networks):
            scale = None if self.intensities is None else Scale.of(self.intensities[number], prepared.measured)
            slabs = slabs_of_logits(
                prepared.image,
                layout,
                self._windows_through(network, prepared.affine, scale),
                self.device,
                replace(self.load),
                empty=prepared.empty if scale is None else scale.outside.tolist(),
                progress=counted[number],
            )
            streams.append(finite(slabs, prepared.case_id))
        if len(streams) == 1 and not disagreement:
            return streams[0]
        return mean_logits(streams, self.temperatures, regions=self.has_regions, disagreement=disagreement)

    def layout(self, shape: Sequence[int], affine: np.ndarray) -> Layout:
        """The windows over an image (*S); a window that sees slices is one voxel thick across them."""
        patch = list(self.patch_size)
        if self.slices is not None:
            patch.insert(slice_axis(affine, self.slices), 1)
        return Layout.of(shape, patch, self.overlap)

    def window_forwards(self, affine: np.ndarray) -> list[Callable[[Tensor], Tensor]]:
        """Of each network: windows (B, C, *patch) of the layout -> logits (B, K, *patch), float32, averaged over the
        mirrored ones.
        """
        return [self._windows_through(network, affine) for network in self.networks]

    def _windows_through(
        self, network: nn.Module, affine: np.ndarray, scale: Scale | None = None
    ) -> Callable[[Tensor], Tensor]:
        across = None if self.slices is None else slice_axis(affine, self.slices)
        return window_forward(network, self.mirror_axes, self.dtype, self.device, across=across, scale=scale)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The networks in eval mode, and no gradients; afterwards every module is as it was."""
        modes = [(module, module.training) for network in self.networks for module in network.modules()]
        try:
            for network in self.networks:
                network.eval()
            # Not inference_mode: what a network caches while it predicts must stay usable in training.
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
