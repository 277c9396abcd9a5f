"""What a rule answers, and what it may spend."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

TRAINING_SHARE = 0.85  # of the minutes; the rest is left to validations
STEPS_PER_EPOCH = 250  # nnU-Net's
LONG = 20_000  # steps from which on a recipe for GPUs pays


class Choice(NamedTuple):
    """A value of the config, and why it is so."""

    value: Any
    reason: str


Choices = dict[str, Choice]


@dataclass(frozen=True)
class Budget:
    """What a training may take.

    Args:
        device: as PyTorch names it.
        memory: bytes that the training may hold on the device.
        minutes, epochs: of which one is None.
        cores: of the processor, for the network and the loader.
        precision: in which the device computes best.
    """

    device: str
    memory: float
    minutes: float | None = None
    epochs: int | None = None
    cores: int = 2
    precision: str = "fp32"

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def seconds(self) -> float:
        """Of training, validations left out; infinite for a limit of epochs."""
        return inf if self.minutes is None else 60 * TRAINING_SHARE * self.minutes

    def steps(self, seconds: float) -> int:
        """How many steps of so many seconds there will be."""
        if self.minutes is None:
            return (self.epochs or 0) * STEPS_PER_EPOCH
        return int(self.seconds / seconds)

    def __str__(self) -> str:
        time = f"{self.minutes:g} minutes" if self.epochs is None else f"{self.epochs} epochs"
        cores = "" if self.on_gpu else f" ({self.cores} cores)"
        return f"{time} on {self.device}{cores}, {gib(self.memory)}"


def rounded(number: float, digits: int = 2) -> str:
    """A number of so many digits, or more where it is larger, instead of an exponent."""
    return f"{number:.{digits}g}" if number < 10**digits - 0.5 else f"{number:.0f}"


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{rounded(size / 2**30)} GiB"


def span(seconds: float) -> str:
    """A time as people read it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{rounded(seconds / length)} {unit}"
    return f"{rounded(seconds)} s"


def shape(sizes: Sequence[float]) -> str:
    """Sizes as people read them."""
    return "x".join(rounded(size, 3) for size in sizes)


def nested(choices: Choices) -> dict[str, Any]:
    """The values of dotted keys as a tree."""
    tree: dict[str, Any] = {}
    for key, choice in choices.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = choice.value
    return tree
