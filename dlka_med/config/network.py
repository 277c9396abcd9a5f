"""The arguments of each network that a config can name."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from dlka_med.config.deepest_map import refuse_one_voxel, total_stride
from dlka_med.config.other_networks import (
    AnyDimsArguments,
    DynUNetArguments,
    MedNeXtArguments,
    SegResNetArguments,
    Strides,
    SwinUNETRArguments,
    TimmUNetArguments,
    UNetArguments,
    check_axes,
)
from dlka_med.config.record import BY_KIND, KINDS, Probability, Record


def all_axes(stride: Any) -> Any:
    """One number stands for three equal ones."""
    return (stride,) * 3 if isinstance(stride, int) else stride


Attention = Literal["none", "depthwise", "dcnv3", "dense", "still_dense", "wide_dense", "wide_depthwise", "absent"]
OffsetGroups = Annotated[
    PositiveInt | None, Field(description="groups of channels that share offsets; null: 1, and for dcnv3 up to 4")
]
OffsetLimit = Annotated[
    PositiveFloat | None,
    Field(
        description="voxels of a layer's map that a kernel point moves at most, and never out of the image; null, as "
        "published: no limit"
    ),
]

Depths = Annotated[tuple[PositiveInt, ...], Field(description="D-LKA blocks of each stage")]
FullResolution = Annotated[
    Literal["residual", "stem", "light", "none"],
    Field(
        description="blocks at full resolution: as published; the same, with the encoder behind that of the image "
        "(stem); a conv each; or none"
    ),
]
Gates = Annotated[
    Annotated[Attention, Tag(KINDS[0])] | Annotated[tuple[Attention, ...], Tag(KINDS[1])],
    BY_KIND,
    Field(
        description="which convs of the gate deform, for all stages or for each, fine to coarse; depthwise and dcnv3 "
        "take much memory in 3D"
    ),
]
ThreeGates = Annotated[
    Annotated[Attention, Tag(KINDS[0])] | Annotated[tuple[Attention, Attention, Attention], Tag(KINDS[1])], BY_KIND
]
PositionEmbedding = Annotated[bool, Field(description="learned vector per voxel of each stage")]
SupervisedScales = Annotated[PositiveInt, Field(description="outputs that the loss sees, full to coarse")]
Dropout = Annotated[Probability, Field(description="dropout inside the residual conv branch")]
BlockNorm = Annotated[Literal["batch", "instance"], Field(description="norm of the blocks' residual convs")]
LayerScale = Annotated[PositiveFloat, Field(description="start value of the factor of each attention branch")]


class _StagesOfBlocks(Record):
    """Arguments of a U-Net of D-LKA blocks; the defaults are those of `DLKAUNet`."""

    name: str
    channels: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), description="channels of each stage")
    depths: Depths = (1, 1, 1, 1)
    strides: tuple[tuple[PositiveInt, ...], ...]
    full_resolution_channels: PositiveInt = Field(16, description="channels of the full-resolution conv block")
    full_resolution: FullResolution = "stem"
    deformation: Gates = ("absent", "absent", "absent", "dense")
    offset_groups: OffsetGroups = None
    offset_limit: OffsetLimit = 8.0
    position_embedding: PositionEmbedding = False
    supervised_scales: SupervisedScales = 2
    dropout: Dropout = 0.0
    norm: BlockNorm = "instance"
    layer_scale: LayerScale = 0.01
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    @model_validator(mode="after")
    def _stage_lists_agree(self) -> "_StagesOfBlocks":
        lengths = {"channels": len(self.channels), "depths": len(self.depths), "strides": len(self.strides)}
        if not isinstance(self.deformation, str):
            lengths["deformation"] = len(self.deformation)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{', '.join(lengths)} need one entry per stage each, got {lengths}")
        stages = len(self.channels)
        if stages < 2:
            raise ValueError(f"channels, depths and strides need at least two stages, got {stages}")
        if self.supervised_scales > stages:
            raise ValueError(f"supervised_scales is {self.supervised_scales}, but the network has {stages} stages")
        return self

    def check_patch(self, patch: Sequence[int], batch: int) -> None:
        """A norm needs two values per channel at the deepest stage: voxels, or images where it spans a batch."""
        images = batch if self.norm == "batch" else 1
        norm = f"network.norm {self.norm} and training.batch_size {batch}"
        refuse_one_voxel(patch, total_stride(self.strides), images, "network.strides multiply to", norm)


class DLKAUNetArguments(_StagesOfBlocks, AnyDimsArguments):
    """Arguments of the D-LKA U-Net for images or volumes."""

    name: Literal["dlka_unet"]
    strides: Strides = Field(
        (2, 2, 2, 2), description="downsampling in front of each stage, per axis or one number for all"
    )

    @model_validator(mode="after")
    def _axes_agree(self) -> "DLKAUNetArguments":
        check_axes(self.strides, self.spatial_dims)
        return self


class DLKANet3dArguments(_StagesOfBlocks):
    """Arguments of the 3D D-LKA Net; the defaults are the published network, but for the limit of offsets."""

    spatial_dims: ClassVar[int] = 3

    name: Literal["dlka_net_3d"]
    depths: Depths = (3, 3, 3, 3)
    strides: tuple[Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], BeforeValidator(all_axes)], ...] = Field(
        ((2, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        description="downsampling in front of each stage, per axis or one number for all",
    )
    full_resolution: FullResolution = "residual"
    deformation: Gates = "dense"
    position_embedding: PositionEmbedding = True
    supervised_scales: SupervisedScales = 3
    dropout: Dropout = 0.1
    norm: BlockNorm = "batch"
    layer_scale: LayerScale = 1e-6


class DLKANet2dArguments(Record):
    """Arguments of the 2D D-LKA Net; with deformation depthwise and pretrained weights it is the published network."""

    spatial_dims: ClassVar[int] = 2

    name: Literal["dlka_net_2d"]
    encoder: str = Field("maxvit_rmlp_small_rw_224", description="a backbone of timm with four feature maps")
    pretrained: bool | str = Field(False, description="weights of the encoder: true: those of timm; or a file of them")
    depths: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (2, 2, 2), description="D-LKA blocks of each decoder stage, fine to coarse"
    )
    deformation: ThreeGates = Field(
        "dcnv3",
        description="which convs of the gate deform, for all stages or for each, fine to coarse; published: depthwise",
    )
    offset_groups: OffsetGroups = None
    offset_limit: OffsetLimit = 8.0
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


Network = Annotated[
    DLKANet2dArguments
    | DLKANet3dArguments
    | DLKAUNetArguments
    | UNetArguments
    | DynUNetArguments
    | SegResNetArguments
    | SwinUNETRArguments
    | MedNeXtArguments
    | TimmUNetArguments,
    Field(discriminator="name"),
]
