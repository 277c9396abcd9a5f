"""Endless patches of training cases; every draw is a function of seed, epoch, index and size, and nothing else."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from dlka_med.config.record import Plane
from dlka_med.config.training import Augmentation
from dlka_med.data.cache import CachedCase, PreparedCache
from dlka_med.data.cases import Case
from dlka_med.data.grid import spacing_of
from dlka_med.data.intensity import Scale
from dlka_med.data.slices import slice_axis
from dlka_med.data.tiles import Tiles
from dlka_med.data.transforms import Patch, TrainingTransform
from dlka_med.errors import InputError


class PatchKey(NamedTuple):
    """Which patch of a training is meant, and of how many voxels; None: of the full size."""

    epoch: int
    index: int
    size: tuple[int, ...] | None = None


class PatchSampler(Sampler[PatchKey]):
    """The keys of one rank's patches; an index counts the patches of all ranks in the epoch.

    The epoch and the size of its patches travel with the index, so that workers which outlive an epoch see them change.

    Args:
        size_of_epoch: asked at the start of each epoch; None: patches of the full size.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        size_of_epoch: Callable[[], tuple[int, ...] | None],
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.batch_size = batch_size
        self.steps = steps
        self.size_of_epoch = size_of_epoch
        self.epoch = epoch
        self.rank = rank
        self.world = world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[PatchKey]:
        size = self.size_of_epoch()
        for step in range(self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            yield from (PatchKey(self.epoch, index, size) for index in range(first, first + self.batch_size))


class PatchDataset(TorchDataset):
    """Patches by `PatchKey`: {"image" (C, *P) float32, "label" (1, *P) uint8 class indices}.

    Cases come in shuffled rounds, so that each is seen equally often. A share `oversampling` of the patches,
    spread evenly over the indices, is centred on a random voxel of a random foreground class of its case; the
    others lie anywhere, or, in a case with voxels to be ignored, about a voxel of a random class of the others. Patches
    stay inside the case; one that is smaller is centred. What lies around the case is filled with what an empty voxel
    of its image becomes, and with label 0.

    Args:
        cache: with the resolved intensity of the channels, by which patches are normalised.
        patches_per_epoch: of all ranks together.
        augmentation: None: patches as they are.
        slices: 2D patches are taken from slices of volumes in this plane; None: from cases of the patch's dims.
    """

    def __init__(
        self,
        cache: PreparedCache,
        cases: Sequence[Case],
        patch_size: Sequence[int],
        patches_per_epoch: int,
        oversampling: float,
        augmentation: Augmentation | None,
        seed: int,
        slices: Plane | None = None,
    ):
        if not cases:
            raise InputError("there are no training cases: lower dataset.folds or take cases out of dataset.test_cases")
        self.cache = cache
        self.cases = tuple(cases)
        self.patch_size = tuple(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.oversampling = oversampling
        self.augmentation = augmentation
        self.seed = seed
        self.slices = slices

    def __getitem__(self, key: PatchKey | tuple[int, int]) -> Patch:
        epoch, index, size = PatchKey(*key)
        patch_size = size or self.patch_size
        random = np.random.default_rng((self.seed, 0, epoch, index))
        case = self._case(epoch * self.patches_per_epoch + index)
        stored = self.cache.open(case)
        if stored.label is None:
            raise InputError(f"case {case.id} has no label and cannot train")
        shape, spacing = stored.image.shape[1:], spacing_of(stored.affine)
        across = None if self.slices is None else slice_axis(stored.affine, self.slices)
        window = np.array(patch_size if across is None else np.insert(patch_size, across, 1))
        if len(window) != len(shape):
            raise InputError(f"training.patch_size {patch_size} does not fit case {case.id} of {shape}")
        start, size = self._start(random, shape, window, self._centres(stored, index)), window
        transform = None if self.augmentation is None else TrainingTransform(patch_size, self.augmentation)
        if transform is not None:
            transform.set_random_state(int(random.integers(2**32)))
            in_plane = np.arange(len(window)) != across
            size = window.copy()
            size[in_plane] = transform.source_size(spacing[in_plane])
            start = start - (size - window) // 2
        scale = Scale.of(self.cache.intensity, stored.measured)
        image, label = scale(cut(stored.image, start, size, scale.outside)), cut(stored.label, start, size)
        if across is not None:
            image, label = image.squeeze(across + 1), label.squeeze(across + 1)
        patch = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
        return patch if transform is None else transform(patch)

    def _case(self, position: int) -> Case:
        lap, place = divmod(position, len(self.cases))
        return self.cases[np.random.default_rng((self.seed, 1, lap)).permutation(len(self.cases))[place]]

    def _is_oversampled(self, index: int) -> bool:
        return int((index + 1) * self.oversampling) > int(index * self.oversampling)

    def _centres(self, stored: CachedCase, index: int) -> Sequence[np.ndarray]:
        """Voxels of each class about which this patch may lie; none: anywhere."""
        is_oversampled = self._is_oversampled(index) and bool(stored.classes)
        if not is_oversampled and 0 not in stored.counts:
            return ()
        voxels = stored.voxels()
        background = voxels.pop(0, ())
        return [places for places in (*voxels.values(), () if is_oversampled else background) if len(places)]

    def _start(
        self,
        random: np.random.Generator,
        shape: tuple[int, ...],
        window: np.ndarray,
        centres: Sequence[np.ndarray],
    ) -> np.ndarray:
        room = np.array(shape) - window
        if centres:
            voxels = centres[random.integers(len(centres))]
            start = voxels[random.integers(len(voxels))] - window // 2
            start = start.clip(0, np.maximum(room, 0))
        else:
            start = random.integers(0, np.maximum(room, 0) + 1)
        return np.where(room < 0, -(-room // 2), start)


def patch_loader(
    cache: PreparedCache,
    cases: Sequence[Case],
    *,
    patch_size: Sequence[int],
    batch_size: int,
    steps: int,
    oversampling: float,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    slices: Plane | None = None,
    size_of_epoch: Callable[[], tuple[int, ...] | None] = lambda: None,
) -> DataLoader:
    """`steps` batches per epoch, for one of `world` ranks: {"image" (B, C, *P) float32, "label" (B, 1, *P) uint8}.

    Batches do not depend on the number of workers. Workers live on between epochs: call
    `loader.sampler.set_epoch(epoch)` before each.

    Args:
        cache: filled already, or the workers compute what is missing.
        patch_size: P.
        size_of_epoch: is asked at the start of each epoch whether its patches are of another size.
        slices: see `PatchDataset`.
    """
    return DataLoader(
        PatchDataset(cache, cases, patch_size, steps * batch_size * world, oversampling, augmentation, seed, slices),
        batch_size=batch_size,
        sampler=PatchSampler(batch_size, steps, size_of_epoch, epoch, rank, world),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_follow_the_training,
        # Its own generator keeps the loader from moving the random state of the training.
        generator=torch.Generator().manual_seed(seed),
    )


def _follow_the_training(worker: int) -> None:
    """Ctrl-C and SIGTERM often reach the whole process group; a worker heeds the SIGTERM of its parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _without_hang_ups
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_end_with_the_training, daemon=True).start()


def _without_hang_ups(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """A training that is interrupted while it fetches a batch hangs up, which the thread that serves it would tell."""
    if not isinstance(fault, ConnectionError | EOFError):
        sys.__excepthook__(kind, fault, trace)


def _end_with_the_training() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def cut(
    array: np.ndarray | Tiles, start: Sequence[int], size: Sequence[int], outside: float | np.ndarray = 0
) -> np.ndarray:
    """Copy `size` voxels from `start` on out of (C, *S); what lies around is `outside`, one number or (C,)."""
    out = np.empty((array.shape[0], *size), dtype=array.dtype)
    out.reshape(len(out), -1)[:] = np.reshape(outside, (-1, 1))
    source, target = [slice(0, len(out))], [slice(None)]
    for first, length, available in zip(start, size, array.shape[1:], strict=True):
        low, high = max(int(first), 0), min(int(first) + length, available)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - int(first), max(high, low) - int(first)))
    out[tuple(target)] = array[tuple(source)]
    return out
