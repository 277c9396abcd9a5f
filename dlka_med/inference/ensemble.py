"""Networks that predict together: the mean of their probabilities, slab by slab."""

from collections.abc import Iterable, Iterator, Sequence
from math import log

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from dlka_med.inference.windows import Progress

AVERAGED_NUMBERS = 2**22  # of the logits averaged at a time, of each member: some copies of them are held meanwhile
COPIES = 8  # as many, at most


def mean_logits(
    streams: Sequence[Iterable[tuple[int, Tensor]]],
    temperatures: Sequence[float],
    *,
    regions: bool,
    disagreement: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Logits of the mean of the members' probabilities on the prepared grid.

    Every member's probabilities are the softmax of its logits, divided by its temperature (of regions: the sigmoid).
    Of classes the logarithm of their mean is given, whose softmax is the mean itself; of regions the logit of the mean.

    Args:
        streams: slabs of each member, as `slabs_of_logits` yields them, of one layout.
        temperatures: of each member.
        disagreement: one channel more: the mutual information between the class and the member (Smith and Gal, UAI
            2018), that is the entropy of the mean less the mean of the entropies, as a share of the largest entropy
            there is; of regions the largest of them.

    Yields:
        First row and logits (K, n, ...), or (K + 1, n, ...), of n rows: consecutive, of all rows.
    """
    for slabs in zip(*streams, strict=True):
        (start, first), *_ = slabs
        rows = max(1, AVERAGED_NUMBERS * first.shape[1] // first.numel())
        for begin in range(0, first.shape[1], rows):
            parts = [slab[:, begin : begin + rows].to(first.device) for _, slab in slabs]
            average = _of_regions if regions else _of_classes
            mean, disagreeing = average(parts, temperatures)
            yield start + begin, torch.cat([mean, disagreeing[None]]) if disagreement else mean


def _of_classes(parts: Sequence[Tensor], temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
    mean, entropies = None, 0.0
    for logits, temperature in zip(parts, temperatures, strict=True):
        logs = log_softmax(logits / temperature, dim=0)
        entropies = entropies - (logs.exp() * logs).sum(dim=0)
        mean = logs if mean is None else torch.logaddexp(mean, logs)
    mean -= log(len(parts))
    entropy = -(mean.exp() * mean).sum(dim=0)
    return mean, _share(entropy - entropies / len(parts), len(mean))


def _of_regions(parts: Sequence[Tensor], temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
    inside, outside, entropies = None, None, 0.0
    for logits, temperature in zip(parts, temperatures, strict=True):
        within, without = logsigmoid(logits / temperature), logsigmoid(-logits / temperature)
        entropies = entropies - within.exp() * within - without.exp() * without
        inside = within if inside is None else torch.logaddexp(inside, within)
        outside = without if outside is None else torch.logaddexp(outside, without)
    inside, outside = inside - log(len(parts)), outside - log(len(parts))
    entropy = -inside.exp() * inside - outside.exp() * outside
    return inside - outside, _share((entropy - entropies / len(parts)).amax(dim=0), 2)


def _share(nats: Tensor, choices: int) -> Tensor:
    """Of the largest entropy of so many choices; rounding may leave a little less than nothing."""
    return nats.clamp(min=0) / log(max(choices, 2))


def counted_together(progress: Progress | None, members: int) -> list[Progress | None]:
    """For each member: what it is called with counts for all of them."""
    done = [0] * members

    def counting(member: int) -> Progress:
        def count(windows: int, total: int) -> None:
            done[member] = windows
            progress(sum(done), members * total)

        return count

    return [None if progress is None else counting(member) for member in range(members)]
