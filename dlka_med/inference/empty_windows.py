"""Windows that see nothing but empty voxels: they all look alike, and pass the network once."""

from collections.abc import Callable, Sequence

from torch import Tensor

Forward = Callable[[Tensor], Tensor]


class OnceIfEmpty:
    """A forward pass (B, C, *patch) -> (B, K, *patch) that keeps the logits of the empty window.

    Networks in eval mode give equal windows equal logits, whatever passes beside them, up to rounding.

    Args:
        empty: what an empty voxel is, one value per channel; without them 0.

    Attributes:
        spared: how many windows did not pass the network.
    """

    def __init__(self, forward: Forward, empty: Sequence[float] = ()):
        self._forward, self._empty = forward, empty
        self._logits: Tensor | None = None
        self.spared = 0

    def __call__(self, windows: Tensor) -> Tensor:
        empty = [self._is_empty(window) for window in windows]
        first = empty.index(True) if any(empty) and self._logits is None else None
        passing = [place for place in range(len(windows)) if not empty[place] or place == first]
        if len(passing) == len(windows) and first is None:
            return self._forward(windows)
        some = self._forward(windows[passing]) if passing else None
        if first is not None:
            self._logits = some[passing.index(first)].clone()
        self.spared += len(windows) - len(passing)
        logits = self._logits.repeat(len(windows), *[1] * self._logits.ndim)
        if some is not None:
            logits[passing] = some
        return logits

    def _is_empty(self, window: Tensor) -> bool:
        values = self._empty or [0.0] * len(window)
        # Most windows are told by a voxel: the rest of them is not looked at.
        if any(channel.flatten()[0] != value for channel, value in zip(window, values, strict=True)):
            return False
        return all(bool((channel == value).all()) for channel, value in zip(window, values, strict=True))
