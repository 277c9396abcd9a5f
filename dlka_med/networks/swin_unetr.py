"""Swin UNETR of MONAI."""

from collections.abc import Sequence

from dlka_med.blocks.dims import check_choice
from dlka_med.networks.any_size import check_each_positive, check_positive
from dlka_med.networks.monai_network import MonaiNetwork, Norm, least_units

STAGES, SIZE_UNIT, CHANNEL_UNIT = 4, 32, 12


class SwinUNETR(MonaiNetwork):
    """Swin transformer with a convolutional decoder (Hatamizadeh et al., Swin UNETR, BrainLes 2021).

    Sizes inside are multiples of 32. It has logits of one scale.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: without a meaning here, where all sizes are alike.
        spatial_dims: 2 or 3.
        channels: of the tokens of the first stage, doubled from stage to stage; a multiple of 12.
        depths: transformer blocks of each of the four stages.
        heads: of the attention of each stage, which share its channels evenly.
        window_size: tokens along each side of an attention window.
        mlp_ratio: hidden channels of the blocks' MLP per channel.
        norm: of the convolutional blocks, "batch" or "instance".
        dropout: probability that a value of the tokens is left out.
        drop_path: probability that the last block leaves a branch out for an image; it rises from block to block.
        checkpointing: recompute the transformer blocks' activations in the backward pass.

    Raises:
        ValueError: if an argument is out of range or the stage lists do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        img_size: Sequence[int] | None = None,
        *,
        spatial_dims: int = 3,
        channels: int = 12,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        norm: Norm = "instance",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        check_positive(channels=channels, window_size=window_size)
        check_each_positive(depths=depths, heads=heads)
        check_choice("norm", norm, ("batch", "instance"))
        if not len(depths) == len(heads) == STAGES:
            raise ValueError(f"depths and heads need four entries each, got {len(depths)} and {len(heads)}")
        if channels % CHANNEL_UNIT:
            raise ValueError(f"channels has to be a multiple of {CHANNEL_UNIT}, got {channels}")
        if any(channels * 2**stage % count for stage, count in enumerate(heads)):
            raise ValueError(f"heads have to share the channels, {channels} doubled per stage, got {tuple(heads)}")
        one, unit = (1,) * spatial_dims, (SIZE_UNIT,) * spatial_dims
        super().__init__(spatial_dims, in_channels, out_channels, unit, [one], least_units(norm))
        from monai.networks.nets.swin_unetr import SwinUNETR

        self.model = SwinUNETR(
            in_channels,
            out_channels,
            depths=tuple(depths),
            num_heads=tuple(heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            feature_size=channels,
            norm_name=norm,
            drop_rate=dropout,
            dropout_path_rate=drop_path,
            use_checkpoint=checkpointing,
            spatial_dims=spatial_dims,
        )
