"""How sure the networks are of each voxel, and how far they agree."""

from math import log

import numpy as np
import torch
from torch import Tensor

from dlka_med.data.nifti import LARGEST_SHARE
from dlka_med.inference.pieces import Piece, WayBack


class Shares:
    """Collects a number from 0 to 1 per native voxel, in steps of 1/255; where the network saw nothing it is 0.

    Args:
        shape: voxels along each native axis.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.values = np.zeros(shape, np.uint8)

    def __call__(self, way: WayBack, piece: Piece) -> None:
        shares = self.of(piece).mul(LARGEST_SHARE).round_().clamp_(0, LARGEST_SHARE)
        way.put(self.values, piece, shares.to(torch.uint8).cpu().numpy())

    def of(self, piece: Piece) -> Tensor:
        """The numbers of the native voxels of a piece."""
        raise NotImplementedError


class Entropy(Shares):
    """Entropy of the probabilities, as a share of the largest there is: log K of K classes. Of regions each is asked
    whether a voxel belongs to it, with log 2 at most, and the most uncertain counts.

    Args:
        regions, temperature: as in `restore_probabilities`.
    """

    def __init__(self, shape: tuple[int, ...], *, regions: bool, temperature: float):
        super().__init__(shape)
        self.regions, self.temperature = regions, temperature

    def of(self, piece: Piece) -> Tensor:
        entropy = None
        for chance in piece.probabilities(self.regions, self.temperature):
            if self.regions:
                one = torch.special.entr(chance) + torch.special.entr(1 - chance)
                entropy = one if entropy is None else torch.maximum(entropy, one)
            else:
                one = torch.special.entr(chance)
                entropy = one if entropy is None else entropy + one
        return entropy / log(2 if self.regions else max(2, len(piece.logits)))


class Disagreement(Shares):
    """What `mean_logits` gives beside the logits, interpolated like probabilities."""

    def of(self, piece: Piece) -> Tensor:
        return piece.at(piece.beside[0])
