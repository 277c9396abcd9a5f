"""Cases to label maps, by a network or by several that predict together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Pair
from torch import nn

from dlka_med.config.dataset import Intensity
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.data.intensity import named_intensity
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.inference.decision import Decision
from dlka_med.inference.images import prepare_image
from dlka_med.inference.kept_steps import PostProcessing, agreed_postprocessing
from dlka_med.inference.members import members_of
from dlka_med.inference.pieces import Also, WayBack
from dlka_med.inference.restore import restore_probabilities, restore_slabs, surely_outside
from dlka_med.inference.sliding_window import SlidingWindow
from dlka_med.inference.temperature import temperature_of
from dlka_med.inference.windows import Progress


class Predictor(SlidingWindow):
    """Predicts cases with overlapping windows, in 2D or 3D: from the files or images to the label map of their grid.

    Args:
        network: any segmentation network, or several, which are an ensemble.
        painted: the network tells regions apart (sigmoid): the class index that each paints, in this order, over the
            ones before; None: classes, of which the likeliest counts (softmax).
        thresholds: probability over which a voxel belongs to a region, one for each; None: 0.5.
        config: of the run: what arrays need that are predicted by a call.
        postprocessing: what a call does to its label maps; None: nothing.
        **windows: further arguments of `SlidingWindow`, at least `patch_size`. The label maps of a single network do
            not depend on `temperature`, but for thresholds.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        *,
        painted: Sequence[int] | None = None,
        thresholds: Sequence[float] | None = None,
        config: RunConfig | None = None,
        postprocessing: PostProcessing | None = None,
        **windows: Any,
    ):
        super().__init__(network, has_regions=painted is not None, **windows)
        self.decision, self.config = Decision(painted, thresholds, self.temperature), config
        self.postprocessing = postprocessing

    @classmethod
    def of_run(
        cls, runs: str | Path | Sequence[str | Path], *, postprocess: bool = True, **changes: Any
    ) -> "Predictor":
        """The predictor of a run folder, of a folder of folds, whose runs are an ensemble, or of several of these.

        Its networks, config and, where they were calibrated, temperatures are those of the runs.

        Args:
            postprocess: whether calls do to their label maps what `dlka postprocess` kept, if the runs have learned
                anything; the log tells it.
            changes: arguments of `Predictor`, such as `device`, in place of those of the config.

        Raises:
            InputError: a run is missing or damaged, has no weights, was calibrated for other weights or has learned
                post-processing for other ones, or differs from the first one in what they have to share.
            ValueError: `changes` out of range.
        """
        members = members_of(runs)
        if "temperature" not in changes:
            changes["temperature"] = [temperature_of(member) for member in members]
        scales = [_intensity(member.config) for member in members]
        if any(one != scales[0] for one in scales):
            changes["intensities"] = scales
        if postprocess and "postprocessing" not in changes:
            changes["postprocessing"] = agreed_postprocessing(members)
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

        The image goes through the run's own preprocessing. The map holds the label values of the dataset, and is
        that which `dlka predict` writes of a file of the image: the steps of `postprocessing` are done.

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
        classes, steps = self.segment(self.normalised(prepared)), self.postprocessing
        return like(classes if steps is None else steps(classes, prepared.native_affine))

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

    def segment(
        self,
        prepared: Prepared,
        progress: Progress | None = None,
        *,
        also: Sequence[Also] = (),
        disagreement: bool = False,
    ) -> np.ndarray:
        """Class indices, uint8, on the case's native grid; no step of `postprocessing` is done.

        Memory holds the logits of as many rows of the image as windows overlap, not of all of it.

        Args:
            also: what else is made of the pieces of the case, see `inference.extras`.
            disagreement: whether pieces hold that of the networks in `beside`, see `mean_logits`.

        Raises:
            InputError: the network gives NaN or infinite logits.
        """
        with self.evaluating():
            slabs, way = self.slabs(prepared, progress, disagreement), self._way(prepared)
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
            slabs = self.slabs(prepared, progress)
            parts = restore_probabilities(slabs, way, regions=self.has_regions, temperature=self.temperature)
            for rows, chances in parts:
                if native is None:
                    native = np.zeros((chances.shape[1], *way.native_shape), np.float32)
                    native[0] = surely_outside(0, self.has_regions)
                np.moveaxis(native, way.axis + 1, 0)[rows] = chances
        return native

    def _way(self, prepared: Prepared) -> WayBack:
        layout = self.layout(prepared.image.shape[1:], prepared.affine)
        grids = prepared.affine, prepared.native_affine, prepared.native_shape
        return WayBack(layout.axis, layout.shape, *grids)


def _intensity(config: RunConfig) -> tuple[Intensity, ...]:
    return named_intensity(config.preprocessing, config.dataset.channels or ())
