"""A case as its network sees it: the windows, the labels in them, and the places worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dlka_med.config.labels import IGNORED
from dlka_med.data.cases import find_cases
from dlka_med.data.channel_files import check_dims
from dlka_med.data.grid import spacing_of
from dlka_med.data.intensity import named_intensity
from dlka_med.data.prepare import prepare
from dlka_med.data.slices import slice_axis
from dlka_med.errors import InputError
from dlka_med.inference.cases import lies_in
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import Layout
from dlka_med.run_folder import RunFolder

MARGIN = 0.15  # of the image along each axis, where kernels are held by its border


@dataclass(frozen=True)
class Window:
    """A part of the image that the network sees at once.

    Args:
        image: (C, *S) of the window's size; around a smaller image stands what an empty voxel is.
        labels: (*S) class indices; IGNORED outside the image.
        origin: voxel of the view at its near corner; negative where the image is smaller.
        inside: the part (*S) that lies in the image.
    """

    image: Tensor
    labels: NDArray[np.uint8]
    origin: tuple[int, ...]
    inside: tuple[slice, ...]

    def flat(self) -> Tensor:
        """The window with the mean of each channel in all voxels of the image."""
        image, part = self.image.clone(), (slice(None), *self.inside)
        image[part] = image[part].mean(tuple(range(1, image.ndim)), keepdim=True)
        return image


@dataclass(frozen=True)
class View:
    """A case, or the slice of it that a 2D network sees.

    Args:
        image: (C, *S) normalised, on the network's grid.
        labels: (*S) class indices, of the network's own prediction or of a label file.
        spacing: mm per voxel; of 2D images in pixels.
        told: where the labels come from.
        slice: of the volume that is shown, for networks that see slices.
        codes: the end of the body that each axis runs to, such as R, A, S; empty of 2D images.
    """

    case_id: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    empty: tuple[float, ...]
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    unit: str
    told: str
    slice: int | None = None
    codes: tuple[str, ...] = ()

    def window(self, origin: Sequence[int]) -> Window:
        """The window whose near corner is this voxel."""
        shape = self.image.shape[1:]
        seen, inside = [], []
        for start, length, size in zip(origin, self.patch, shape, strict=True):
            seen.append(slice(max(start, 0), min(start + length, size)))
            inside.append(slice(seen[-1].start - start, seen[-1].stop - start))
        image = np.empty((len(self.image), *self.patch), np.float32)
        image[...] = np.array(self.empty or [0.0] * len(image), np.float32).reshape(-1, *[1] * len(shape))
        image[(slice(None), *inside)] = self.image[(slice(None), *seen)]
        labels = np.full(self.patch, IGNORED, np.uint8)
        labels[tuple(inside)] = self.labels[tuple(seen)]
        return Window(torch.from_numpy(image), labels, tuple(origin), tuple(inside))

    def windows(self, most: int) -> tuple[list[Window], int]:
        """At most so many windows that do not overlap more than they must, those with most labelled voxels, and how
        many there are in all.
        """
        places = [
            tuple(s.start - i.start for s, i in zip(place.seen, place.inside, strict=True)) for place in self._layout
        ]
        held = [np.count_nonzero(self._labelled[place.seen]) for place in self._layout]
        best = np.argsort([-n for n in held], kind="stable")[:most]
        return [self.window(places[index]) for index in sorted(best)], len(places)

    def around(self, place: Sequence[int]) -> Window:
        """The window about a voxel, moved into the image where there is room."""
        origin = []
        for at, length, size in zip(place, self.patch, self.image.shape[1:], strict=True):
            origin.append(min(max(at - length // 2, 0), size - length) if size > length else -((length - size) // 2))
        return self.window(origin)

    def places(self, most: int) -> list[tuple[int, ...]]:
        """Voxels at the border of structures, labels in turn from the largest, each far from the others; the middle
        of the image where nothing is labelled.
        """
        chosen: list[tuple[int, ...]] = []
        values, counts = np.unique(self.labels[self._labelled], return_counts=True)
        queue = [int(value) for value in values[np.argsort(-counts, kind="stable")]]
        borders = {value: self._inner(_border(self.labels == value)) for value in queue}
        while queue and len(chosen) < most:
            value = queue[len(chosen) % len(queue)]
            found = borders[value]
            reference = np.array(chosen if chosen else [found.mean(0)], float)
            away = np.linalg.norm((found[:, None] - reference) * self.spacing, axis=2).min(1)
            index = int(away.argmax() if chosen else away.argmin())
            if chosen and away[index] == 0:
                break
            chosen.append(tuple(map(int, found[index])))
        return chosen or [tuple(size // 2 for size in self.image.shape[1:])]

    def _inner(self, found: NDArray[np.intp]) -> NDArray[np.intp]:
        """Those voxels (N, d) that are not near the border of the image, if there are any."""
        shape = np.array(self.labels.shape)
        inner = ((found >= shape * MARGIN) & (found < shape * (1 - MARGIN))).all(1)
        return found[inner] if inner.any() else found

    @property
    def _labelled(self) -> NDArray[np.bool_]:
        return (self.labels > 0) & (self.labels != IGNORED)

    @property
    def _layout(self) -> Layout:
        return Layout.of(self.image.shape[1:], self.patch, 0)


def read_view(run: RunFolder, predictor: Predictor, image: str | Path, label: str | Path | None = None) -> View:
    """The one case that `image` names, as the run's network sees it.

    Raises:
        InputError: there is no such image, it is of another kind than the run's, there are several, or the label file
            does not fit it.
    """
    config = run.config
    channels, preprocessing = config.dataset.channels or (), config.preprocessing
    cases = find_cases(image, channels, config.dataset.labels, renamed=lies_in(image, config.dataset.root))
    if len(cases) > 1:
        raise InputError(f"{image} holds {len(cases)} cases, such as {cases[0].images[0]}: name one image")
    check_dims(cases, config.image_dims, f"the run {run.path} was trained on")
    (case,) = cases
    if label is not None:
        case = replace(case, label=Path(label))
    scheme = config.dataset.scheme
    prepared = prepare(case, preprocessing, channels, None if label is None else scheme)
    prepared = prepared.normalised(named_intensity(preprocessing, channels))
    labels = prepared.label
    if labels is None:
        own_grid = {"native_affine": prepared.affine, "native_shape": prepared.image.shape[1:]}
        labels = predictor.segment(replace(prepared, **own_grid))
    told = "prediction" if label is None else str(label)
    spacing = tuple(float(step) for step in spacing_of(prepared.affine))
    shown, at, unit = prepared.image, None, "mm" if config.image_dims == 3 else "pixels"
    codes = nib.aff2axcodes(prepared.affine) if len(prepared.affine) == 4 else ()
    if predictor.slices is not None:
        axis = slice_axis(prepared.affine, predictor.slices)
        others = tuple(other for other in range(labels.ndim) if other != axis)
        counts = ((labels > 0) & (labels != IGNORED)).sum(others)
        at = int(counts.argmax()) if counts.any() else labels.shape[axis] // 2
        shown, labels = shown.take(at, axis + 1), labels.take(at, axis)
        spacing = tuple(step for other, step in enumerate(spacing) if other != axis)
        codes = tuple(code for other, code in enumerate(codes) if other != axis)
    shown = np.ascontiguousarray(shown)
    return View(case.id, shown, labels, prepared.empty, spacing, predictor.patch_size, unit, told, at, codes)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Voxels (N, d) of a mask beside others."""
    inside = ndimage.binary_erosion(mask, border_value=1)
    found = np.argwhere(mask & ~inside)
    return found if len(found) else np.argwhere(mask)
