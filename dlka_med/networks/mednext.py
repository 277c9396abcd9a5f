"""MedNeXt of MONAI."""

from collections.abc import Sequence

from torch import Tensor

from dlka_med.networks.any_size import check_each_positive, check_positive, check_scales, strides_up_to
from dlka_med.networks.monai_network import MonaiNetwork, check_odd


class MedNeXt(MonaiNetwork):
    """U-Net of ConvNeXt blocks (Roy et al., MedNeXt, MICCAI 2023); the defaults are its size S.

    The encoder's stages, a bottleneck and the same stages back; each halves the image and doubles the channels.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: without a meaning here, where all sizes are alike.
        spatial_dims: 2 or 3.
        channels: at full resolution.
        depths: blocks of each stage of the encoder and the decoder, then of the bottleneck.
        expansions: hidden channels of a block per channel, for each of these.
        kernel_size: of the depthwise convs; odd.
        supervised_scales: outputs of `forward_pyramid`, at most one per stage and one of the bottleneck.

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
        channels: int = 32,
        depths: Sequence[int] = (2, 2, 2, 2, 2),
        expansions: Sequence[int] = (2, 2, 2, 2, 2),
        kernel_size: int = 3,
        supervised_scales: int = 3,
    ) -> None:
        check_positive(channels=channels)
        check_each_positive(depths=depths, expansions=expansions)
        check_odd(kernel_size)
        if len(depths) < 2 or len(expansions) != len(depths):
            raise ValueError(
                f"depths and expansions need an entry for each stage and one for the bottleneck, got {len(depths)} "
                f"and {len(expansions)}"
            )
        check_scales(supervised_scales, len(depths))
        scales = strides_up_to([(2,) * spatial_dims] * (len(depths) - 1), spatial_dims)
        super().__init__(spatial_dims, in_channels, out_channels, scales[-1], scales[:supervised_scales], least_units=2)
        from monai.networks.nets.mednext import MedNeXt

        self.model = MedNeXt(
            spatial_dims,
            channels,
            in_channels,
            out_channels,
            encoder_expansion_ratio=tuple(expansions[:-1]),
            decoder_expansion_ratio=tuple(reversed(expansions[:-1])),
            bottleneck_expansion_ratio=expansions[-1],
            kernel_size=kernel_size,
            deep_supervision=supervised_scales > 1,
            use_residual_connection=True,
            blocks_down=tuple(depths[:-1]),
            blocks_bottleneck=depths[-1],
            blocks_up=tuple(reversed(depths[:-1])),
        )
        if supervised_scales > 1:
            self.model.out_blocks = self.model.out_blocks[len(depths) - supervised_scales :]

    def _logits(self, x: Tensor, scales: int) -> list[Tensor]:
        model = self.model
        x, skips = model.stem(x), []
        for stage, downsample in zip(model.enc_stages, model.down_blocks, strict=True):
            skips.append(stage(x))
            x = downsample(skips[-1])
        features = [model.bottleneck(x)]
        for upsample, stage, skip in zip(model.up_blocks, model.dec_stages, reversed(skips), strict=True):
            features.append(stage(upsample(features[-1]) + skip))
        heads = [model.out_0, *(reversed(model.out_blocks) if scales > 1 else ())]
        return [head(feature) for head, feature in zip(heads, reversed(features), strict=False)]
