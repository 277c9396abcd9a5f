"""Dice + cross-entropy, on one scale or over all supervised scales of a network."""

from collections.abc import Sequence
from math import prod

import monai.losses
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.ops.precision import autocast_off


class DiceCELoss(nn.Module):
    """`dice_weight * (1 - soft Dice) + cross_entropy_weight * cross-entropy`.

    The soft Dice of a class is `(2 |p y| + s) / (|p| + |y| + s)` with softmax probabilities p and s = 1e-5,
    averaged over classes (Milletari et al. 2016; Isensee et al. 2021). Its sums run over the whole batch by
    default: a patch that holds three voxels of a structure, or none, then does not weigh as much as one that
    is full of it. A class absent from the batch gives `1 - s / (|p| + s)`: finite, and 0 once nothing is
    predicted. Where y are shares between 0 and 1, `2 |p y|` is `|p| + |y| - |p - y|`, the same for whole ones: the
    loss is least at p = y (Wang et al., Dice Semimetric Losses, 2023).

    Computed in float32 (float64 for float64 logits), with autocast off.

    Args:
        dice_weight, cross_entropy_weight: not negative, not both 0.
        include_background: whether class 0 counts in the Dice term; it always counts in the cross-entropy.
        batch: sum over the batch before dividing; False: one Dice per patch, then the mean.

    Raises:
        ValueError: the weights are as they must not be.
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        batch: bool = True,
    ) -> None:
        super().__init__()
        if min(dice_weight, cross_entropy_weight) < 0 or dice_weight + cross_entropy_weight == 0:
            raise ValueError(
                "dice_weight and cross_entropy_weight must not be negative nor both 0, "
                f"got {dice_weight} and {cross_entropy_weight}"
            )
        self.dice_weight, self.cross_entropy_weight = dice_weight, cross_entropy_weight
        settings = {"include_background": include_background, "softmax": True, "batch": batch}
        self.dice = monai.losses.DiceLoss(to_onehot_y=True, **settings)
        self.dice_of_shares = monai.losses.DiceLoss(soft_label=True, **settings)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (B, K, *S) and class indices (B, 1, *S) of any dtype, or shares (B, K, *S) -> scalar.

        The shares of a voxel say how much of it each class fills, 0 to 1, and sum to 1.

        Raises:
            ValueError: shapes do not match, fewer than two classes, an index outside 0..K-1, or no such shares.
        """
        if label.is_floating_point() and label.shape[:2] == logits.shape[:2] != (len(logits), 1):
            check_shares(label)
        else:
            check_label(label, logits)
        if logits.shape[2:] != label.shape[2:]:
            raise ValueError(f"logits {tuple(logits.shape)} and label {tuple(label.shape)} differ in spatial shape")
        return self.unchecked(logits, label)

    def unchecked(self, logits: Tensor, label: Tensor) -> Tensor:
        """`forward` for a label already known to fit."""
        with autocast_off(logits.device.type):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            if label.shape[1] > 1:
                target = label.to(logits.dtype)
                dice = self.dice_of_shares(logits, target)
            else:
                target = label[:, 0].long()
                dice = self.dice(logits, label.long())
            return self.dice_weight * dice + self.cross_entropy_weight * F.cross_entropy(logits, target)


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
    ) -> None:
        super().__init__()
        self.one_scale = DiceCELoss(dice_weight, cross_entropy_weight, include_background, batch)
        if scale_weights is not None and (min(scale_weights, default=0) < 0 or sum(scale_weights) == 0):
            raise ValueError(f"scale_weights must not be negative nor all 0, got {tuple(scale_weights)}")
        self.scale_weights = scale_weights
        self.strides = strides

    def forward(self, pyramid: Sequence[Tensor], label: Tensor) -> Tensor:
        """Logits [(B, K, *S), (B, K, *S1), ...], full to coarse, and class indices (B, 1, *S) -> scalar.

        Raises:
            ValueError: shapes do not match, an index lies outside 0..K-1, or `scale_weights` or `strides` have
                another length.
        """
        if isinstance(pyramid, Tensor) or not pyramid:
            raise ValueError("expected a list of logits, full to coarse, as forward_pyramid gives it")
        weights = self.weights(len(pyramid))
        check_label(label, pyramid[0])
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
            target = label if prod(steps) == 1 else block_shares(label, steps, logits.shape[1])
            if target.shape[2:] != logits.shape[2:]:
                raise ValueError(
                    f"logits of {tuple(logits.shape[2:])} voxels do not lie {tuple(steps)} voxels apart in an image "
                    f"of {tuple(sizes[0])}"
                )
            terms.append(weight * self.one_scale.unchecked(logits, target))
        return torch.stack(terms).sum()

    def weights(self, scales: int) -> list[float]:
        """Weights of so many scales, full to coarse; their sum is 1.

        Raises:
            ValueError: `scale_weights` has another length.
        """
        raw = [0.5**scale for scale in range(scales)] if self.scale_weights is None else self.scale_weights
        if len(raw) != scales:
            raise ValueError(f"{len(raw)} scale_weights for {scales} supervised scales: one each is needed")
        return [weight / sum(raw) for weight in raw]


def block_shares(label: Tensor, strides: Sequence[int], classes: int) -> Tensor:
    """How much of each block of voxels every class fills: the target of logits of lower resolution.

    Voxel i of an axis of stride s covers the label's voxels [i * s, (i + 1) * s); of a block that lies partly
    outside, the part inside counts. Class indices (B, 1, *S) -> (B, classes, *ceil(S / strides)) float32.
    """
    average = F.avg_pool2d if label.ndim == 4 else F.avg_pool3d
    shares = [average((label == index).float(), tuple(strides), ceil_mode=True) for index in range(classes)]
    return torch.cat(shares, 1)


def whole_steps(size: Sequence[int], coarse: Sequence[int]) -> tuple[int, ...]:
    """The smallest strides s with `coarse = ceil(size / s)`, if there are any."""
    return tuple(-(-n // m) for n, m in zip(size, coarse, strict=True))


def check_label(label: Tensor, logits: Tensor) -> None:
    """Raise `ValueError` unless `label` is (B, 1, *) with integral values 0..K-1 for logits (B, K, *)."""
    batch, classes = logits.shape[:2]
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


def check_shares(label: Tensor) -> None:
    """Raise `ValueError` unless the shares (B, K, *) of each voxel are not negative and sum to 1."""
    if not (label.min() >= 0 and (label.sum(1) - 1).abs().max() < 1e-3):
        raise ValueError(
            "the label must be class indices of shape (batch, 1, *spatial), or shares of each class, one channel "
            "each, from 0 to 1 and summing to 1 in each voxel"
        )
