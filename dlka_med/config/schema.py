"""What a run is, as checked data: one record per section of the YAML file."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from dlka_med.config.dataset import Dataset, Preprocessing
from dlka_med.config.network import Network
from dlka_med.config.record import Record, different
from dlka_med.config.training import Training


class Inference(Record):
    """How a whole case is predicted."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of neighbouring windows")
    batch_size: PositiveInt = Field(1, description="windows per forward pass")
    mirror_axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], AfterValidator(different)] = Field(
        (), description="axes of test-time mirroring, whether training mirrored them or not"
    )


class RunConfig(Record):
    """One experiment, complete."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200, description="name of the run folder")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    dataset: Dataset
    preprocessing: Preprocessing = Preprocessing()
    network: Network
    training: Training
    inference: Inference = Inference()

    @property
    def image_dims(self) -> int:
        """3 if the cases are volumes, 2 if they are 2D images."""
        return 2 if self.network.spatial_dims == 2 and self.dataset.slices is None else 3

    @property
    def dims_key(self) -> str:
        """The key of the network that decides whether it sees volumes."""
        return "spatial_dims" if "spatial_dims" in type(self.network).model_fields else "name"

    @model_validator(mode="after")
    def _dimensions_agree(self) -> "RunConfig":
        name, dims = self.network.name, self.network.spatial_dims
        has_choice = self.dims_key == "spatial_dims"
        known = f"network.spatial_dims is {dims}" if has_choice else f"{name} is {dims}D"
        if self.dataset.slices is not None and dims == 3:
            other = ", or network.spatial_dims to 2" if has_choice else ""
            raise ValueError(
                f"dataset.slices is {self.dataset.slices}, but {name} sees whole volumes: set it to null{other}"
            )
        if len(self.training.patch_size) != dims:
            raise ValueError(
                f"training.patch_size has {len(self.training.patch_size)} axes, but {known}: give {dims} numbers"
            )
        spacing = self.preprocessing.spacing
        if spacing is not None and len(spacing) != self.image_dims:
            raise ValueError(
                f"preprocessing.spacing has {len(spacing)} axes, but {name} with dataset.slices "
                f"{self.dataset.slices or 'null'} reads {self.image_dims}D images: give {self.image_dims} numbers"
            )
        mirrored = {
            "inference.mirror_axes": self.inference.mirror_axes,
            "training.augmentation.flip_axes": self.training.augmentation.flip_axes or (),
        }
        for key, axes in mirrored.items():
            if any(axis >= dims for axis in axes):
                raise ValueError(f"{key} is {list(axes)}, but {known}: its axes are numbered 0 to {dims - 1}")
        return self

    @model_validator(mode="after")
    def _every_scale_has_a_weight(self) -> "RunConfig":
        weights, scales = self.training.loss.scale_weights, self.network.supervised_scales
        if weights is not None and len(weights) != scales:
            raise ValueError(
                f"training.loss.scale_weights has {len(weights)} entries, "
                f"but network.supervised_scales is {scales}: one each is needed"
            )
        return self

    @model_validator(mode="after")
    def _patch_fits_the_network(self) -> "RunConfig":
        self.network.check_patch(self.training.patch_size, self.training.batch_size)
        return self
