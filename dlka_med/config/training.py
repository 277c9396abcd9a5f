"""How a network is trained."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from dlka_med.config.record import FilePath, Probability, Range, Record, Share, Size, ascending, different


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


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

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = Field(
        None,
        description="axes that may be mirrored, as listed; null: all, but left and right where labels name both sides",
    )
    flip_probability: Probability = 0.5
    rotate_probability: Probability = 0.2
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = Field(30.0, description="largest angle about each axis")
    scale_probability: Probability = 0.2
    scale_range: Range = (0.7, 1.4)
    interpolation: Literal["linear", "cubic"] = Field(
        "linear", description="of images that are turned or scaled; cubic blurs less and takes twice the time"
    )
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
    low_resolution_range: Annotated[tuple[Share, Share], AfterValidator(ascending)] = Field(
        (0.5, 1.0), description="zoom factor of the simulated coarse scan, at most 1"
    )


class Optimizer(Record):
    """How weights move."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="sgd: Nesterov momentum")
    learning_rate: PositiveFloat = 0.01
    offset_rate: PositiveFloat = Field(
        0.3, description="factor on the learning rate of what predicts offsets and modulation, which does not decay"
    )
    rates: dict[str, Annotated[PositiveFloat, BeforeValidator(_no_truth)]] = Field(
        {}, description="factors on the learning rate by module of the network, such as {encoder: 0.1}"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    momentum: Probability = Field(0.99, description="sgd only")
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the run with a rising learning rate")
    gradient_clip: PositiveFloat | None = Field(12.0, description="largest norm of the gradient; null: no limit")


class Training(Record):
    """How long, how fast, on what."""

    epochs: PositiveInt | None = Field(1000, description="null: until the minutes are over")
    minutes: PositiveFloat | None = Field(
        None, description="wall-clock limit, validation included; the learning rate follows it"
    )
    clock: Literal["wall", "processor"] = Field(
        "wall",
        description="what the minutes are of; processor: of work on all threads of this process, so that other "
        "programs take no time from it; CPU only",
    )
    steps_per_epoch: PositiveInt = 250
    batch_size: PositiveInt = 2
    patch_size: Size = Field(description="voxels of a training patch and of the inference window")
    growing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the run in which patches grow from half to their full size; 0: full from the start"
    )
    foreground_oversampling: Probability = Field(0.33, description="share of patches centred on a labelled voxel")
    validate_every: PositiveInt = Field(
        1, description="epochs between validations; fewer where they would take over 15 % of the minutes"
    )
    validation_cases: PositiveInt | None = Field(
        None, description="validate on so many, drawn from all groups in turn; null: all"
    )
    start_from: FilePath | None = Field(
        None, description="run folder whose weights the training starts from; null: fresh"
    )
    start_partially: bool = Field(
        False, description="take the tensors that fit, for other classes, channels or sizes; false: all have to fit"
    )
    freeze: tuple[str, ...] = Field((), description="modules of the network that stay as they are, such as [encoder]")
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
    loggers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], AfterValidator(different)] = Field(
        (), description="what else records curves, validations and pictures; each is an extra to install"
    )

    @model_validator(mode="after")
    def _ends(self) -> "Training":
        if self.epochs is None and self.minutes is None:
            raise ValueError("epochs and minutes are both null: one of them has to end the training")
        if self.clock == "processor" and (self.accelerator != "cpu" or self.devices * self.nodes > 1):
            raise ValueError(
                "clock: processor measures the work of one process on a CPU: set accelerator: cpu, devices: 1 and "
                "nodes: 1, or clock: wall"
            )
        return self
