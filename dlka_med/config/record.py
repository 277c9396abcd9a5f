"""What all sections of a config are made of."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes

KINDS = ("(one value)", "(several)")
# What is one value or several is told apart before it is checked, so that a mistake is told once.
BY_KIND = Discriminator(lambda value: KINDS[isinstance(value, list | tuple | dict)])

Probability = Annotated[float, Field(ge=0, le=1)]


def ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"expected two numbers, the smaller one first, so [{values[1]:g}, {values[0]:g}]")
    return values


def different(names: tuple[str | int, ...]) -> tuple[str | int, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice: once is enough")
    return names


def usable_path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot hold the null character")
    longest = max(len(os.fsencode(part)) for part in path.replace("\\", "/").split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        raise ValueError(
            f"too long for a path: at most {LONGEST_PATH} bytes, and {LONGEST_NAME} from one slash to the next"
        )
    return path


FilePath = Annotated[str, AfterValidator(usable_path)]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(ascending)]
Share = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
Spacing = Annotated[tuple[PositiveFloat | None, ...], Field(min_length=2, max_length=3)]
Plane = Literal["axial", "coronal", "sagittal"]


class Record(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        for key, field in cls.model_fields.items() if isinstance(values, Mapping) else ():
            if _holds_truth(values.get(key)) and not _allows_truth(field.annotation):
                raise ValueError(f"{key} holds true or false, which are no numbers")
        return values


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _allows_truth(annotation: Any) -> bool:
    return annotation is bool or any(map(_allows_truth, get_args(annotation)))
