"""Steps that change label maps after the network: components are removed, holes are filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dlka_med.config.labels import LabelScheme
from dlka_med.inference.components import Numbers, Sizes, components, holes, slabs
from dlka_med.metrics import Mask

CLASSES = 256  # that a byte can tell apart
RULE = (
    "Steps follow each other. largest: of a label's components, connected through faces, edges and corners, only the "
    "largest stays (the first of equals); minimum: those of a smaller volume go; label null: of all foreground as one. "
    "What goes becomes background, or of regions what the other regions paint there. holes: what a label encloses, "
    "unconnected with the rest through faces, becomes that label where it was background, or of regions where no other "
    "region loses it."
)

Kind = Literal["largest", "minimum", "holes"]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Step:
    """One change of a label map, see `RULE`.

    Attributes:
        kind: what is done.
        label: the label or region that it is done to; None: the foreground, all labels as one.
        volume: of `minimum`: mm^3, or pixels of 2D images.
    """

    kind: Kind
    label: str | None = None
    volume: float | None = None

    def takes(self, sizes: Sizes, voxel: float) -> NDArray[np.bool_]:
        """Which parts are changed, of parts of so many voxels, each of that volume; never the one of number 0."""
        if self.kind == "largest":
            taken = np.arange(len(sizes)) != np.argmax(sizes)
        elif self.kind == "minimum":
            taken = sizes * voxel < self.volume
        else:
            taken = np.ones(len(sizes), bool)
        taken[0] = False
        return taken

    def told(self, unit: str) -> str:
        """In words."""
        whose = "all foreground" if self.label is None else self.label
        if self.kind == "largest":
            return f"only the largest component of {whose}"
        if self.kind == "minimum":
            return f"no components of {whose} below {self.volume:g} {unit}"
        return f"holes of {whose} filled"


@dataclass(frozen=True)
class Parts:
    """What a step can change in a label map: the components of a label, or its holes.

    Attributes:
        box: where they lie.
        numbers: in the box, the number of each voxel's part, from 1; 0: none.
        sizes: voxels of each part, by number.
        becomes: (256,) what each class becomes where a part is changed.
    """

    box: Box
    numbers: Numbers
    sizes: Sizes
    becomes: NDArray[np.uint8]

    def change(self, classes: NDArray[np.uint8], taken: NDArray[np.bool_]) -> None:
        """Change these parts of the map, in place."""
        inside = classes[self.box]
        for rows in slabs(self.numbers.shape):
            chosen = taken[self.numbers[rows]]
            inside[rows][chosen] = self.becomes[inside[rows][chosen]]


def postprocess(
    classes: NDArray[np.uint8], steps: Sequence[Step], scheme: LabelScheme, voxel: float = 1.0
) -> NDArray[np.uint8]:
    """A label map after all steps, one after the other.

    Beside the two maps, memory holds four bytes per voxel of the box of a label.

    Args:
        classes: class indices (*S), 2D or 3D; left as they are.
        scheme: which classes are a label, and what regions paint.
        voxel: volume of a voxel in the unit of the steps, see `voxel_volume`.

    Raises:
        ValueError: a step names no label of the scheme.
    """
    result = classes.copy()
    boxes, before = boxes_of(result), None
    for step in steps:
        if step.label is not None and step.label not in scheme.targets:
            raise ValueError(f"there is no label {step.label!r}; known are {', '.join(scheme.names)}")
        # What is left of a region can be a class that was not there; without islands boxes are many times smaller.
        kind = step.label is None, step.kind == "holes"
        if before is not None and (scheme.has_regions or kind != before):
            boxes = boxes_of(result)
        _do(step, result, scheme, boxes, voxel)
        before = kind
    return result


def voxel_volume(affine: np.ndarray) -> float:
    """Of an affine, voxel -> world: in mm^3, of the 3x3 one of a 2D image in pixels."""
    return float(abs(np.linalg.det(affine[:-1, :-1])))


def boxes_of(classes: NDArray[np.uint8]) -> list[Box | None]:
    """The bounding box of each class from 1 on."""
    found = ndimage.find_objects(classes)
    return found + [None] * (CLASSES - 1 - len(found))


def find_parts(
    classes: NDArray[np.uint8], label: str | None, scheme: LabelScheme, boxes: Sequence[Box | None], *, of_holes: bool
) -> Parts | None:
    """The components of a label (None: of all foreground), or its holes; None if the map has no voxel of it.

    Args:
        boxes: in which each class lies, from 1 on; they may be too large.
    """
    indices = range(1, CLASSES) if label is None else scheme.targets[label]
    box = _around([found for index in indices if (found := boxes[index - 1]) is not None])
    if box is None:
        return None
    mask = classes[box] > 0 if label is None else scheme.mask(label, classes[box])
    numbers, sizes = holes(mask) if of_holes else components(mask)
    return Parts(box, numbers, sizes, _filled(label, scheme) if of_holes else _removed(label, scheme))


def _do(step: Step, classes: NDArray[np.uint8], scheme: LabelScheme, boxes: Sequence[Box | None], voxel: float) -> None:
    """Change the map in place. (A function of its own: the numbers of one step are gone before the next.)"""
    parts = find_parts(classes, step.label, scheme, boxes, of_holes=step.kind == "holes")
    if parts is not None:
        parts.change(classes, step.takes(parts.sizes, voxel))


def members(label: str | None, scheme: LabelScheme) -> Mask:
    """(256,) whether a class belongs to a label, or with None to the foreground; what is to be ignored to none."""
    inside = np.zeros(CLASSES, bool)
    inside[np.arange(1, len(scheme.values)) if label is None else list(scheme.targets[label])] = True
    return inside


def _removed(label: str | None, scheme: LabelScheme) -> NDArray[np.uint8]:
    """What each class becomes without a region: the last that another one of its regions paints, outside of this."""
    becomes = np.zeros(CLASSES, np.uint8)
    if label is None or scheme.painted is None:
        return becomes
    for painted, region in zip(scheme.painted, scheme.targets.values(), strict=True):
        if painted not in scheme.targets[label]:
            becomes[list(region)] = painted
    return becomes


def _filled(label: str | None, scheme: LabelScheme) -> NDArray[np.uint8]:
    """What each class becomes within a region: what it paints, if every region of the class holds that too."""
    becomes = np.arange(CLASSES, dtype=np.uint8)
    place = scheme.names.index(label)
    painted = scheme.targets[label][0] if scheme.painted is None else scheme.painted[place]
    for index in range(len(scheme.values)):
        if all(painted in region for region in scheme.targets.values() if index in region):
            becomes[index] = painted
    return becomes


def _around(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
