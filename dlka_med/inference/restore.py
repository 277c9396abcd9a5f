"""From the network's grid back to the scanner's grid."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor

from dlka_med.inference.decision import Decision, check_temperature
from dlka_med.inference.pieces import Also, Piece, WayBack


def restore(
    logits: Tensor,
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    native_shape: Sequence[int],
    painted: Sequence[int] | None = None,
) -> np.ndarray:
    """`restore_slabs` of logits (K, *S) that are all there.

    Raises:
        ValueError: as there.
    """
    way = WayBack(0, logits.shape[1:], prepared_affine, native_affine, native_shape)
    return restore_slabs([(0, logits)], way, Decision(painted))


def restore_slabs(
    slabs: Iterable[tuple[int, Tensor]],
    way: WayBack,
    decision: Decision,
    *,
    beside: int = 0,
    also: Sequence[Also] = (),
) -> np.ndarray:
    """Turn logits of the prepared grid into the map of the likeliest class, or of regions, on the native grid.

    Where the voxel centres of both grids coincide (reorientation and cropping only), every voxel gets the
    argmax of its own logits, exactly. Elsewhere the softmax probabilities are interpolated linearly, one
    class at a time under a running maximum: memory never holds all classes of the native grid. Probabilities,
    not logits: logits have no bound, and one very sure voxel would push a border across its less sure
    neighbours, whereas probabilities put the border between two sure voxels halfway. Voxels whose centre lies
    outside the prepared box are background (0); the box of a resampled axis reaches a quarter of a voxel
    further, where rounding its length may have cut it. A native voxel in the middle between two prepared ones
    takes either side's class, in turn along the axis. Thick slices, which preprocessing does not mix, go back to
    the slices that they were copied from, see `data.resample`.

    Regions are decided one by one: a voxel belongs to one whose probability, the sigmoid of its logit, is over its
    threshold.

    Args:
        slabs, beside: as in `WayBack.pieces`, K at most 256.
        also: gets every piece, too.

    Returns:
        Class indices, uint8, of the native shape.

    Raises:
        ValueError: numbers of classes or regions that do not fit.
    """
    native = np.zeros(way.native_shape, np.uint8)
    for piece in way.pieces(slabs, beside):
        way.put(native, piece, piece.classes(decision))
        for take in also:
            take(way, piece)
    return native


def restore_probabilities(
    slabs: Iterable[tuple[int, Tensor]], way: WayBack, *, regions: bool = False, temperature: float = 1.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Turn logits of the prepared grid into probabilities on the native grid, interpolated as in `restore_slabs`.

    Voxels outside the prepared box are surely background: class 0 has 1 there, and every region 0.

    Args:
        slabs: as in `WayBack.pieces`.
        regions: whether the logits are those of regions (sigmoid) or of classes (softmax).
        temperature: the logits are divided by it (Guo et al., ICML 2017, section 4.2).

    Yields:
        Native rows that the network saw, places along `way.axis`, and their probabilities (n, K, ...), float32, that
        axis in front of the other native ones.

    Raises:
        ValueError: the temperature is not positive.
    """
    check_temperature(temperature)
    for piece in way.pieces(slabs):
        yield way.rows(piece), probabilities_across(way, piece, regions=regions, temperature=temperature)


def probabilities_across(way: WayBack, piece: Piece, *, regions: bool, temperature: float) -> np.ndarray:
    """The probabilities of a piece's rows, as `restore_probabilities` yields them."""
    chances = enumerate(piece.probabilities(regions, temperature))
    return np.stack(
        [way.across(piece, chance.cpu().numpy(), surely_outside(index, regions)) for index, chance in chances], axis=1
    )


def surely_outside(index: int, regions: bool) -> float:
    """The probability of a class or region where the network saw nothing."""
    return float(index == 0 and not regions)
