"""What a run is, as checked data."""

from dlka_med.config.schema import RunConfig

__all__ = ["RunConfig"]
