"""What the values of a label map mean, and how the outputs of a network tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_LABELS = 255  # Class indices take one byte, of which one value says that a voxel is to be ignored.
MAX_VALUE = 65535
IGNORED = 255
IGNORE = "ignore"

Declared = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class LabelScheme:
    """Labels of a dataset, in nnU-Net's words: values, names, regions and an ignore label.

    Inside the package a label holds class indices, positions in `values`, and `IGNORED`. Without regions a network
    has one output per class, decided by the largest (softmax). Regions are sets of values that may overlap: a network
    has one output for each, decided by itself (sigmoid), and the regions found are painted over each other.

    Attributes:
        values: label values by class index, ascending, the background (0) first.
        targets: what metrics score, by name, as class indices: the labels without background, or the regions.
        ignore: value of voxels about which nobody knows; None: there is none.
        painted: class index that each region paints, in the order of painting; None without regions, or where the
            order is not known.
    """

    values: tuple[int, ...]
    targets: dict[str, tuple[int, ...]]
    ignore: int | None = None
    painted: tuple[int, ...] | None = None
    has_regions: bool = False

    @classmethod
    def of(cls, declared: Declared | LabelScheme, order: Sequence[int] | None = None) -> LabelScheme:
        """The scheme of `{name: value or region}`.

        Args:
            order: `regions_class_order`, the value that each region paints, region by region.

        Raises:
            ValueError: see `declared_labels`; or `order` does not fit the regions.
        """
        if isinstance(declared, LabelScheme):
            return declared
        labels = declared_labels(declared)
        ignore = labels.pop(IGNORE, None)
        regions = {name: (value,) if isinstance(value, int) else value for name, value in labels.items()}
        values = tuple(sorted({0, *(value for region in regions.values() for value in region)}))
        index = {value: position for position, value in enumerate(values)}
        targets = {name: tuple(index[v] for v in region) for name, region in regions.items() if region != (0,)}
        has_regions = any(not isinstance(value, int) for value in labels.values())
        painted = None
        if order is not None:
            _check_order(order, {name: regions[name] for name in targets}, has_regions)
            painted = tuple(index[value] for value in order) if has_regions else None
        return cls(values, targets, ignore, painted, has_regions)

    @property
    def names(self) -> tuple[str, ...]:
        """Of what metrics score, in the order of the outputs."""
        return tuple(self.targets)

    @property
    def outputs(self) -> int:
        """Channels of the network's logits."""
        return len(self.targets) if self.has_regions else len(self.values)

    @property
    def regions(self) -> tuple[tuple[int, ...], ...] | None:
        """Class indices of each region, in the order of the outputs; None without regions."""
        return tuple(self.targets.values()) if self.has_regions else None

    @property
    def ignore_index(self) -> int | None:
        """Class index that counts nowhere; None without an ignore label."""
        return None if self.ignore is None else IGNORED

    @property
    def target_values(self) -> dict[str, tuple[int, ...]]:
        """What metrics score, by name, as values of label maps."""
        return {name: tuple(self.values[index] for index in indices) for name, indices in self.targets.items()}

    @property
    def value_names(self) -> dict[int, str]:
        """What each value but the background is called: after the label, or the smallest region that holds it."""
        largest_first = sorted(self.target_values.items(), key=lambda item: -len(item[1]))
        named = {value: name for name, values in largest_first for value in values}
        return {value: named[value] for value in self.values if value} | ({self.ignore: IGNORE} if self.ignore else {})

    def __str__(self) -> str:
        named = {name: values if self.has_regions else values[0] for name, values in self.target_values.items()}
        return str({"background": 0} | named | ({} if self.ignore is None else {IGNORE: self.ignore}))

    def mask(self, name: str, classes: np.ndarray) -> np.ndarray:
        """Where class indices belong to a target."""
        first, *others = self.targets[name]
        mask = classes == first
        for index in others:
            mask |= classes == index
        return mask


def declared_labels(declared: Any) -> dict[str, int | tuple[int, ...]]:
    """Values and regions by name, of `{name: value}` or the Decathlon's `{"value": name}`.

    Without regions they ascend, with regions they keep their order; `ignore` is the last.

    Raises:
        ValueError: it is neither; a value is no whole number from 0 to 65535, or shared by two labels; a region is
            empty, holds the background or what is ignored; or there are too many values.
    """
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError(f'the labels must be declared like {{"background": 0, "tumour": 1}}, got {declared!r}')
    pairs = list(declared.items())
    if all(str(key).isdecimal() and isinstance(name, str) for key, name in pairs):
        pairs = [(name, int(key)) for key, name in pairs]
    labels = {name: _checked_value(name, value) for name, value in pairs}
    if len(labels) < len(pairs):
        raise ValueError(f"two labels share a name in {dict(declared)}; give each its own")
    ignore = labels.pop(IGNORE, None)
    if isinstance(ignore, tuple) or ignore == 0:
        raise ValueError(f"the label {IGNORE!r} must have one value that is not 0, got {ignore!r}")
    plain = all(isinstance(value, int) for value in labels.values())
    if plain:
        labels = dict(sorted(labels.items(), key=lambda pair: pair[1]))
    if plain and len(set(labels.values())) < len(labels):
        raise ValueError(f"two labels share a value in {dict(declared)}; give each its own")
    values = set()
    for name, value in labels.items():
        inside = {value} if isinstance(value, int) else set(value)
        if 0 in inside and inside != {0}:
            raise ValueError(f"the region {name!r} holds the background (0): leave it out of the region")
        if ignore in inside:
            raise ValueError(f"the label {name!r} has the value {ignore}, which is that of {IGNORE!r}")
        values |= inside
    values.add(0)
    if len(values) > MAX_LABELS:
        raise ValueError(f"there are {len(values)} labels, but with the background {MAX_LABELS} is the most: drop some")
    return labels if ignore is None else {**labels, IGNORE: ignore}


def _checked_value(name: str, value: Any) -> int | tuple[int, ...]:
    single = not isinstance(value, list | tuple)
    for entry in (value,) if single else value:
        if not isinstance(entry, int) or isinstance(entry, bool) or not 0 <= entry <= MAX_VALUE:
            kinds = "label {!r} must have a whole number" if single else "region {!r} must have whole numbers"
            raise ValueError(f"the {kinds.format(name)} from 0 to {MAX_VALUE}, got {value!r}")
    if single:
        return value
    if not value or len(set(value)) < len(value):
        raise ValueError(f"the region {name!r} needs values, each of them once, got {list(value)}")
    # The background may be spelt as a region.
    return 0 if list(value) == [0] else tuple(value)


def _check_order(order: Sequence[int], regions: Mapping[str, tuple[int, ...]], has_regions: bool) -> None:
    if not has_regions:
        raise ValueError(f"regions_class_order is {list(order)}, but no label is a region: remove it")
    if len(order) != len(regions):
        raise ValueError(
            f"regions_class_order is {list(order)}, but needs one value for each of the {len(regions)} regions "
            f"{list(regions)}"
        )
    for value, (name, region) in zip(order, regions.items(), strict=True):
        if value not in region:
            raise ValueError(f"regions_class_order paints the region {name!r} as {value}, but it holds {list(region)}")
