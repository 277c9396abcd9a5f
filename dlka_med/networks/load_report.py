"""What of a file of weights came into a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

SHOWN = 5  # names of each kind in an error


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into a network and what was not; `str(report)` is readable.

    Attributes:
        loaded: our names of all tensors that were set.
        renamed: original name -> our name, where they differ.
        unused: original names of tensors that never run in the original either.
        summed: our names of first convs that got the sum over the three channels of repeated grey images.
        missing: our names that the checkpoint lacks; they keep their values.
        unexpected: original names without a place in the network.
        misshapen: our name -> (shape in the checkpoint, shape in the network); they keep their values.
    """

    loaded: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether checkpoint and network matched in full."""
        return not (self.missing or self.unexpected or self.misshapen)

    def differences(self, limit: int | None = None) -> list[str]:
        """A line for each kind of difference, with its first `limit` names."""
        shapes = [f"{name}: {found} instead of {expected}" for name, (found, expected) in self.misshapen.items()]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of wrong shape": shapes}
        return [listed(kind, names, limit) for kind, names in kinds.items() if names]

    @property
    def summary(self) -> str:
        """What matched and what did not, without the list of renamed tensors."""
        renamed = f", {len(self.renamed)} renamed" if self.renamed else ""
        lines = [f"{len(self.loaded)} tensors loaded{renamed}", *self.differences()]
        if self.summed:
            lines.append(listed("summed over the channels of repeated grey images", self.summed))
        if self.unused:
            lines.append(listed("left out, as they never run", self.unused, SHOWN))
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {old} -> {new}" for old, new in self.renamed.items())])


def load_matching(network: nn.Module, tensors: Mapping[str, Tensor], *, partial: bool = False) -> LoadReport:
    """Put tensors into the network's tensors of the same names; nothing is changed unless all of it fits.

    Args:
        partial: load what fits and report the rest, to fine-tune with other classes, channels or sizes.

    Raises:
        ValueError: names are missing or left over, or shapes differ (the first ones are shown; with `partial` only
            if nothing fits).
    """
    ours = network.state_dict()
    fitting = {name: tensor for name, tensor in tensors.items() if name in ours and tensor.shape == ours[name].shape}
    report = LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in ours if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in ours),
        misshapen={
            name: (tuple(tensor.shape), tuple(ours[name].shape))
            for name, tensor in tensors.items()
            if name in ours and name not in fitting
        },
    )
    if not (fitting if partial else report.complete):
        raise ValueError("\n".join(report.differences(SHOWN)))
    network.load_state_dict(fitting, strict=False)
    return report


def listed(kind: str, names: Sequence[str], limit: int | None = None) -> str:
    """A line with the number of names, their kind, and the first `limit` of them."""
    more = f" and {len(names) - limit} more" if limit is not None and len(names) > limit else ""
    return f"{len(names)} {kind}: {'; '.join(names[:limit])}{more}"
