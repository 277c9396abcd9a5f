"""The arguments of the networks that the D-LKA nets can be compared with: those of MONAI, and a U-Net on timm.

The words are those of the D-LKA nets; what they mean is what MONAI means by them.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, model_validator

from dlka_med.config.deepest_map import refuse_one_voxel, total_stride
from dlka_med.config.record import Probability, Record

NORM_GROUPS = 8


def all_axes(strides: Any, info: ValidationInfo) -> Any:
    """One number of a stage stands for all axes."""
    dims = info.data.get("spatial_dims", 3)
    if not isinstance(strides, list | tuple):
        return strides
    return [(stride,) * dims if isinstance(stride, int) else stride for stride in strides]


def odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"expected an odd number, such as {size + 1}")
    return size


Dims = Annotated[Literal[2, 3], Field(description="2: images, or slices of volumes; 3: volumes")]
Strides = Annotated[tuple[tuple[PositiveInt, ...], ...], BeforeValidator(all_axes), Field(validate_default=True)]
KernelSize = Annotated[PositiveInt, AfterValidator(odd)]
Norm = Literal["batch", "instance"]


class AnyDimsArguments(Record):
    """What the networks for images and volumes have in common."""

    name: str
    spatial_dims: Dims = 3

    def _refuse_one_voxel(self, patch: Sequence[int], batch: int, downsampling: str, total: Sequence[int]) -> None:
        norm = getattr(self, "norm", "instance")
        if norm != "group":
            words = f"network.norm {norm}" if hasattr(self, "norm") else "norms of single images"
            refuse_one_voxel(
                patch,
                total,
                batch if norm == "batch" else 1,
                downsampling,
                f"{words} and training.batch_size {batch}",
            )


class UNetArguments(AnyDimsArguments):
    """Arguments of MONAI's residual U-Net."""

    supervised_scales: ClassVar[int] = 1

    name: Literal["unet"]
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = Field(
        (24, 48, 96, 192), description="channels of each stage"
    )
    strides: Strides = Field(
        (2, 2, 2), description="downsampling between the stages, so one fewer; per axis or one number for all"
    )
    kernel_size: KernelSize = Field(3, description="of the convs, odd")
    residual_units: Annotated[int, Field(ge=0)] = Field(
        2, description="convs of a stage that a residual connection spans; 0: one conv without (MONAI: num_res_units)"
    )
    norm: Norm = Field("instance", description="behind each conv")
    dropout: Probability = Field(0.0, description="behind each conv")

    @model_validator(mode="after")
    def _stage_lists_agree(self) -> "UNetArguments":
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"strides need one entry fewer than channels, got {len(self.strides)} strides and "
                f"{len(self.channels)} channels"
            )
        check_axes(self.strides, self.spatial_dims)
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm would see one voxel."""
        self._refuse_one_voxel(patch, batch, "network.strides multiply to", total_stride(self.strides))


class DynUNetArguments(AnyDimsArguments):
    """Arguments of MONAI's DynUNet, the U-Net of nnU-Net."""

    name: Literal["dynunet"]
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=3)] = Field(
        (16, 32, 64, 128, 256), description="channels of each stage (MONAI: filters)"
    )
    strides: Strides = Field(
        (1, 2, 2, 2, 2),
        description="downsampling in front of each stage, per axis or one number for all; the first is 1",
    )
    kernel_size: KernelSize = Field(3, description="of the convs, odd")
    residual: bool = Field(False, description="a residual connection spans the convs of an encoder stage")
    norm: Norm = Field("instance", description="behind each conv, with parameters")
    dropout: Probability = Field(0.0, description="behind each conv")
    supervised_scales: PositiveInt = Field(3, description="outputs that the loss sees, full to coarse")

    @model_validator(mode="after")
    def _stage_lists_agree(self) -> "DynUNetArguments":
        stages = len(self.channels)
        if len(self.strides) != stages:
            raise ValueError(
                f"channels and strides need one entry per stage each, got {stages} channels and "
                f"{len(self.strides)} strides"
            )
        check_axes(self.strides, self.spatial_dims)
        if max(self.strides[0]) > 1:
            raise ValueError(f"the first of strides has to be 1, got {list(self.strides[0])}")
        if max(map(max, self.strides)) > self.kernel_size + 1:
            raise ValueError(f"strides may be {self.kernel_size + 1} at most for a kernel_size of {self.kernel_size}")
        if self.supervised_scales >= stages:
            raise ValueError(
                f"supervised_scales is {self.supervised_scales}, but a network of {stages} stages has {stages - 1}"
            )
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm would see one voxel."""
        self._refuse_one_voxel(patch, batch, "network.strides multiply to", total_stride(self.strides))


class SegResNetArguments(AnyDimsArguments):
    """Arguments of MONAI's SegResNet."""

    supervised_scales: ClassVar[int] = 1

    name: Literal["segresnet"]
    channels: PositiveInt = Field(16, description="at full resolution, doubled per stage (MONAI: init_filters)")
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = Field(
        (1, 2, 2, 4), description="residual blocks of each stage; all but the first halve the image"
    )
    decoder_depths: tuple[PositiveInt, ...] = Field(
        (1, 1, 1), description="residual blocks of each stage on the way back, coarse to fine, so one fewer"
    )
    norm: Literal["group", "batch", "instance"] = Field("group", description="in front of each conv; group: 8 groups")
    dropout: Probability = Field(0.0, description="of the first map")
    upsampling: Literal["nontrainable", "deconv", "pixelshuffle"] = Field(
        "nontrainable", description="nontrainable: linear; deconv: transposed convs"
    )

    @model_validator(mode="after")
    def _arguments_agree(self) -> "SegResNetArguments":
        if len(self.decoder_depths) != len(self.depths) - 1:
            raise ValueError(
                f"decoder_depths needs one entry fewer than depths, got {len(self.decoder_depths)} and "
                f"{len(self.depths)}"
            )
        if self.norm == "group" and self.channels % NORM_GROUPS:
            raise ValueError(f"channels is {self.channels}, but network.norm group needs a multiple of {NORM_GROUPS}")
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm would see one voxel."""
        total = [2 ** (len(self.depths) - 1)] * self.spatial_dims
        self._refuse_one_voxel(patch, batch, "the stages of network.depths halve an axis, together by", total)


class SwinUNETRArguments(AnyDimsArguments):
    """Arguments of MONAI's SwinUNETR."""

    supervised_scales: ClassVar[int] = 1

    name: Literal["swin_unetr"]
    channels: Annotated[int, Field(gt=0, multiple_of=12)] = Field(
        12, description="of the first stage, doubled per stage; a multiple of 12 (MONAI: feature_size)"
    )
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        (2, 2, 2, 2), description="transformer blocks of each stage"
    )
    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        (1, 2, 4, 8), description="attention heads of each stage (MONAI: num_heads)"
    )
    window_size: PositiveInt = Field(7, description="tokens along a side of an attention window")
    mlp_ratio: PositiveFloat = Field(4.0, description="hidden channels of the blocks' MLP per channel")
    norm: Norm = Field("instance", description="of the convolutional blocks")
    dropout: Probability = Field(0.0, description="of the tokens")
    drop_path: Probability = Field(0.0, description="probability that the last block leaves a branch out for an image")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> "SwinUNETRArguments":
        for stage, heads in enumerate(self.heads):
            if (wide := self.channels * 2**stage) % heads:
                raise ValueError(f"heads: {heads} heads cannot share the {wide} channels of stage {stage + 1} evenly")
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm would see one voxel."""
        self._refuse_one_voxel(patch, batch, "the patch embedding and four stages take", [32] * self.spatial_dims)


class MedNeXtArguments(AnyDimsArguments):
    """Arguments of MONAI's MedNeXt; the defaults are its size S."""

    name: Literal["mednext"]
    channels: PositiveInt = Field(32, description="at full resolution, doubled per stage (MONAI: init_filters)")
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = Field(
        (2, 2, 2, 2, 2), description="blocks of each stage, to and fro, then of the bottleneck; each stage is halved"
    )
    expansions: tuple[PositiveInt, ...] = Field(
        (2, 2, 2, 2, 2), description="hidden channels of a block per channel, for each of these"
    )
    kernel_size: KernelSize = Field(3, description="of the depthwise convs, odd")
    supervised_scales: PositiveInt = Field(3, description="outputs that the loss sees, full to coarse")

    @model_validator(mode="after")
    def _stage_lists_agree(self) -> "MedNeXtArguments":
        stages = len(self.depths)
        if len(self.expansions) != stages:
            raise ValueError(
                f"depths and expansions need one entry per stage and one for the bottleneck, got {stages} and "
                f"{len(self.expansions)}"
            )
        if self.supervised_scales > stages:
            raise ValueError(f"supervised_scales is {self.supervised_scales}, but depths has {stages} entries")
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm would see one voxel."""
        total = [2 ** (len(self.depths) - 1)] * self.spatial_dims
        self._refuse_one_voxel(patch, batch, "the stages of network.depths halve an axis, together by", total)


class TimmUNetArguments(Record):
    """Arguments of a U-Net whose encoder is a backbone of timm."""

    spatial_dims: ClassVar[int] = 2

    name: Literal["timm_unet"]
    encoder: str = Field("convnext_atto", description="a backbone of timm with four feature maps")
    pretrained: bool | str = Field(False, description="weights of the encoder: true: those of timm; or a file of them")
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        (16, 32, 64, 128), description="channels of each decoder stage, fine to coarse"
    )
    norm: Norm = Field("batch", description="behind each conv of the decoder")
    supervised_scales: Annotated[int, Field(ge=1, le=4)] = Field(1, description="outputs that the loss sees")

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """Raise `ValueError` where a norm of the encoder, whose greatest stride is 32, would see one pixel."""
        norm = f"the norms of network.encoder and training.batch_size {batch}"
        refuse_one_voxel(patch, [32, 32], batch, "network.encoder takes", norm)


def check_axes(strides: Sequence[Sequence[int]], dims: int) -> None:
    """Raise `ValueError` unless each stage has a stride for each axis."""
    if wrong := [list(stride) for stride in strides if len(stride) != dims]:
        raise ValueError(f"strides: network.spatial_dims is {dims}: give {dims} numbers per stage, got {wrong[0]}")
