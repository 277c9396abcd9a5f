"""The cases of a run, and their deterministic way to the network's grid."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    StrictInt,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from dlka_med.config.labels import LabelScheme
from dlka_med.config.record import BY_KIND, KINDS, FilePath, Plane, Record, Spacing, usable_path

Value = Annotated[
    Annotated[StrictInt, Tag(KINDS[0])] | Annotated[tuple[StrictInt, ...], Tag(KINDS[1])],
    BY_KIND,
]
Byte = Annotated[StrictInt, Field(ge=0, le=255)]
CodeValue = Annotated[str, Field(min_length=1, max_length=16)]
CodeMeaning = Annotated[str, Field(min_length=1, max_length=64)]


class Segment(Record):
    """How a label is shown and coded in DICOM-SEG."""

    color: tuple[Byte, Byte, Byte] | None = Field(
        None, description="red, green and blue from 0 to 255; null: the viewer's"
    )
    code: tuple[CodeValue, CodeValue, CodeMeaning] | None = Field(
        None, description="value, scheme and meaning, such as [10200004, SCT, Liver]; null: one of this program's own"
    )


def declared_segments(segments: Any, labels: Collection[str]) -> dict[str, Segment]:
    """Colours and codes by label.

    Raises:
        ValueError: they are not as in `Segment`, or of an unknown label.
    """
    try:
        found = TypeAdapter(dict[str, Segment]).validate_python(segments)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if strangers := [name for name in found if name not in labels]:
        raise ValueError(f"{strangers[0]!r} is no label; labels are {', '.join(labels)}")
    return found


class Dataset(Record):
    """Where the cases are and which of them train, validate and test."""

    root: FilePath = Field(description="folder of the dataset: Decathlon or nnU-Net v2 layout, or images beside labels")
    channels: tuple[str, ...] | None = Field(None, description="names of the image channels; null: as the dataset says")
    labels: dict[str, Value] | None = Field(
        None,
        description="label names and values; a list of values is a region, the label ignore counts nowhere; null: as "
        "the dataset says",
    )
    regions_class_order: tuple[StrictInt, ...] | None = Field(
        None, description="the value that each region paints, in the order of the regions; null: as the dataset says"
    )
    segments: dict[str, Segment] | None = Field(
        None, description="colours and codes of labels in DICOM-SEG, by name; null: as the dataset says, if it does"
    )
    slices: Plane | None = Field(
        None, description="a 2D network sees volumes slice by slice in this plane; null: cases are what it sees"
    )
    groups: FilePath | None = Field(None, description="CSV file of cases and groups; null: that of the dataset, if any")
    folds: Annotated[int, Field(ge=2)] | str = Field(
        5,
        description="number of cross-validation folds, or a JSON file of them: lists of case ids, or splits_final.json "
        "of nnU-Net; cases that it does not name join",
    )
    folds_may_leak: bool = Field(False, description="whether a group may lie in several folds of that file")
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0, description="the fold that validates; all: every case trains and none validates"
    )
    test_cases: tuple[str, ...] = Field((), description="case ids that neither train nor validate")
    cache: FilePath | None = Field(
        None, description="folder for preprocessed cases, shared by runs; null: dlka_med in the user's cache directory"
    )
    cache_gib: PositiveFloat = Field(
        50.0, description="size of that folder in GiB; the cases that went unused longest make room"
    )

    @property
    def scheme(self) -> LabelScheme:
        """What the labels mean, once they are known."""
        return LabelScheme.of(self.labels or {}, self.regions_class_order)

    @field_validator("folds", mode="before")
    @classmethod
    def _folds_are_a_number_or_a_file(cls, folds: object) -> object:
        if isinstance(folds, str):
            return usable_path(folds)
        if not isinstance(folds, int) or isinstance(folds, bool) or folds < 2:
            raise ValueError("expected a number of folds, 2 or more, or the path of a JSON file of folds")
        return folds

    @field_validator("fold", mode="before")
    @classmethod
    def _fold_is_a_number_or_all(cls, fold: object) -> object:
        if fold != "all" and (not isinstance(fold, int) or isinstance(fold, bool) or fold < 0):
            raise ValueError("expected the number of a fold, counted from 0, or all")
        return fold

    @model_validator(mode="after")
    def _fold_exists(self) -> "Dataset":
        if isinstance(self.folds, int) and self.fold != "all" and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, but {self.folds} folds are numbered 0 to {self.folds - 1}")
        return self


class Intensity(Record):
    """How the voxels of one channel are normalised."""

    kind: Literal["ct", "zscore", "zscore_nonzero", "robust", "robust_nonzero", "none"] = Field(
        description="ct: clip to percentiles of the foreground and standardise; zscore: mean 0, deviation 1 per image; "
        "robust: the same, clipped to the image's 0.5th and 99.5th percentile; _nonzero: those of voxels that are not 0"
    )
    lower: float | None = Field(
        None, description="ct: clipped below; null: 0.5th percentile of the training foreground"
    )
    upper: float | None = Field(
        None, description="ct: clipped above; null: 99.5th percentile of the training foreground"
    )
    mean: float | None = Field(None, description="ct: subtracted; null: mean of the training foreground")
    std: PositiveFloat | None = Field(None, description="ct: divided by; null: deviation of the training foreground")

    @model_validator(mode="after")
    def _bounds_ascend(self) -> "Intensity":
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower is {self.lower:g}, but must be less than upper, which is {self.upper:g}")
        return self


Intensities = Annotated[
    Annotated[Literal["auto"], Tag(KINDS[0])] | Annotated[tuple[Intensity, ...], Tag(KINDS[1])], BY_KIND
]


class Preprocessing(Record):
    """The deterministic way of an image from disk to the network's grid."""

    orientation: str | None = Field(
        "RAS", description="axes of volumes; null: as stored", json_schema_extra={"pattern": "^[RLAPSI]{3}$"}
    )
    spacing: Spacing | None = Field(
        None, description="mm per voxel of the network's grid, in 2D pixels; null, of one axis or all: as stored"
    )
    crop_foreground: bool = Field(True, description="cut away the empty border (zero in all channels)")
    intensity: Intensities = Field(
        "auto",
        description="one entry per channel; auto: ct where the channel is called CT, else zscore_nonzero if half the "
        "images have an empty surrounding of 0, else zscore",
    )

    @field_validator("orientation")
    @classmethod
    def _orientation_names_every_axis(cls, codes: str | None) -> str | None:
        if codes is None:
            return None
        if len(codes) != 3 or any(len(set(codes) & set(pair)) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError("expected one letter of each of the pairs R/L, A/P and S/I, for example RAS")
        return codes
