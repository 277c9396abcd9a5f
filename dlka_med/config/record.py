"""What all sections of a config are made of."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Probability = Annotated[float, Field(ge=0, le=1)]


def ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"expected two numbers, the smaller one first, so [{values[1]:g}, {values[0]:g}]")
    return values


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(ascending)]
Share = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
Spacing = Annotated[tuple[PositiveFloat | None, ...], Field(min_length=2, max_length=3)]
Plane = Literal["axial", "coronal", "sagittal"]


class Record(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
