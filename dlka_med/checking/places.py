"""Where the files of each case lie in a copy."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlka_med.data.channel_files import Case
from dlka_med.data.formats import LOSSY_ENDINGS, ending, stem


@dataclass(frozen=True)
class Kept:
    """A case of the copy, and where its files lie in it."""

    case: Case
    images: tuple[Path, ...]
    label: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, then the label."""
        return self.images if self.label is None else (*self.images, self.label)


def places(root: Path, cases: Sequence[Case]) -> dict[str, Kept]:
    """By case where its files go: as in the dataset, or, from outside it, by the id of the case; no two alike."""
    taken: set[Path] = set()
    return {case.id: _kept(root, case, taken) for case in cases}


def inside(root: Path, path: Path) -> Path | None:
    """The path relative to the dataset; None outside it."""
    relative = Path(os.path.relpath(path, root))
    return None if relative.parts[:1] == (os.pardir,) else relative


def _kept(root: Path, case: Case, taken: set[Path]) -> Kept:
    folder = "imagesTs" if case.label is None else "imagesTr"
    images = [inside(root, path) or Path(folder, _named(case, path)) for path in case.images]
    label = case.label and (inside(root, case.label) or Path("labelsTr", f"{case.id}{ending(case.label)}"))
    if label is not None and ending(label).lower() in LOSSY_ENDINGS:
        label = label.with_name(f"{stem(label)}.png")
    free = [_free(path, case.id, taken) for path in images]
    return Kept(case, tuple(free), label and _free(label, case.id, taken))


def _named(case: Case, path: Path) -> str:
    """Files of several channels carry the id and their numbers already."""
    return path.name if len(case.images) > 1 else f"{case.id}{ending(path)}"


def _free(place: Path, case_id: str, taken: set[Path]) -> Path:
    while place in taken:
        place = place.parent / case_id / place.name
    taken.add(place)
    return place
