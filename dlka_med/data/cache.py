"""Prepared cases on disk, computed once and read in pieces."""

import copy
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.config.labels import IGNORE, IGNORED, Declared, LabelScheme
from dlka_med.config.record import Plane
from dlka_med.data.cache_room import Lease, exclusive, make_room
from dlka_med.data.cases import Case
from dlka_med.data.formats import files_of
from dlka_med.data.grey import Measured
from dlka_med.data.intensity import is_robust, named_intensity
from dlka_med.data.prepare import Prepared, prepare
from dlka_med.data.readers import reader_of
from dlka_med.data.slices import slice_axis
from dlka_med.data.tiles import Tiles, removed, write_tiles
from dlka_med.data.workers import Progress, in_workers
from dlka_med.errors import InputError
from dlka_med.files import whole_folder, writable_folder

FORMAT = 5
FOREGROUND_VOXELS = 10_000
NAME_BYTES = 150  # of a case id: file systems allow 255 in all
DAY = 24 * 3600  # seconds
GIB = 2**30

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class CachedCase:
    """A prepared case whose arrays stay on disk; grey values are not normalised yet.

    `classes` are the foreground classes that it holds. `places` holds voxels of classes, as many as `counts` says: of
    each of these, and of class 0, perhaps none, where others are to be ignored.
    """

    image: Tiles
    label: Tiles | None
    places: Path
    counts: dict[int, int]
    affine: np.ndarray
    native_shape: tuple[int, ...]
    native_affine: np.ndarray
    measured: Measured

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(index for index in self.counts if index)

    def voxels(self) -> dict[int, np.ndarray]:
        """Coordinates (N, spatial dims), int32, by class: at most `FOREGROUND_VOXELS`, a random but fixed choice.

        They are read where they are used, for a file kept open for every case of a large dataset would be too many.

        Raises:
            InputError: the file was removed or cut short.
        """
        counts = list(self.counts.values())
        try:
            rows = np.load(self.places, mmap_mode="r" if any(counts) else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise removed(self.places, error) from error
        return dict(zip(self.counts, np.split(rows, np.cumsum(counts)[:-1]), strict=True)) if counts else {}


class PreparedCache:
    """One folder per case, and in it all that does not depend on the fold: grey values are as the files have them.

    What a case looks like decides the name of its folder: the files (path, size, time), the preprocessing but for
    intensities, the labels and the version of the format. So runs and datasets may share `folder`, also at the same
    time. An entry appears whole or not at all. The files of a case are looked at once, before its first use.

    Args:
        preprocessing: CT statistics may be missing until patches are read.
        slices: the plane in which volumes are read slice by slice; None: patches have all their axes.
        gib: how much `folder` may hold, in GiB; None: any amount.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocessing: Preprocessing,
        channels: Sequence[str],
        labels: Declared | LabelScheme,
        *,
        slices: Plane | None = None,
        gib: float | None = None,
    ):
        self.preprocessing = preprocessing
        self.channels = tuple(channels)
        self.labels = LabelScheme.of(labels)
        self.slices = slices
        self.limit = None if gib is None else gib * GIB
        robust = [kind.kind if is_robust(kind) else None for kind in self.intensity]
        settings = [preprocessing.model_dump(mode="json", exclude={"intensity"}), robust, self.channels]
        if self.labels.ignore is not None:
            settings.append({IGNORE: self.labels.ignore})
        key = json.dumps([FORMAT, *settings, self.labels.values, slices], sort_keys=True)
        self.root = Path(folder)
        self.folder = self.root / f"prepared-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        self._entries: dict[Case, Path] = {}
        self._opened: dict[Case, CachedCase] = {}
        self._lease: Lease | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}, "_lease": None}

    @property
    def intensity(self) -> tuple[Intensity, ...]:
        """How each channel is to be normalised."""
        return named_intensity(self.preprocessing, self.channels)

    def fill(self, cases: Sequence[Case], workers: int = 0, progress: Progress | None = None) -> None:
        """Compute what is missing, changed or damaged; `progress(done, total)` follows.

        The cases stay for as long as this object lives; others that went unused longest are removed if `folder`
        becomes too large. What a killed process left unfinished over a day ago is removed.

        Raises:
            InputError: cases that cannot be used, all of them named; or the folder cannot be written to.
        """
        writable_folder(self.folder)
        self._remove_leftovers()
        self._entries.clear()
        self._opened.clear()
        for case in cases:
            # A case that cannot be found is reported below, with all others of its kind.
            with suppress(InputError):
                self._entry(case)
        self._lease = Lease(self.root, self._entries.values())
        written, alone = 0, copy.copy(self)
        alone._entries, alone._opened, alone._lease = {}, {}, None
        for size in in_workers(partial(_ensure, alone), cases, workers, progress):
            written += size
            if self.limit is not None and written > self.limit / 20:
                written = 0
                make_room(self.root, self.limit)
        if self.limit is not None and (excess := make_room(self.root, self.limit)):
            log.warning(
                "the prepared cases that are in use take %.1f GiB more than the %g GiB of dataset.cache_gib in %s",
                *(excess / GIB, self.limit / GIB, self.root),
            )

    def locate(self, cases: Sequence[Case]) -> None:
        """Look at the files of these cases now, so that they need not be there later.

        Raises:
            InputError: a file is missing.
        """
        for case in cases:
            self._entry(case)

    def open(self, case: Case) -> CachedCase:
        """The case, computed if the entry is not valid.

        Raises:
            InputError: the case cannot be used.
        """
        if case not in self._opened:
            found = self._read(case)
            if found is None:
                _ensure(self, case)
                found = self._read(case)
            if found is None:
                raise InputError(f"{self._entry(case)} cannot be kept: its files change while they are read")
            self._opened[case] = found
        return self._opened[case]

    def get(self, case: Case) -> Prepared:
        """The whole case, not normalised."""
        entry = self.open(case)
        everything = (slice(None),) * len(entry.image.shape)
        return Prepared(
            case_id=case.id,
            image=entry.image[everything],
            label=None if entry.label is None else entry.label[everything][0],
            affine=entry.affine,
            native_shape=entry.native_shape,
            native_affine=entry.native_affine,
            empty=tuple(channel.outside for channel in entry.measured.channels),
            measured=entry.measured,
            reader=reader_of(case.images[0]),
        )

    def measured(self, case: Case) -> Measured:
        """What is known of the case's grey values, with a sample of its labelled voxels."""
        facts, entry = self.open(case), self._entry(case)
        return Measured(facts.measured.channels, np.load(entry / "sample.npy", allow_pickle=False))

    def reference(self, case: Case) -> np.ndarray | None:
        """Class indices (*S), uint8, on the grid of the case's own files; None without a label."""
        self.open(case)
        file = self._entry(case) / "reference.npz"
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as stored:
            return stored["label"]

    def _entry(self, case: Case) -> Path:
        if case not in self._entries:
            self._entries[case] = self.folder / _name(case)
        return self._entries[case]

    def _read(self, case: Case) -> CachedCase | None:
        entry = self._entry(case)
        try:
            facts = json.loads((entry / "facts.json").read_text(encoding="utf-8"))
            if _sizes(entry) != facts["bytes"]:
                return None
            shape = tuple(facts["shape"])
            image, label = Tiles.open(entry / "image.npy", shape, np.float32), None
            if facts["labelled"]:
                label = Tiles.open(entry / "label.npy", (1, *shape[1:]), np.uint8)
            return CachedCase(
                image=image,
                label=label,
                places=entry / "foreground.npy",
                counts=dict(zip(facts["classes"], facts["foreground"], strict=True)),
                affine=np.array(facts["affine"], dtype=np.float64),
                native_shape=tuple(facts["native_shape"]),
                native_affine=np.array(facts["native_affine"], dtype=np.float64),
                measured=Measured.of_facts(facts["grey"], np.empty((shape[0], 0), np.float32)),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None

    def _remove_leftovers(self) -> None:
        for unfinished in self.folder.glob(".writing-*"):
            with suppress(FileNotFoundError):
                if time.time() - unfinished.stat().st_mtime > DAY:
                    shutil.rmtree(unfinished, ignore_errors=True)

    def _write(self, case: Case) -> None:
        entry = self._entry(case)
        prepared = prepare(case, self.preprocessing, self.channels, self.labels)
        if entry.name != _name(case):
            raise InputError(f"the files of case {case.id} changed since they were looked at: start again")
        across = None
        if self.slices is not None and prepared.image.ndim == 4:
            across = slice_axis(prepared.affine, self.slices)
        classes, counts, coordinates = _foreground(prepared)
        facts = {
            "shape": list(prepared.image.shape),
            "labelled": prepared.label is not None,
            "affine": prepared.affine.tolist(),
            "native_shape": list(prepared.native_shape),
            "native_affine": prepared.native_affine.tolist(),
            "classes": classes,
            "foreground": counts,
            "grey": prepared.measured.facts(),
        }
        if self._read(case) is not None:
            return  # Another process put it there meanwhile, and may be using it.
        if entry.exists():
            with exclusive(self.root):
                if self._read(case) is None:
                    shutil.rmtree(entry, ignore_errors=True)
        try:
            with whole_folder(entry) as folder:
                write_tiles(folder / "image.npy", prepared.image, across)
                np.save(folder / "foreground.npy", coordinates, allow_pickle=False)
                np.save(folder / "sample.npy", prepared.measured.foreground, allow_pickle=False)
                if prepared.label is not None:
                    write_tiles(folder / "label.npy", prepared.label[None], across)
                    np.savez_compressed(folder / "reference.npz", label=prepared.native_label)
                facts["bytes"] = _sizes(folder)
                (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        except (OSError, InputError):
            if self._read(case) is None:
                raise


def _ensure(cache: PreparedCache, case: Case) -> int:
    """Bytes that had to be written, about."""
    if cache._read(case) is not None:
        with suppress(PermissionError):  # another user's
            os.utime(cache._entry(case) / "facts.json")
        return 0
    cache._write(case)
    return sum(_sizes(cache._entry(case)).values())


def _sizes(entry: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(entry.iterdir()) if file.name != "facts.json"}


def _files(case: Case) -> tuple[Path, ...]:
    named = (*case.images, case.label) if case.label else case.images
    return tuple(file for path in named for file in files_of(path))


def _name(case: Case) -> str:
    """Of the entry: the case, and a mark of its files as they are now."""
    begin = case.id.encode()[:NAME_BYTES].decode(errors="ignore")
    return f"{begin}-{hashlib.sha256(json.dumps(_fingerprint(case)).encode()).hexdigest()[:16]}"


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
    return files if case.order is None else [*files, [*case.order]]


def _foreground(prepared: Prepared) -> tuple[list[int], list[int], np.ndarray]:
    """Classes that the label holds, how many of their voxels are kept, and which; class 0 where some do not count."""
    dims = prepared.image.ndim - 1
    classes, counts, chosen = [], [], [np.empty((0, dims), dtype=np.int32)]
    if prepared.label is not None:
        flat = prepared.label.ravel()
        random = np.random.default_rng(0)
        held = np.bincount(flat, minlength=IGNORED + 1) > 0
        held[0] = held[IGNORED]
        for index in np.flatnonzero(held[:IGNORED]):
            places = np.flatnonzero(flat == index)
            if len(places) > FOREGROUND_VOXELS:
                places = np.sort(random.choice(places, FOREGROUND_VOXELS, replace=False))
            classes.append(int(index))
            counts.append(len(places))
            chosen.append(np.stack(np.unravel_index(places, prepared.label.shape), axis=1).astype(np.int32))
    return classes, counts, np.concatenate(chosen)
