"""What a check tells of a file: the record, its line and its JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 3  # lines of one code


@dataclass(frozen=True)
class Found:
    """What a rule has to say of one file. `case`: the id; None where the dataset as a whole is meant."""

    path: str
    wrong: str
    case: str | None = None


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Args:
        severity: error: training or prediction would refuse the file, or a figure would be wrong; warning: it works,
            but hardly as meant; note: worth knowing.
        code: short words that stay the same.
        mend: what to do about it.
    """

    severity: Severity
    code: str
    path: str
    wrong: str
    mend: str
    case: str | None = None

    @property
    def line(self) -> str:
        return f"{self.severity:<7}  {self.code}  {self.path}: {self.wrong}; {self.mend}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, those of one code together."""
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code, finding.path))


def lines(findings: Sequence[Finding], shown: int = SHOWN) -> Iterator[str]:
    """One line per finding; of many of one code the first ones and a count."""
    for code, group in groupby(in_order(findings), key=lambda finding: finding.code):
        alike = list(group)
        yield from (finding.line for finding in alike[:shown])
        if len(alike) > shown:
            yield f"{'':7}  {code}  ... and {len(alike) - shown} more"


def verdict(findings: Sequence[Finding]) -> str:
    """How many of each severity, in a line."""
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
    said = [f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items() if count]
    return ", ".join(said) if said else "nothing found"


def is_clean(findings: Iterable[Finding]) -> bool:
    """Whether nothing is worse than a note."""
    return all(finding.severity == "note" for finding in findings)
