"""Dice + cross-entropy, on one scale or over all supervised scales of a network."""

from collections.abc import Collection, Sequence
from math import prod

import monai.losses
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.config.labels import LabelScheme
from dlka_med.config.training import Loss as LossConfig
from dlka_med.ops.precision import autocast_off


class DiceCELoss(nn.Module):
    """`dice_weight * (1 - soft Dice) + cross_entropy_weight * cross-entropy`.

    The soft Dice of a class is `(2 |p y| + s) / (|p| + |y| + s)` with softmax probabilities p and s = 1e-5,
    averaged over classes (Milletari et al. 2016; Isensee et al. 2021). Its sums run over the whole batch by
    default: a patch that holds three voxels of a structure, or none, then does not weigh as much as one that
    is full of it. A class absent from the batch gives `1 - s / (|p| + s)`: finite, and 0 once nothing is
    predicted. Where y are shares between 0 and 1, `2 |p y|` is `|p| + |y| - |p - y|`, the same for whole ones: the
    loss is least at p = y (Wang et al., Dice Semimetric Losses, 2023).

    Regions are told apart by sigmoids, and the cross-entropy is then binary, over regions and voxels. Ignored voxels
    are in no sum and in no mean; where all are ignored the loss is 0.

    Computed in float32 (float64 for float64 logits), with autocast off.

    Args:
        dice_weight, cross_entropy_weight: not negative, not both 0.
        include_background: whether class 0 counts in the Dice term; it always counts in the cross-entropy. Regions
            have no background.
        batch: sum over the batch before dividing; False: one Dice per patch, then the mean.
        regions: class indices of each, which may overlap: one channel of the logits is one region; None: one channel
            is one class.
        ignore_index: class index of voxels to be ignored; None: every voxel counts.

    Raises:
        ValueError: the weights are as they must not be.
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        batch: bool = True,
        regions: Sequence[Sequence[int]] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if min(dice_weight, cross_entropy_weight) < 0 or dice_weight + cross_entropy_weight == 0:
            raise ValueError(
                "dice_weight and cross_entropy_weight must not be negative nor both 0, "
                f"got {dice_weight} and {cross_entropy_weight}"
            )
        self.dice_weight, self.cross_entropy_weight = dice_weight, cross_entropy_weight
        self.regions = None if regions is None else [tuple(region) for region in regions]
        self.ignore_index = ignore_index
        self.indices = {index for region in self.regions or () for index in region} | {ignore_index} - {None}
        settings = {"include_background": include_background or regions is not None, "batch": batch}
        self.dice = monai.losses.DiceLoss(**settings)
        self.dice_of_shares = monai.losses.DiceLoss(soft_label=True, **settings)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, K, *S) and class indices (B, 1, *S) of any dtype, or shares (B, K, *S) -> scalar.

        The shares of a voxel say how much of it each class or region fills, 0 to 1; those of classes sum to 1. One
        channel of labels is always taken for class indices, also where there is but one region.

        Raises:
            ValueError: shapes do not match, fewer than two classes, an index that stands for no class, or no such
                shares.
        """
        label = computable(label, self.indices)
        is_shares = label.is_floating_point() and label.shape[:2] == logits.shape[:2] != (len(logits), 1)
        if is_shares:
            check_shares(label, sum_to_one=self.regions is None)
        else:
            self.check_classes(label, logits)
        if logits.shape[2:] != label.shape[2:]:
            raise ValueError(f"logits {tuple(logits.shape)} and label {tuple(label.shape)} differ in spatial shape")
        return self.of_shares(logits, label) if is_shares else self.of_classes(logits, label)

    def check_classes(self, label: Tensor, logits: Tensor) -> None:
        """Raise `ValueError` unless the label (B, 1, *S) holds indices of classes that the channels stand for."""
        classes = logits.shape[1]
        if self.regions is not None:
            if classes != len(self.regions):
                raise ValueError(f"logits {tuple(logits.shape)} for {len(self.regions)} regions: one channel each")
            classes = max(2, *(1 + index for region in self.regions for index in region))
        if self.ignore_index is not None:
            label = label.masked_fill(label == self.ignore_index, 0)
        check_label(label, logits, classes)

    def shares(self, label: Tensor, channels: int) -> Tensor:
        """How much of each voxel every channel should claim: class indices (B, 1, *S) -> (B, channels, *S), 0 or 1."""
        parts = self.regions or [(index,) for index in range(channels)]
        return torch.cat([torch.stack([label == index for index in part]).any(0) for part in parts], 1).float()

    def of_classes(self, logits: Tensor, label: Tensor) -> Tensor:
        """`forward` for class indices (B, 1, *S) already known to fit."""
        shares = self.shares(label, logits.shape[1])
        weight = None if self.ignore_index is None else (label != self.ignore_index).float()
        return self._sum(logits, shares, weight, self.dice, label[:, 0].long() if self.regions is None else None)

    def of_shares(self, logits: Tensor, shares: Tensor, weight: Tensor | None = None) -> Tensor:
        """`forward` for shares (B, K, *S) already known to fit; weight (B, 1, *S): how much each voxel counts."""
        return self._sum(logits, shares, weight, self.dice_of_shares, None)

    def _sum(
        self, logits: Tensor, shares: Tensor, weight: Tensor | None, dice_loss: nn.Module, classes: Tensor | None
    ) -> Tensor:
        with autocast_off(logits.device.type):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            shares = shares.to(logits.dtype)
            weight = None if weight is None else weight.to(logits.dtype)
            probability = logits.softmax(1) if self.regions is None else logits.sigmoid()
            if weight is None:
                dice = dice_loss(probability, shares)
            else:
                dice = dice_loss(probability * weight, shares * weight)
            if self.regions is not None:
                terms = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
            elif classes is None:
                terms = F.cross_entropy(logits, shares, reduction="none")[:, None]
            else:
                skipped = -100 if self.ignore_index is None else self.ignore_index
                terms = F.cross_entropy(logits, classes, ignore_index=skipped, reduction="none")[:, None]
            if weight is None:
                cross_entropy = terms.mean()
            else:
                cross_entropy = (terms * weight).sum() / (weight.sum() * terms.shape[1]).clamp(
                    min=torch.finfo(terms.dtype).tiny
                )
            return self.dice_weight * dice + self.cross_entropy_weight * cross_entropy


class PyramidLoss(nn.Module):
    """`DiceCELoss` of every supervised scale, weighted and added up (deep supervision, Lee et al. 2015).

    Args:
        scale_weights: one per scale, full to coarse, normalised to sum to 1; None: halved each time.
        strides: image voxels per voxel of each scale, per axis, full to coarse, as the networks' `scale_strides`;
            None: the smallest whole ones by which the sizes follow from each other.
        others: see `DiceCELoss`.

    Raises:
        ValueError: a weight is negative or all are 0.
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        scale_weights: Sequence[float] | None = None,
        batch: bool = True,
        strides: Sequence[Sequence[int]] | None = None,
        regions: Sequence[Sequence[int]] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.one_scale = DiceCELoss(dice_weight, cross_entropy_weight, include_background, batch, regions, ignore_index)
        if scale_weights is not None and (min(scale_weights, default=0) < 0 or sum(scale_weights) == 0):
            raise ValueError(f"scale_weights must not be negative nor all 0, got {tuple(scale_weights)}")
        self.scale_weights = scale_weights
        self.strides = strides

    @classmethod
    def of(cls, settings: LossConfig, labels: LabelScheme, strides: Sequence[Sequence[int]]) -> "PyramidLoss":
        """The loss of a config, for a network with these `scale_strides`."""
        return cls(**settings.model_dump(), strides=strides, regions=labels.regions, ignore_index=labels.ignore_index)

    def forward(self, pyramid: Sequence[Tensor], label: Tensor) -> Tensor:
        """Logits [(B, K, *S), (B, K, *S1), ...], full to coarse, and class indices (B, 1, *S) -> scalar.

        Raises:
            ValueError: shapes do not match, an index lies outside 0..K-1, or `scale_weights` or `strides` have
                another length.
        """
        if isinstance(pyramid, Tensor) or not pyramid:
            raise ValueError("expected a list of logits, full to coarse, as forward_pyramid gives it")
        weights, label = self.weights(len(pyramid)), computable(label, self.one_scale.indices)
        self.one_scale.check_classes(label, pyramid[0])
        if pyramid[0].shape[2:] != label.shape[2:]:
            raise ValueError(
                f"the first logits {tuple(pyramid[0].shape)} and the label {tuple(label.shape)} differ in spatial shape"
            )
        sizes = [logits.shape[2:] for logits in pyramid]
        strides = [whole_steps(sizes[0], size) for size in sizes] if self.strides is None else self.strides
        if len(strides) != len(pyramid):
            raise ValueError(
                f"strides of {len(strides)} scales for {len(pyramid)} supervised scales: one each is needed"
            )
        terms = []
        for weight, logits, steps in zip(weights, pyramid, strides, strict=True):
            if tuple(-(-n // step) for n, step in zip(sizes[0], steps, strict=True)) != tuple(logits.shape[2:]):
                raise ValueError(
                    f"logits of {tuple(logits.shape[2:])} voxels do not lie {tuple(steps)} voxels apart in an image "
                    f"of {tuple(sizes[0])}"
                )
            if prod(steps) == 1:
                terms.append(weight * self.one_scale.of_classes(logits, label))
            else:
                terms.append(weight * self.one_scale.of_shares(logits, *self._blocks(label, steps, logits.shape[1])))
        return torch.stack(terms).sum()

    def _blocks(self, label: Tensor, strides: Sequence[int], channels: int) -> tuple[Tensor, Tensor | None]:
        """What fills each block of voxels, of those that count, and which share of it counts."""
        shares = block_means(self.one_scale.shares(label, channels), strides)
        if self.one_scale.ignore_index is None:
            return shares, None
        weight = block_means((label != self.one_scale.ignore_index).float(), strides)
        return shares / weight.clamp(min=torch.finfo(torch.float32).tiny), weight

    def weights(self, scales: int) -> list[float]:
        """Weights of so many scales, full to coarse; their sum is 1.

        Raises:
            ValueError: `scale_weights` has another length.
        """
        raw = [0.5**scale for scale in range(scales)] if self.scale_weights is None else self.scale_weights
        if len(raw) != scales:
            raise ValueError(f"{len(raw)} scale_weights for {scales} supervised scales: one each is needed")
        return [weight / sum(raw) for weight in raw]


def block_means(volume: Tensor, strides: Sequence[int]) -> Tensor:
    """Mean of each block of voxels: (B, C, *S) float -> (B, C, *ceil(S / strides)).

    Voxel i of an axis of stride s covers the voxels [i * s, (i + 1) * s); of a block that lies partly outside, the
    part inside counts. Of zeros and ones this is how much of the block they fill, the target of coarser logits.
    """
    average = F.avg_pool2d if volume.ndim == 4 else F.avg_pool3d
    return average(volume, tuple(strides), ceil_mode=True)


def whole_steps(size: Sequence[int], coarse: Sequence[int]) -> tuple[int, ...]:
    """The smallest strides s with `coarse = ceil(size / s)`, if there are any."""
    return tuple(-(-n // m) for n, m in zip(size, coarse, strict=True))


def computable(label: Tensor, indices: Collection[int] = ()) -> Tensor:
    """The label in a dtype that torch computes with and that can hold these indices.

    It computes little with uint16 and wider, and compares uint8 with -1 or 300 as if these were 255 and 44.
    """
    if label.is_floating_point() or label.dtype == torch.bool:
        return label
    known = torch.iinfo(label.dtype)
    is_narrow = any(not known.min <= index <= known.max for index in indices)
    return label.long() if is_narrow or label.dtype in (torch.uint16, torch.uint32, torch.uint64) else label


def check_label(label: Tensor, logits: Tensor, classes: int) -> None:
    """Raise `ValueError` unless `label` is (B, 1, *) with integral values 0..classes-1 for logits (B, K, *)."""
    batch = len(logits)
    if classes < 2:
        raise ValueError(f"logits {tuple(logits.shape)}: at least two classes (background and one more) are needed")
    if label.shape[:2] != (batch, 1) or label.ndim != logits.ndim:
        raise ValueError(
            f"the label must be class indices of shape (batch, 1, *spatial) = ({batch}, 1, ...), "
            f"got {tuple(label.shape)} for logits {tuple(logits.shape)}"
        )
    low, high = (value.item() for value in torch.aminmax(label))
    if not (low >= 0 and high < classes):
        raise ValueError(
            f"the label holds values from {low} to {high}, but {classes} classes are numbered 0 to "
            f"{classes - 1}: map label values to class indices first"
        )
    if label.is_floating_point() and not torch.equal(label, label.round()):
        raise ValueError("the label holds values between class indices: was it interpolated linearly?")


def check_shares(label: Tensor, sum_to_one: bool) -> None:
    """Raise `ValueError` unless the shares (B, K, *) are from 0 to 1 and, if asked, sum to 1 in each voxel."""
    low, high = torch.aminmax(label)
    if not (low >= 0 and high <= 1 + 1e-3) or (sum_to_one and (label.sum(1) - 1).abs().max() >= 1e-3):
        raise ValueError(
            "the label must be class indices of shape (batch, 1, *spatial), or shares of each class, one channel "
            "each, from 0 to 1 and summing to 1 in each voxel"
        )
