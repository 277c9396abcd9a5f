"""A network, or several that predict together, and the way they see whole images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Pair
from torch import Tensor, nn

from dlka_med.config.dataset import Intensity
from dlka_med.config.record import Plane
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.data.intensity import Scale, named_intensity
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.data.slices import slice_axis
from dlka_med.inference.decision import Decision, check_temperature
from dlka_med.inference.ensemble import counted_together, mean_logits
from dlka_med.inference.forward import Precision, dtype_of, window_forward
from dlka_med.inference.images import prepare_image
from dlka_med.inference.members import members_of
from dlka_med.inference.pieces import Also, WayBack
from dlka_med.inference.restore import restore_probabilities, restore_slabs, surely_outside
from dlka_med.inference.temperature import temperature_of
from dlka_med.inference.windows import Layout, Load, Progress, finite, slabs_of_logits


class Predictor:
    """Predicts whole images with overlapping windows and Gaussian weights, in 2D or 3D.

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
        painted: the network tells regions apart (sigmoid): the class index that each paints, in this order, over the
            ones before; None: classes, of which the likeliest counts (softmax).
        thresholds: probability over which a voxel belongs to a region, one for each; None: 0.5.
        precision: in which the network runs, as in training; fp16 needs a GPU, bf16 there one that has it, else fp32.
        temperature: by which logits are divided before they become probabilities (`dlka calibrate`), one for each
            network or one for all. The label maps of a single network do not depend on it, but for thresholds.
        intensities: of each network, which then scales the grey values of a case on its own: cases come as `prepare`
            gives them. None: cases come normalised.
        config: of the run: what arrays need that are predicted by a call.

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
        painted: Sequence[int] | None = None,
        thresholds: Sequence[float] | None = None,
        precision: Precision = "fp32",
        temperature: float | Sequence[float] = 1.0,
        intensities: Sequence[Sequence[Intensity]] | None = None,
        config: RunConfig | None = None,
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
        self.decision = Decision(painted, thresholds, self.temperature)
        self.intensities, self.config = intensities, config
        self.load = Load(batch_size)
        self.dtype = dtype_of(precision, self.device)

    @classmethod
    def of_run(cls, runs: str | Path | Sequence[str | Path], **changes: Any) -> "Predictor":
        """The predictor of a run folder, of a folder of folds, whose runs are an ensemble, or of several of these.

        Its networks, config and, where they were calibrated, temperatures are those of the runs.

        Args:
            changes: arguments of `Predictor`, such as `device`, in place of those of the config.

        Raises:
            InputError: a run is missing or damaged, has no weights, was calibrated for other weights, or differs from
                the first one in what they have to share.
            ValueError: `changes` out of range.
        """
        members = members_of(runs)
        if "temperature" not in changes:
            changes["temperature"] = [temperature_of(member) for member in members]
        scales = [_intensity(member.config) for member in members]
        if any(one != scales[0] for one in scales):
            changes["intensities"] = scales
        return cls.of_config([member.load_network() for member in members], members[0].config, **changes)

    @classmethod
    def of_config(cls, network: nn.Module | Sequence[nn.Module], config: RunConfig, **changes: Any) -> "Predictor":
        """The predictor that a config describes, but for `changes` of its arguments."""
        described = {
            "patch_size": config.training.patch_size,
            "overlap": config.inference.overlap,
            "mirror_axes": config.inference.mirror_axes,
            "batch_size": config.inference.batch_size,
            "slices": config.dataset.slices,
            "painted": config.dataset.scheme.painted,
            "precision": config.training.precision,
            "config": config,
        }
        return cls(network, **described | changes)

    @overload
    def __call__(self, image: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray: ...
    @overload
    def __call__(self, image: Nifti1Pair) -> Nifti1Pair: ...
    @overload
    def __call__(self, image: MetaTensor) -> MetaTensor: ...
    def __call__(self, image, affine=None):
        """The label map of an image that is in memory, of the same kind and on its own grid.

        The image goes through the run's own preprocessing. The map holds the label values of the dataset, as files
        of `dlka predict --no-postprocess` do.

        Args:
            image: one of

                - an array with the channels last, as NIfTI files and pictures hold them: a volume (x, y, z) or
                  (x, y, z, C), or a 2D image (rows, columns) or (rows, columns, C). The map is (x, y, z), or (rows,
                  columns);
                - a nibabel image of NIfTI, of the same axes. The map is one, too, with its affines and units;
                - a MONAI MetaTensor (C, x, y, z), or (C, rows, columns), with the channels first. The map is one, too,
                  (1, ...), with its affine and meta data.
            affine: voxel -> world in mm, 4x4, of a volume that comes as array; nothing else has one.

        Raises:
            InputError: the image does not fit the run, has voxels that are NaN or infinite, or a singular affine; or
                the network gives NaN or infinite logits.
            TypeError: it is of another kind.
            ValueError: the predictor belongs to no run.
        """
        if self.config is None:
            raise ValueError("a predictor without config takes prepared cases alone: make it by Predictor.of_run")
        prepared, like = prepare_image(image, affine, self.config)
        return like(self.segment(self.normalised(prepared)))

    @property
    def temperature(self) -> float:
        """By which to divide the logits of `prepared_logits`; those of an ensemble are of calibrated probabilities."""
        return self.temperatures[0] if len(self.networks) == 1 else 1.0

    @property
    def has_regions(self) -> bool:
        """Whether probabilities are those of regions."""
        return self.decision.painted is not None

    def prepared(self, case: Case, *, labelled: bool = False) -> Prepared:
        """A case as this predictor takes it, out of its files; there must be a config.

        Args:
            labelled: whether its label map is read, too.

        Raises:
            InputError: see `data.prepare.prepare`.
        """
        dataset, preprocessing = self.config.dataset, self.config.preprocessing
        scheme = dataset.scheme if labelled else None
        return self.normalised(prepare(case, preprocessing, dataset.channels or (), scheme))

    def normalised(self, prepared: Prepared) -> Prepared:
        """A case that `prepare` gave, as this predictor takes it; there must be a config."""
        return prepared if self.intensities else prepared.normalised(_intensity(self.config))

    def logits(self, image: Tensor, progress: Progress | None = None, empty: Sequence[float] = ()) -> Tensor:
        """Logits (K, *S), float32, on the CPU, of an image (C, *S) with the axes of the window.

        `empty` are the values around it, one per channel; without them they are 0. `progress` is called with the
        number of windows done and of all windows after each forward pass.

        Raises:
            ValueError: the image has another number of axes than the window.
        """
        pixels, shape = image.detach().cpu().float().numpy(), image.shape[1:]
        identity = np.eye(len(shape) + 1)
        case = Prepared("image", pixels, None, identity, tuple(shape), identity, empty=tuple(empty))
        if len(shape) != len(self.patch_size):
            raise ValueError(f"expected an image (C, *S) for windows of {self.patch_size}, got {tuple(image.shape)}")
        return self.prepared_logits(case, progress)

    def segment(
        self,
        prepared: Prepared,
        progress: Progress | None = None,
        *,
        also: Sequence[Also] = (),
        disagreement: bool = False,
    ) -> np.ndarray:
        """Class indices, uint8, on the case's native grid.

        Memory holds the logits of as many rows of the image as windows overlap, not of all of it.

        Args:
            also: what else is made of the pieces of the case, see `inference.extras`.
            disagreement: whether pieces hold that of the networks in `beside`, see `mean_logits`.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        with self.evaluating():
            slabs, way = self._slabs(prepared, progress, disagreement), self._way(prepared)
            return restore_slabs(slabs, way, self.decision, beside=int(disagreement), also=also)

    def probabilities(self, prepared: Prepared, progress: Progress | None = None) -> np.ndarray:
        """Probabilities (K, *S) of classes, or of regions, float32, on the case's native grid.

        Calibrated where temperatures are those of the runs. On a resampled grid the likeliest class can differ from
        `segment` in single voxels between two structures: a temperature moves the border of interpolated
        probabilities, and label maps of a single network are made without it.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        way, native = self._way(prepared), None
        with self.evaluating():
            slabs = self._slabs(prepared, progress)
            parts = restore_probabilities(slabs, way, regions=self.has_regions, temperature=self.temperature)
            for rows, chances in parts:
                if native is None:
                    native = np.zeros((chances.shape[1], *way.native_shape), np.float32)
                    native[0] = surely_outside(0, self.has_regions)
                np.moveaxis(native, way.axis + 1, 0)[rows] = chances
        return native

    def prepared_logits(self, prepared: Prepared, progress: Progress | None = None) -> Tensor:
        """Logits (K, *S), float32, on the prepared grid of a case, on the CPU: all of them are held.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        layout, whole = self.layout(prepared.image.shape[1:], prepared.affine), None
        with self.evaluating():
            for start, logits in self._slabs(prepared, progress):
                if whole is None:
                    whole = torch.empty(len(logits), *layout.shape)
                whole.movedim(layout.axis + 1, 1)[:, start : start + logits.shape[1]] = logits
        return whole

    def _slabs(
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

    def _way(self, prepared: Prepared) -> WayBack:
        layout = self.layout(prepared.image.shape[1:], prepared.affine)
        grids = prepared.affine, prepared.native_affine, prepared.native_shape
        return WayBack(layout.axis, layout.shape, *grids)

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


def _intensity(config: RunConfig) -> tuple[Intensity, ...]:
    return named_intensity(config.preprocessing, config.dataset.channels or ())
