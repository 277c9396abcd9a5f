"""SegResNet of MONAI."""

from collections.abc import Sequence
from typing import Literal

from dlka_med.blocks.dims import check_choice
from dlka_med.networks.any_size import check_each_positive, check_positive
from dlka_med.networks.monai_network import MonaiNetwork, least_units

Norm = Literal["group", "batch", "instance"]
GROUPS = 8


class SegResNet(MonaiNetwork):
    """Residual encoder and a light decoder (Myronenko, 3D MRI Brain Tumor Segmentation, BrainLes 2018; no VAE).

    Every stage but the first halves the image and doubles the channels. It has logits of one scale.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: without a meaning here, where all sizes are alike.
        spatial_dims: 2 or 3.
        channels: at full resolution; for groups a multiple of 8.
        depths: residual blocks of each stage of the encoder.
        decoder_depths: residual blocks of each stage of the decoder, coarse to fine, one stage fewer.
        norm: "group" (8 groups), "batch" or "instance".
        dropout: probability that a value of the first map is left out.
        upsampling: "nontrainable" (linear), "deconv" or "pixelshuffle".

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
        channels: int = 16,
        depths: Sequence[int] = (1, 2, 2, 4),
        decoder_depths: Sequence[int] = (1, 1, 1),
        norm: Norm = "group",
        dropout: float = 0.0,
        upsampling: Literal["nontrainable", "deconv", "pixelshuffle"] = "nontrainable",
    ) -> None:
        check_positive(channels=channels)
        check_each_positive(depths=depths, decoder_depths=decoder_depths)
        check_choice("norm", norm, ("group", "batch", "instance"))
        check_choice("upsampling", upsampling, ("nontrainable", "deconv", "pixelshuffle"))
        if len(decoder_depths) != len(depths) - 1:
            raise ValueError(
                f"decoder_depths needs one entry fewer than depths, got {len(decoder_depths)} and {len(depths)}"
            )
        if norm == "group" and channels % GROUPS:
            raise ValueError(f"channels has to be a multiple of {GROUPS} for groups, got {channels}")
        one, unit = (1,) * spatial_dims, (2 ** len(decoder_depths),) * spatial_dims
        super().__init__(spatial_dims, in_channels, out_channels, unit, [one], least_units(norm))
        from monai.networks.nets.segresnet import SegResNet

        self.model = SegResNet(
            spatial_dims,
            channels,
            in_channels,
            out_channels,
            dropout_prob=dropout or None,
            norm=(norm, {"num_groups": GROUPS}) if norm == "group" else norm,
            blocks_down=tuple(depths),
            blocks_up=tuple(decoder_depths),
            upsample_mode=upsampling,
        )
