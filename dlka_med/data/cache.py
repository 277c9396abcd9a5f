"""Prepared cases on disk, computed once and read in pieces."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.config.dataset import Preprocessing
from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.data.workers import Progress, in_workers
from dlka_med.errors import InputError
from dlka_med.files import whole_folder, writable_folder

FORMAT = 1
FOREGROUND_VOXELS = 10_000
DAY = 24 * 3600  # seconds


class PreparedCache:
    """One folder per case with plain arrays, which are memory-mapped: nothing is held of any number of cases.

    Settings have a folder of their own, and so has a case of each source folder: runs and datasets may share
    `folder`. An entry appears whole or not at
    all, and is computed anew if its files changed (path, size, time) or if it is damaged.

    Args:
        preprocessing: CT statistics known, see `resolve_intensity`.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocessing: Preprocessing,
        channels: Sequence[str],
        labels: Mapping[str, int],
    ):
        self.preprocessing = preprocessing
        self.channels = tuple(channels)
        self.labels = dict(labels)
        settings = json.dumps(
            [FORMAT, preprocessing.model_dump(mode="json"), self.channels, sorted(self.labels.values())],
            sort_keys=True,
        )
        self.folder = Path(folder) / hashlib.sha256(settings.encode()).hexdigest()[:12]

    def fill(self, cases: Sequence[Case], workers: int = 0, progress: Progress | None = None) -> None:
        """Compute what is missing, changed or damaged; `progress(done, total)` follows.

        What a killed process left unfinished over a day ago is removed.

        Raises:
            InputError: cases that cannot be used, all of them named; or the folder cannot be written to.
        """
        writable_folder(self.folder)
        self._remove_leftovers()
        for _ in in_workers(partial(_ensure, self), cases, workers, progress):
            pass

    def get(self, case: Case) -> Prepared:
        """The prepared case, its arrays memory-mapped and read-only; computed if the entry is not valid."""
        facts, arrays = self._open(case)
        return Prepared(
            case_id=case.id,
            image=arrays["image"],
            label=arrays.get("label"),
            affine=np.array(facts["affine"], dtype=np.float64),
            native_shape=tuple(facts["native_shape"]),
            native_affine=np.array(facts["native_affine"], dtype=np.float64),
        )

    def foreground(self, case: Case) -> list[np.ndarray]:
        """Voxel coordinates (N, spatial dims), int32, of each foreground class that the case has.

        At most `FOREGROUND_VOXELS` per class, a random but fixed choice.
        """
        facts, arrays = self._open(case)
        return np.split(arrays["foreground"], np.cumsum(facts["foreground"])[:-1]) if facts["foreground"] else []

    def _open(self, case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        entry = self._read(case)
        if entry is None:
            _ensure(self, case)
            entry = self._read(case)
        if entry is None:
            raise InputError(f"{self._entry(case)} cannot be kept: its files change while they are read")
        return entry

    def _read(self, case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        entry = self._entry(case)
        try:
            facts = json.loads((entry / "facts.json").read_text(encoding="utf-8"))
            if facts["sources"] != _fingerprint(case):
                return None
            arrays = {}
            for name, (shape, dtype) in facts["arrays"].items():
                array = np.load(entry / f"{name}.npy", mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
                if list(array.shape) != shape or str(array.dtype) != dtype:
                    return None
                arrays[name] = array
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None
        return facts, arrays

    def _entry(self, case: Case) -> Path:
        """Datasets that name their cases alike must not rewrite each other's entries."""
        folders = sorted({str(path.parent.resolve()) for path in _files(case)})
        return self.folder / f"{case.id}-{hashlib.sha256(json.dumps(folders).encode()).hexdigest()[:8]}"

    def _remove_leftovers(self) -> None:
        for unfinished in self.folder.glob(".writing-*"):
            with suppress(FileNotFoundError):
                if time.time() - unfinished.stat().st_mtime > DAY:
                    shutil.rmtree(unfinished, ignore_errors=True)

    def _write(self, case: Case) -> None:
        sources = _fingerprint(case)
        prepared = prepare(case, self.preprocessing, self.channels, self.labels)
        counts, coordinates = _foreground(prepared)
        arrays = {"image": prepared.image, "label": prepared.label, "foreground": coordinates}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        facts = {
            "sources": sources,
            "arrays": {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()},
            "affine": prepared.affine.tolist(),
            "native_shape": list(prepared.native_shape),
            "native_affine": prepared.native_affine.tolist(),
            "foreground": counts,
        }
        shutil.rmtree(self._entry(case), ignore_errors=True)
        try:
            with whole_folder(self._entry(case)) as folder:
                for name, array in arrays.items():
                    np.save(folder / f"{name}.npy", array, allow_pickle=False)
                (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        except (OSError, InputError):
            # Another process may have put the same entry there meanwhile.
            if self._read(case) is None:
                raise


def _ensure(cache: PreparedCache, case: Case) -> None:
    if cache._read(case) is None:
        cache._write(case)


def _files(case: Case) -> tuple[Path, ...]:
    return (*case.images, case.label) if case.label else case.images


def _fingerprint(case: Case) -> list[list[str | int]]:
    files = []
    for path in _files(case):
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): it was there when the dataset was read"
            ) from error
        files.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return files


def _foreground(prepared: Prepared) -> tuple[list[int], np.ndarray]:
    dims = prepared.image.ndim - 1
    counts, chosen = [], [np.empty((0, dims), dtype=np.int32)]
    if prepared.label is not None:
        flat = prepared.label.ravel()
        random = np.random.default_rng(0)
        for index in np.flatnonzero(np.bincount(flat)[1:]) + 1:
            places = np.flatnonzero(flat == index)
            if len(places) > FOREGROUND_VOXELS:
                places = np.sort(random.choice(places, FOREGROUND_VOXELS, replace=False))
            counts.append(len(places))
            chosen.append(np.stack(np.unravel_index(places, prepared.label.shape), axis=1).astype(np.int32))
    return counts, np.concatenate(chosen)
