"""Where voxels lie: grids of a case's files, affines, units, spacings and sizes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from dlka_med.checking.findings import Found
from dlka_med.checking.survey import Survey
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.grid import GRID_TOLERANCE, farthest_apart, spacing_of
from dlka_med.data.nifti import is_singular

ROUNDING = 1e-3  # voxels: what headers in float32 leave of two equal affines, and more
OBLIQUE_DEGREES = 1.0  # below it a structure moves by less than a voxel over 57 voxels
SHEAR = 0.01  # cosine between two axes, half a degree; a rotation written in float32 stays below 1e-5
PIXDIM_TOLERANCE = 0.01  # relative: what some programs round to two digits
PLAUSIBLE_SPACING = (1e-4, 100.0)  # mm: from electron microscopy to scouts
ODD_SPACING = 3.0  # times the median: as far as slices from pixels, where resampling changes its way
ODD_SIZE = 4.0  # times the median: two halvings, so another number of stages would fit


def shapes(survey: Survey) -> Iterator[Found]:
    for facts in survey.readable:
        first, *others = facts.files
        for file in others:
            if file.size != first.size:
                yield Found(file.path, f"it has the size {file.size}, but {first.path} has {first.size}", facts.id)


def affines(survey: Survey) -> Iterator[Found]:
    for facts, path, first, apart in _shifts(survey):
        if apart > GRID_TOLERANCE:
            wrong = f"its affine puts voxels up to {apart:.3g} voxels away from those of {first}"
            yield Found(path, wrong, facts.id)


def noise(survey: Survey) -> Iterator[Found]:
    for facts, path, first, apart in _shifts(survey):
        if ROUNDING < apart <= GRID_TOLERANCE:
            wrong = f"its affine differs from that of {first} by up to {apart:.2g} voxels, which is tolerated"
            yield Found(path, wrong, facts.id)


def singular(survey: Survey) -> Iterator[Found]:
    for facts, file in survey.files():
        if len(file.affine) == 4 and is_singular(file.matrix):
            yield Found(file.path, f"its affine {_rounded(file.matrix[:3, :3])} is singular", facts.id)


def oblique(survey: Survey) -> Iterator[Found]:
    for facts in _volumes(survey):
        cosines = np.abs(_axes(facts)).max(axis=0).clip(max=1)
        degrees = np.degrees(np.arccos(cosines)).max()
        if degrees > OBLIQUE_DEGREES and _shear(facts) <= SHEAR:
            yield Found(facts.images[0].path, f"its axes are up to {degrees:.1f} degrees oblique", facts.id)


def sheared(survey: Survey) -> Iterator[Found]:
    for facts in _volumes(survey):
        if _shear(facts) > SHEAR:
            degrees = np.degrees(np.arcsin(min(_shear(facts), 1)))
            yield Found(facts.images[0].path, f"its axes are sheared by {degrees:.1f} degrees", facts.id)


def left_handed(survey: Survey) -> Iterator[Found]:
    for facts in _volumes(survey):
        if np.linalg.det(_axes(facts)) < 0:
            yield Found(facts.images[0].path, f"its axes are left-handed ({facts.orientation})", facts.id)


def orientations(survey: Survey) -> Iterator[Found]:
    volumes = list(_volumes(survey))
    if len(kinds := Counter(facts.orientation for facts in volumes)) > 1:
        most = kinds.most_common(1)[0][0]
        for facts in volumes:
            if facts.orientation != most:
                wrong = f"its axes point to {facts.orientation}, those of most cases to {most}"
                yield Found(facts.images[0].path, wrong, facts.id)


def pixdim(survey: Survey) -> Iterator[Found]:
    for facts, file in survey.volumes():
        steps, told = spacing_of(file.matrix), np.array(file.pixdim, dtype=np.float64)
        if not (np.abs(told - steps) <= PIXDIM_TOLERANCE * steps).all():
            wrong = f"its affine has the spacing {_mm(steps)}, but pixdim says {_mm(told)}"
            yield Found(file.path, wrong, facts.id)


def forms(survey: Survey) -> Iterator[Found]:
    told = {found.path for found in pixdim(survey)}
    for facts, file in survey.volumes():
        if (file.forms_apart or 0) > GRID_TOLERANCE and file.path not in told:
            wrong = f"its qform and sform put voxels up to {file.forms_apart:.3g} voxels apart; the sform is used"
            yield Found(file.path, wrong, facts.id)


def unit_missing(survey: Survey) -> Iterator[Found]:
    if _other_units(survey):
        return
    for facts, file in survey.volumes():
        if file.unit is None:
            yield Found(file.path, "it names no unit of length and is read in mm", facts.id)


def unit_other(survey: Survey) -> Iterator[Found]:
    for facts, file in survey.volumes():
        if file.unit not in (None, 1.0):
            yield Found(file.path, f"its unit of length is {file.unit:g} mm, and it is read so", facts.id)


def unit_mixed(survey: Survey) -> Iterator[Found]:
    if not (others := _other_units(survey)):
        return
    for facts, file in survey.volumes():
        if file.unit is None and all(other.unit is None for other in facts.files):
            wrong = f"it names no unit of length and is read in mm, but {others[0]} is in another unit"
            yield Found(file.path, wrong, facts.id)


def implausible_spacing(survey: Survey) -> Iterator[Found]:
    low, high = PLAUSIBLE_SPACING
    for facts in _volumes(survey):
        if min(facts.spacing) < low or max(facts.spacing) > high:
            wrong = f"its spacing is {_mm(facts.spacing)}, which no scanner has"
            yield Found(facts.images[0].path, wrong, facts.id)


def odd_spacing(survey: Survey) -> Iterator[Found]:
    told = {found.path for found in implausible_spacing(survey)}
    spacings = {facts.id: np.sort(facts.spacing) for facts in _volumes(survey)}
    for facts, median, factor in _odd(survey, spacings):
        if factor > ODD_SPACING and facts.images[0].path not in told:
            wrong = f"its spacing {_mm(facts.spacing)} is {factor:.1f} times off the median {_mm(median)}"
            yield Found(facts.images[0].path, wrong, facts.id)


def odd_size(survey: Survey) -> Iterator[Found]:
    sizes = {facts.id: np.sort(facts.size) for facts in survey.readable}
    for facts, median, factor in _odd(survey, sizes):
        if factor > ODD_SIZE:
            wrong = f"its size {_times(facts.size)} is {factor:.1f} times off the median {_times(median)}"
            yield Found(facts.images[0].path, wrong, facts.id)


def _shifts(survey: Survey) -> Iterator[tuple[CaseFacts, str, str, float]]:
    """Case, file, first image of the case, and how far voxels are apart, where the sizes agree."""
    for facts, (first, *others) in survey.grids():
        step = spacing_of(first.affine).min()
        for grid in others:
            if grid.shape == first.shape and grid.affine.shape == first.affine.shape:
                apart = farthest_apart(first.affine, grid.affine, first.shape)
                yield facts, str(grid.path), str(first.path), apart / step


def _volumes(survey: Survey) -> Iterator[CaseFacts]:
    return (facts for facts in survey.readable if facts.dims == 3 and facts.orientation)


def _axes(facts: CaseFacts) -> np.ndarray:
    """Directions of the image's axes, one per column, of length 1."""
    linear = facts.images[0].matrix[:3, :3]
    return linear / np.linalg.norm(linear, axis=0)


def _shear(facts: CaseFacts) -> float:
    """Largest cosine between two axes of the image."""
    return float(np.abs(_axes(facts).T @ _axes(facts) - np.eye(3)).max())


def _other_units(survey: Survey) -> list[str]:
    return [file.path for _, file in survey.volumes() if file.unit not in (None, 1.0)]


def _odd(survey: Survey, measures: dict[str, np.ndarray]) -> Iterator[tuple[CaseFacts, np.ndarray, float]]:
    """Case, median of all, and by which factor the case is farthest from it."""
    if not measures:
        return
    median = np.median(list(measures.values()), axis=0)
    for facts in survey.readable:
        if facts.id in measures:
            ratio = measures[facts.id] / median
            yield facts, median, float(np.maximum(ratio, 1 / np.maximum(ratio, 1e-9)).max())


def _mm(spacing) -> str:
    return _times(spacing) + " mm"


def _times(numbers) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _rounded(matrix: np.ndarray) -> list[list[float]]:
    return [[float(f"{entry:.4g}") for entry in row] for row in matrix]
