"""What the blocks share so that one text serves 2D and 3D."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

Choice = TypeVar("Choice", bound=str)

CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


def check_spatial_dims(spatial_dims: int) -> None:
    """Raise ValueError unless `spatial_dims` is 2 or 3."""
    if spatial_dims not in CONV_TRANSPOSE:
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value`, given for the argument `name`, is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def per_channel(weight: Tensor, spatial_dims: int) -> Tensor:
    """A weight of shape (C,) seen as (C, 1, ...), so that it broadcasts over (B, C, *S)."""
    return weight.view(-1, *[1] * spatial_dims)


def per_stage(name: str, value: Choice | Sequence[Choice], stages: int) -> tuple[Choice, ...]:
    """One choice for all stages, or one for each.

    Raises:
        ValueError: another number of them; the message has the `name` of the argument.
    """
    values = (value,) * stages if isinstance(value, str) else tuple(value)
    if len(values) != stages:
        raise ValueError(f"{name} needs one choice for all stages or {stages}, one for each, got {values}")
    return values
