"""What one pass over the files of a case tells: records that become JSON and come back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dlka_med.data.grey import GreyValues, Moments

FOREGROUND_PERCENTILES = (0.5, 5, 25, 50, 75, 95, 99.5)

Affine = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class FileFacts:
    """One file, by its name, its header and the shape of what it holds.

    Args:
        path: as the case names it.
        bytes: None: there is no such file.
        modified: ns since the epoch.
        problem: why it cannot be used, in the words of the reader; None: it can. What follows is known of a file that
            can be opened, even if its axes or affine are wrong.
        shape: all axes, as stored; of a 2D image (rows, columns), upright.
        size: S, the spatial axes; empty if `shape` is no volume.
        channels: how many the file holds.
        dtype: of the voxels on disk.
        mode: Pillow's, of a 2D image.
        exif: orientation in the EXIF data, 1 for upright.
        has_colours: its voxels are RGB: of a volume triples, of a label map colours.
        affine: voxel -> world (mm) 4x4, of a 2D image 3x3; entries that are not finite are None.
        pixdim: the header's own mm per voxel.
        forms_apart: how far qform and sform put a voxel apart, in voxels; None: there are no two forms.
        unit: of length in the file, in mm; None: it names none.
    """

    path: str
    bytes: int | None = None
    modified: int = 0
    problem: str | None = None
    shape: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    channels: int = 0
    dtype: str = ""
    mode: str | None = None
    exif: int = 1
    has_colours: bool = False
    affine: Affine = ()
    pixdim: tuple[float | None, ...] = ()
    forms_apart: float | None = None
    unit: float | None = 1.0

    @property
    def matrix(self) -> np.ndarray:
        """The affine as array, with NaN where an entry is not finite."""
        return np.array(self.affine, dtype=np.float64)


@dataclass(frozen=True)
class Foreground:
    """Grey values of the labelled voxels: how many there are, and moments and percentiles of at most 10 000."""

    voxels: int
    mean: float
    std: float
    percentiles: tuple[float, ...]


@dataclass(frozen=True)
class ChannelFacts:
    """Grey values of one channel, those that are not finite left out.

    Args:
        digest: of size and voxels, whatever the header, the number type and the compression.
        grey: of the crop to the foreground, as `dlka_med.data.grey` measures it.
        foreground: None without a label on the same grid, or where nothing is labelled.
    """

    path: str
    digest: str
    voxels: int
    nan: int
    infinite: int
    minimum: float
    maximum: float
    border_zeros: float
    grey: GreyValues
    foreground: Foreground | None = None

    @property
    def is_constant(self) -> bool:
        return self.minimum == self.maximum


@dataclass(frozen=True)
class ValueFacts:
    """The voxels of one value of a label map.

    Args:
        extent: of the box around them, per axis, in voxels.
        runs: the longest unbroken row of them along each axis, in voxels.
        components: connected pieces (faces); None where counting them is slow, and for 0.
    """

    value: int
    voxels: int
    extent: tuple[int, ...]
    runs: tuple[int, ...] = ()
    components: int | None = None


@dataclass(frozen=True)
class LabelFacts:
    """A label map as stored, whatever is declared.

    Args:
        values: by value; at most `label_facts.MAX_VALUES`, the most frequent.
        unlisted: voxels of further values.
        fractional: voxels between whole numbers, or of numbers too large for a label.
        not_finite: NaN and infinite voxels.
        colours: hexadecimal RGB and how many pixels, the most frequent first; of a colour picture alone.
        digest: of size and voxels, whatever the header, the number type and the compression; "" if they are unusable.
    """

    file: FileFacts
    values: tuple[ValueFacts, ...] = ()
    unlisted: int = 0
    fractional: int = 0
    not_finite: int = 0
    colours: tuple[tuple[str, int], ...] = ()
    digest: str = ""

    @property
    def voxels(self) -> dict[int, int]:
        """Voxels by value."""
        return {entry.value: entry.voxels for entry in self.values}

    @property
    def is_empty(self) -> bool:
        """Whether it can be used, and all of it is 0."""
        return set(self.voxels) == {0} and not self.fractional and not self.not_finite


@dataclass(frozen=True)
class CaseFacts:
    """All files of a case. Of a damaged case what is known is there, and the rest is empty.

    Args:
        channels: in the dataset's order; empty if a file cannot be read.
        size, spacing: of the image, S and mm per voxel (of a 2D image pixels), along its axes as stored.
        orientation: where the axes of a volume point, such as "RAS"; "" if nobody knows.
        cropped: size of the box around all that is not 0 in all channels.
    """

    id: str
    images: tuple[FileFacts, ...]
    label: LabelFacts | None = None
    channels: tuple[ChannelFacts, ...] = ()
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    cropped: tuple[int, ...] = ()
    dims: int = field(default=3)

    @property
    def files(self) -> tuple[FileFacts, ...]:
        """Images, then the label."""
        return self.images if self.label is None else (*self.images, self.label.file)

    @property
    def is_readable(self) -> bool:
        """Whether all files could be opened and hold volumes or 2D images."""
        return all(file.problem is None for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`, without NaN."""
        return asdict(self)

    @classmethod
    def of_json(cls, entry: Mapping[str, Any]) -> "CaseFacts":
        """Back from `to_json`."""
        facts = _tuples(dict(entry))
        label = facts["label"]
        if label is not None:
            values = tuple(ValueFacts(**value) for value in label["values"])
            label = LabelFacts(**label | {"file": FileFacts(**label["file"]), "values": values})
        images = tuple(FileFacts(**file) for file in facts["images"])
        channels = tuple(_channel(channel) for channel in facts["channels"])
        return cls(**facts | {"images": images, "label": label, "channels": channels})


def _channel(entry: dict[str, Any]) -> ChannelFacts:
    grey, inside = entry["grey"], entry["foreground"]
    moments = {key: Moments(**grey[key]) for key in ("whole", "nonzero")}
    foreground = None if inside is None else Foreground(**inside)
    return ChannelFacts(**entry | {"grey": GreyValues(**grey | moments), "foreground": foreground})


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
