"""What a run is, as checked data: one record per section of the YAML file."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"expected two numbers, the smaller one first, so [{values[1]:g}, {values[0]:g}]")
    return values


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
Share = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
Spacing = Annotated[tuple[PositiveFloat | None, ...], Field(min_length=2, max_length=3)]
Plane = Literal["axial", "coronal", "sagittal"]


class Record(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Dataset(Record):
    """Where the cases are and which of them train, validate and test."""

    root: str = Field(description="folder of the dataset (Decathlon or nnU-Net v2 layout, or images beside labels)")
    channels: tuple[str, ...] | None = Field(None, description="names of the image channels; null: as the dataset says")
    labels: dict[str, int] | None = Field(None, description="label names and values; null: as the dataset says")
    slices: Plane | None = Field(
        None, description="a 2D network sees volumes slice by slice in this plane; null: cases are what it sees"
    )
    groups: str | None = Field(None, description="CSV file of cases and groups; null: that of the dataset, if any")
    folds: Annotated[int, Field(ge=2)] = Field(5, description="number of cross-validation folds")
    fold: Annotated[int, Field(ge=0)] = Field(0, description="the fold that validates")
    test_cases: tuple[str, ...] = Field((), description="case ids that neither train nor validate")
    cache: str | None = Field(None, description="folder for preprocessed cases, shared by runs; null: inside the run")

    @model_validator(mode="after")
    def _fold_exists(self) -> "Dataset":
        if self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, but {self.folds} folds are numbered 0 to {self.folds - 1}")
        return self


class Intensity(Record):
    """How the voxels of one channel are normalised before resampling."""

    kind: Literal["ct", "zscore", "none"] = Field(
        description="ct: clip to percentiles of the foreground and standardise; zscore: mean 0, deviation 1 per image"
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


class Preprocessing(Record):
    """The deterministic way of an image from disk to the network's grid."""

    orientation: str | None = Field("RAS", pattern="^[RLAPSI]{3}$", description="axes of volumes; null: as stored")
    spacing: Spacing | None = Field(
        None, description="mm per voxel of the network's grid, in 2D pixels; null, of one axis or all: as stored"
    )
    crop_foreground: bool = Field(True, description="cut away the empty border (zero in all channels)")
    intensity: tuple[Intensity, ...] | Literal["auto"] = Field(
        "auto", description="one entry per channel; auto: ct where the channel is called CT, else zscore"
    )

    @field_validator("orientation")
    @classmethod
    def _orientation_names_every_axis(cls, codes: str | None) -> str | None:
        if codes is not None and any(len(set(codes) & set(pair)) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError("expected one letter of each of the pairs R/L, A/P and S/I, for example RAS")
        return codes


class DLKANet3dArguments(Record):
    """Arguments of the 3D D-LKA U-Net; the defaults are the published network."""

    spatial_dims: ClassVar[int] = 3

    name: Literal["dlka_net_3d"]
    channels: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), description="channels of each stage")
    depths: tuple[PositiveInt, ...] = Field((3, 3, 3, 3), description="D-LKA blocks of each stage")
    strides: tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...] = Field(
        ((2, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2)), description="downsampling in front of each stage"
    )
    full_resolution_channels: PositiveInt = Field(16, description="channels of the full-resolution conv block")
    deformation: Literal["none", "depthwise", "dcnv3", "dense"] = Field(
        "dense", description="which convs of the gate deform; depthwise and dcnv3 take much memory in 3D"
    )
    position_embedding: bool = Field(True, description="learned vector per voxel of each stage")
    supervised_scales: PositiveInt = Field(3, description="outputs that the loss sees, full to coarse")
    dropout: Probability = Field(0.1, description="dropout inside the residual conv branch")
    norm: Literal["batch", "instance"] = Field("batch", description="norm of the blocks' residual convs")
    layer_scale: PositiveFloat = Field(1e-6, description="start value of the factor of each attention branch")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    @model_validator(mode="after")
    def _stage_lists_agree(self) -> "DLKANet3dArguments":
        lengths = {"channels": len(self.channels), "depths": len(self.depths), "strides": len(self.strides)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"channels, depths and strides need one entry per stage each, got {lengths}")
        stages = len(self.channels)
        if stages < 2:
            raise ValueError(f"channels, depths and strides need at least two stages, got {stages}")
        if self.supervised_scales > stages:
            raise ValueError(f"supervised_scales is {self.supervised_scales}, but the network has {stages} stages")
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """A norm needs two values per channel at the deepest stage: voxels, or images where it spans a batch."""
        total = [math.prod(steps) for steps in zip(*self.strides, strict=True)]
        voxels = math.prod(-(-size // step) for size, step in zip(patch, total, strict=True))
        if voxels * (batch if self.norm == "batch" else 1) < 2:
            raise ValueError(
                f"training.patch_size {list(patch)} leaves one voxel at the deepest stage (network.strides "
                f"multiply to {total}), too few for network.norm {self.norm} and training.batch_size "
                f"{batch}: make an axis of the patch larger than its stride"
            )


class DLKANet2dArguments(Record):
    """Arguments of the 2D D-LKA Net; with deformation depthwise and pretrained weights it is the published network."""

    spatial_dims: ClassVar[int] = 2

    name: Literal["dlka_net_2d"]
    encoder: str = Field("maxvit_rmlp_small_rw_224", description="a backbone of timm with four feature maps")
    pretrained: bool | str = Field(False, description="weights of the encoder: true: those of timm; or a file of them")
    depths: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (2, 2, 2), description="D-LKA blocks of each decoder stage, fine to coarse"
    )
    deformation: Literal["none", "depthwise", "dcnv3", "dense"] = Field(
        "dcnv3", description="which convs of the gate deform; published: depthwise"
    )
    supervised_scales: Annotated[int, Field(ge=1, le=4)] = Field(1, description="outputs that the loss sees")
    mlp_ratio: PositiveInt = Field(4, description="hidden channels of the blocks' MLP per channel")
    dropout: Probability = Field(0.0, description="inside the blocks' MLP")
    drop_path: Probability = Field(0.0, description="probability that a block leaves a branch out for an image")
    layer_scale: PositiveFloat = Field(1e-2, description="start value of the factors of the blocks' branches")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """The encoder's norms need two values per channel at its greatest stride, which is 32."""
        if math.prod(-(-size // 32) for size in patch) * batch < 2:
            raise ValueError(
                f"training.patch_size {list(patch)} leaves one pixel at the encoder's deepest stage, too few for a "
                "training.batch_size of 1: make an axis of the patch larger than 32"
            )


Network = Annotated[DLKANet2dArguments | DLKANet3dArguments, Field(discriminator="name")]


class Loss(Record):
    """Dice + cross-entropy over all supervised scales."""

    dice_weight: Annotated[float, Field(ge=0)] = 1.0
    cross_entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    include_background: bool = Field(False, description="whether the background counts in the Dice term")
    scale_weights: tuple[PositiveFloat, ...] | None = Field(
        None,
        description="weight of each supervised scale, normalised to sum 1; null: halved from scale to scale",
    )

    @model_validator(mode="after")
    def _something_counts(self) -> "Loss":
        if self.dice_weight == self.cross_entropy_weight == 0:
            raise ValueError("dice_weight and cross_entropy_weight are both 0: one of them has to count")
        return self


class Augmentation(Record):
    """Random changes of a training patch; a probability of 0 turns one off."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field((0, 1, 2), description="axes that may be mirrored")
    flip_probability: Probability = 0.5
    rotate_probability: Probability = 0.2
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = Field(30.0, description="largest angle about each axis")
    scale_probability: Probability = 0.2
    scale_range: Range = (0.7, 1.4)
    noise_probability: Probability = 0.1
    noise_std: PositiveFloat = 0.1
    blur_probability: Probability = 0.2
    blur_sigma: Range = Field((0.5, 1.0), description="voxels")
    brightness_probability: Probability = 0.15
    brightness_range: Range = Field((0.75, 1.25), description="the image is multiplied by it")
    contrast_probability: Probability = 0.15
    contrast_range: Range = Field((0.75, 1.25), description="distances to the mean are multiplied by it")
    gamma_probability: Probability = 0.3
    gamma_range: Range = (0.7, 1.5)
    low_resolution_probability: Probability = 0.25
    low_resolution_range: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = Field(
        (0.5, 1.0), description="zoom factor of the simulated coarse scan, at most 1"
    )


class Optimizer(Record):
    """How weights move."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd: Nesterov momentum")
    learning_rate: PositiveFloat = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    momentum: Probability = Field(0.99, description="sgd only")
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the run with a rising learning rate")
    gradient_clip: PositiveFloat | None = Field(12.0, description="largest norm of the gradient; null: no limit")


class Training(Record):
    """How long, how fast, on what."""

    epochs: PositiveInt | None = Field(1000, description="null: until the minutes are over")
    minutes: PositiveFloat | None = Field(None, description="wall-clock limit; the learning-rate schedule follows it")
    steps_per_epoch: PositiveInt = 250
    batch_size: PositiveInt = 2
    patch_size: Size = Field(description="voxels of a training patch and of the inference window")
    foreground_oversampling: Probability = Field(0.33, description="share of patches centred on a labelled voxel")
    validate_every: PositiveInt = Field(1, description="epochs between validations")
    validation_cases: PositiveInt | None = Field(None, description="validate on the first so many; null: all")
    start_from: str | None = Field(None, description="run folder whose weights the training starts from; null: fresh")
    start_partially: bool = Field(
        False, description="take the tensors that fit, for other classes, channels or sizes; false: all have to fit"
    )
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of the averaged weights; null: off"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = Field("auto", description="how several devices share the work")
    workers: Annotated[int, Field(ge=0)] = Field(2, description="processes that load data")

    @model_validator(mode="after")
    def _ends(self) -> "Training":
        if self.epochs is None and self.minutes is None:
            raise ValueError("epochs and minutes are both null: one of them has to end the training")
        return self


class Inference(Record):
    """How a whole case is predicted."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of neighbouring windows")
    batch_size: PositiveInt = Field(1, description="windows per forward pass")
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field((), description="axes of test-time mirroring")


class RunConfig(Record):
    """One experiment, complete."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run folder")
    seed: Annotated[int, Field(ge=0)] = 0
    dataset: Dataset
    preprocessing: Preprocessing = Preprocessing()
    network: Network
    training: Training
    inference: Inference = Inference()

    @property
    def image_dims(self) -> int:
        """3 if the cases are volumes, 2 if they are 2D images."""
        return 2 if self.network.spatial_dims == 2 and self.dataset.slices is None else 3

    @model_validator(mode="after")
    def _dimensions_agree(self) -> "RunConfig":
        name, dims = self.network.name, self.network.spatial_dims
        if self.dataset.slices is not None and dims == 3:
            raise ValueError(f"dataset.slices is {self.dataset.slices}, but {name} sees whole volumes: set it to null")
        if len(self.training.patch_size) != dims:
            raise ValueError(
                f"training.patch_size has {len(self.training.patch_size)} axes, but {name} is {dims}D: "
                f"give {dims} numbers"
            )
        spacing = self.preprocessing.spacing
        if spacing is not None and len(spacing) != self.image_dims:
            raise ValueError(
                f"preprocessing.spacing has {len(spacing)} axes, but {name} with dataset.slices "
                f"{self.dataset.slices or 'null'} reads {self.image_dims}D images: give {self.image_dims} numbers"
            )
        if any(axis >= dims for axis in self.inference.mirror_axes):
            raise ValueError(
                f"inference.mirror_axes is {list(self.inference.mirror_axes)}, but {name} is {dims}D: "
                f"its axes are numbered 0 to {dims - 1}"
            )
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
