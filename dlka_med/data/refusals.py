"""What a dataset is refused for: at once, or collected by those who want to tell all of it."""

from dataclasses import dataclass
from pathlib import Path

from dlka_med.errors import InputError


@dataclass(frozen=True)
class Refusal:
    """A file that belongs to no case, or the case that it keeps from being used."""

    code: str
    path: Path
    said: str


Refusals = list[Refusal]


def refuse(refusals: Refusals | None, code: str, path: Path, said: str) -> None:
    """Raise `InputError`, or put it with the others where somebody collects them; the same is told once."""
    if refusals is None:
        raise InputError(said)
    refusal = Refusal(code, path, said)
    if refusal not in refusals:
        refusals.append(refusal)
