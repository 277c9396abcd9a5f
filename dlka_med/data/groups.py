"""groups.csv: which cases must stay on one side of a split."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dlka_med.errors import InputError
from dlka_med.paths import shown
from dlka_med.text_files import read_text


def read_groups(
    path: Path, cases: Sequence[str], test: Sequence[str], *, strangers: bool = False
) -> dict[str, str | None]:
    """Group by case id; None where the case stands alone. Every case of `cases` is named, those of `test` may be.

    Args:
        strangers: the table may name other cases too, which are passed over.

    Raises:
        InputError: the file cannot be read, or it names a case twice, none, or one that is not there.
    """
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""))
        rows = [(number, row) for number, row in enumerate(lines, 1) if any(row)]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    known, groups = {*cases, *test}, {}
    if rows and rows[0][1][0].strip() not in known:
        rows = rows[1:]
    for number, row in rows:
        if len(row) < 2:
            raise InputError(
                f"{path}, line {number}: expected a case and its group, separated by a comma, got {shown(row)}"
            )
        case, group = row[0].strip(), row[1].strip()
        if case not in known and strangers:
            continue
        if case not in known:
            raise InputError(
                f"{path}, line {number}: the dataset has no case {shown(repr(case))}; remove the line or mend the id"
            )
        if case in groups:
            raise InputError(f"{path}, line {number}: case {case!r} is there twice; keep one of the lines")
        groups[case] = group or None
    if lacking := [case for case in cases if case not in groups]:
        raise InputError(
            f"{path} does not name {len(lacking)} of the cases, the first being {lacking[0]!r}: "
            "add a line for each, with an empty group if the case stands alone"
        )
    return groups
