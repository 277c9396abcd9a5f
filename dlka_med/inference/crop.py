"""A part of the image that the network sees: the box of a mask, with a margin."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlka_med.data.boxes import foreground_box
from dlka_med.data.cases import Case
from dlka_med.data.formats import files_of, label_files
from dlka_med.data.grid import check_same_grid, with_one_unit
from dlka_med.data.prepare import Prepared
from dlka_med.data.readers import reader_of, readers_of
from dlka_med.errors import InputError
from dlka_med.inference.grids import match_axes

BLOCK = 2**20  # bytes of a file that are held at a time


@dataclass(frozen=True)
class Crop:
    """Masks or label maps by case id; their voxels that are not 0 are what matters.

    Args:
        path: where they were found.
    """

    path: Path
    masks: dict[str, Path]

    @classmethod
    def of(cls, path: str | Path, cases: Sequence[Case]) -> "Crop":
        """Masks of these cases: a folder of files that are called as the cases are, or the file of a single case.

        Raises:
            InputError: there is no such folder or file, or it lacks a case.
        """
        path = Path(path)
        if path.is_file():
            if len(cases) > 1:
                raise InputError(f"{path} is one mask, but there are {len(cases)} cases: give a folder of masks")
            return cls(path, {case.id: path for case in cases})
        if not path.is_dir():
            raise InputError(f"{path} does not exist: give a mask, or a folder of masks that are called as the cases")
        found = label_files(path)
        if missing := [case.id for case in cases if case.id not in found]:
            raise InputError(
                f"{path} has no mask of {len(missing)} of {len(cases)} cases, such as {missing[0]}: masks are "
                "called as the cases are"
            )
        return cls(path, {case.id: found[case.id] for case in cases})

    def mark(self, case_id: str) -> str:
        """A mark of the content of a case's mask, whatever its file is called.

        Raises:
            InputError: the file cannot be read.
        """
        path, digest = self.masks[case_id], hashlib.sha256()
        try:
            for part in files_of(path):
                with part.open("rb") as file:
                    while block := file.read(BLOCK):
                        digest.update(block)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        return digest.hexdigest()[:16]

    def __call__(self, prepared: Prepared, case: Case, patch: Sequence[int]) -> Prepared:
        """The part of a case about its mask: the box of its voxels, and half a window on all sides; a whole window at
        least, where the image has it.

        Whatever lies outside is background later on. Inside, the network sees what it saw without a crop, but for
        windows that lie elsewhere.

        Args:
            patch: voxels of the window along the axes of the prepared image.

        Raises:
            InputError: the mask cannot be read, lies on another grid, is empty, or misses what the network sees.
        """
        first, last = self._box(case)
        axes = match_axes(prepared.affine, prepared.native_affine, prepared.image.shape[1:], prepared.native_shape)
        parts = []
        for size, window, axis in zip(prepared.image.shape[1:], patch, axes, strict=True):
            start, stop = max(first[axis.native], axis.start), min(last[axis.native], axis.stop)
            if start >= stop:
                raise InputError(
                    f"{self.masks[case.id]}: the mask lies where the image is empty and was cropped away: leave the "
                    "case out, or give another mask"
                )
            covered = axis.coordinates[start - axis.start : stop - axis.start]
            margin = window // 2
            # At a border of the image the window is filled from its other side, as it is without a crop.
            low = max(min(int(np.floor(covered.min())) - margin, size - window), 0)
            high = max(int(np.ceil(covered.max())) + margin + 1, low + window)
            before = axis.halfway[axis.halfway < low]
            if len(before) % 2:
                low = int(before[-1])  # so that those behind it are still copies of the same side
            parts.append(slice(low, min(high, size)))
        affine = prepared.affine.copy()
        affine[:-1, -1] += affine[:-1, :-1] @ [part.start for part in parts]
        return replace(prepared, image=np.ascontiguousarray(prepared.image[(slice(None), *parts)]), affine=affine)

    def _box(self, case: Case) -> tuple[list[int], list[int]]:
        path = self.masks[case.id]
        values, grid = reader_of(path).label(path)
        image = readers_of(case)[0].grid(case.images[0])
        check_same_grid(*with_one_unit([image, grid]))
        if not values.any():
            raise InputError(f"{path}: the mask is empty, all of its voxels are 0: leave the case out, or mend it")
        return foreground_box(values[None])
