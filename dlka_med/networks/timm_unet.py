"""A backbone of timm with the decoder of a U-Net, in 2D."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.norm import Norm, norm_layer
from dlka_med.layers.conv import Conv2d
from dlka_med.networks.any_size import AnySizeNetwork, check_each_positive, check_scales
from dlka_med.networks.timm_encoder import TimmEncoder
from dlka_med.ops.layout import channels_last


class TimmUNet(AnySizeNetwork):
    """U-Net (Ronneberger et al., MICCAI 2015) whose encoder is a backbone of timm.

    The encoder's four maps are the skips. The deepest one is interpolated to the size of the next and concatenated
    with it, two convs follow, and so on; from the finest map the decoder goes on to the image's size without a skip.

    Sizes inside are multiples of the encoder's unit, which for MaxViT is `img_size`: see
    `dlka_med.networks.timm_encoder.TimmEncoder`.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: height and width (or one number for both) of the windows of the encoder's attention; without a
            meaning for convolutional encoders.
        encoder: any backbone of timm with four feature maps.
        pretrained: weights of the encoder: see `TimmEncoder`.
        channels: of the four decoder stages, fine to coarse; the first is at the image's size.
        norm: "batch" or "instance".
        supervised_scales: outputs of `forward_pyramid`, 1 to 4.

    Raises:
        ValueError: if an argument is out of range or timm has no such backbone.
        FileNotFoundError: if `pretrained` names no file.
        RuntimeError: if pretrained weights cannot be downloaded.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: int | Sequence[int] = 224,
        *,
        encoder: str = "convnext_atto",
        pretrained: bool | str | Path = False,
        channels: Sequence[int] = (16, 32, 64, 128),
        norm: Norm = "batch",
        supervised_scales: int = 1,
    ) -> None:
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"img_size needs one or two positive sizes, got {img_size}")
        check_each_positive(channels=channels)
        if len(channels) != 4:
            raise ValueError(f"channels needs four entries, one per decoder stage, got {tuple(channels)}")
        check_scales(supervised_scales, 4)
        backbone = TimmEncoder(encoder, in_channels, size, pretrained=pretrained)
        strides = (1, *backbone.strides)
        super().__init__(
            2, in_channels, out_channels, backbone.size_unit, [(s, s) for s in strides[:supervised_scales]]
        )
        self.encoder = backbone
        below, skips = (*channels[1:], backbone.channels[-1]), (0, *backbone.channels[:-1])
        self.decoder = nn.ModuleList(
            nn.Sequential(*_conv(wide + skip, width, norm), *_conv(width, width, norm))
            for wide, skip, width in zip(below, skips, channels, strict=True)
        )
        self.heads = nn.ModuleList(Conv2d(width, out_channels, 1) for width in channels[:supervised_scales])
        self.to(memory_format=torch.channels_last)

    def _logits(self, x: Tensor, scales: int) -> list[Tensor]:
        *skips, deepest = self.encoder(channels_last(x))
        sizes = [x.shape[2:], *(skip.shape[2:] for skip in skips)]
        features = [deepest]
        for stage in reversed(range(len(self.decoder))):
            y = F.interpolate(features[-1], tuple(sizes[stage]), mode="bilinear")
            features.append(self.decoder[stage](torch.cat([y, skips[stage - 1]], 1) if stage else y))
        return [head(feature) for head, feature in zip(self.heads[:scales], reversed(features), strict=False)]


def _conv(in_channels: int, out_channels: int, norm: Norm) -> tuple[nn.Module, ...]:
    return Conv2d(in_channels, out_channels, 3, padding=1, bias=False), norm_layer(norm, 2, out_channels), nn.ReLU()
