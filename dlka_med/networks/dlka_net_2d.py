"""2D D-LKA Net: a backbone of timm and a decoder of D-LKA blocks (Azad et al., WACV 2024, section 3.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks import DLKABlock, PatchExpand
from dlka_med.blocks.dims import per_stage
from dlka_med.blocks.dlka_block import Attention
from dlka_med.layers.conv import Conv2d
from dlka_med.networks.checkpointing import run_checkpointed
from dlka_med.networks.timm_encoder import TimmEncoder
from dlka_med.ops.layout import channels_last


class DLKANet2d(nn.Module):
    """2D D-LKA Net; with `deformation="depthwise"` the published network for Synapse.

    The encoder's four maps are the skips. The deepest one is expanded to the size of the next, whose map is added
    after a 1x1 conv of the expanded one; D-LKA blocks follow, and so on up to the finest map, which is expanded to
    the image's size and classified per pixel.

    Any input size is accepted: inside, the image is padded with zeros at the far end of each axis to a multiple of
    the encoder's unit. That is the greatest stride, 32, for most backbones. MaxViT keeps the windows of `img_size`
    (img_size / 32 tokens a side), so that its unit is `img_size` itself, rounded up to a multiple of 32: choose the
    size of the patches that you train and predict with.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: height and width (or one number for both) of the windows of the encoder's attention; without a
            meaning for convolutional encoders.
        encoder: any backbone of timm with four feature maps, such as "convnext_atto" or "resnet18" for a small
            network.
        pretrained: weights of the encoder. True: those that timm offers, downloaded or from its cache; a path: a
            file of such weights; False: none. They are adapted to `in_channels`.
        depths: D-LKA blocks of each decoder stage, fine to coarse.
        deformation: of the blocks, see `dlka_med.blocks.DLKABlock`; or one for each decoder stage, fine to coarse;
            published: "depthwise".
        supervised_scales: outputs of `forward_pyramid`, 1 to 4; published: 1.
        mlp_ratio: hidden channels of the blocks' MLP per channel.
        dropout: probability that a value inside the blocks' MLP is left out.
        drop_path: probability that a residual branch of a block is left out for an image of the batch.
        layer_scale: start value of the factors of the blocks' residual branches.
        checkpointing: recompute the blocks' activations in the backward pass; same results, less memory.
        **attention: further arguments of `dlka_med.blocks.LargeKernelGate`; `bias` is False as published.

    Raises:
        ValueError: if an argument is out of range or timm has no such backbone.
        FileNotFoundError: if `pretrained` names no file.
        RuntimeError: if pretrained weights cannot be downloaded.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 9,
        img_size: int | Sequence[int] = 224,
        *,
        encoder: str = "maxvit_rmlp_small_rw_224",
        pretrained: bool | str | Path = False,
        depths: Sequence[int] = (2, 2, 2),
        deformation: Attention | Sequence[Attention] = "dcnv3",
        supervised_scales: int = 1,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float = 1e-2,
        checkpointing: bool = False,
        **attention: Any,
    ) -> None:
        super().__init__()
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"img_size needs one or two positive sizes, got {img_size}")
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "mlp_ratio": mlp_ratio}
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if len(depths) != 3 or min(depths) < 1:
            raise ValueError(f"depths needs three positive numbers, one per decoder stage, got {tuple(depths)}")
        if not 1 <= supervised_scales <= 4:
            raise ValueError(f"supervised_scales must be 1 to 4, got {supervised_scales}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.checkpointing = checkpointing
        self.encoder = TimmEncoder(encoder, in_channels, size, pretrained=pretrained)

        channels, strides = self.encoder.channels, self.encoder.strides
        inputs, outputs = channels, (channels[0], *channels[:-1])
        steps = [stride // finer for stride, finer in zip(strides, (1, *strides), strict=False)]
        self.expanders = nn.ModuleList(
            PatchExpand(2, *pair, step) for *pair, step in zip(inputs, outputs, steps, strict=True)
        )
        self.projections = nn.ModuleList(Conv2d(c, c, 1) for c in channels[:-1])
        gates = per_stage("deformation", deformation, len(depths))
        self.decoder = nn.ModuleList(
            nn.Sequential(
                *(
                    DLKABlock(
                        width,
                        2,
                        gate,
                        feed_forward="conv_mlp",
                        layer_scale=layer_scale,
                        drop_path=drop_path,
                        dropout=dropout,
                        mlp_ratio=mlp_ratio,
                        **{"bias": False, **attention},
                    )
                    for _ in range(depth)
                )
            )
            for width, depth, gate in zip(channels[:-1], depths, gates, strict=True)
        )
        self.heads = nn.ModuleList(Conv2d(c, out_channels, 1) for c in outputs[:supervised_scales])
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, out_channels, H, W)` of the image x `(B, in_channels, H, W)`.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        return self._full(self._features(x)[0], x)

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """Logits of the `supervised_scales` finest scales, full to coarse: the image's, then the decoder stages'.

        Each is at its own resolution: for a scale of stride s its size is ceil(n / s) along an axis of n pixels,
        and its pixel i covers the image's pixels [i * s, (i + 1) * s), of which the last may lie partly outside.
        The first is what `forward` returns.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        features = self._features(x)
        pyramid = [self._full(features[0], x)]
        for feature, head, stride in zip(features, list(self.heads)[1:], self.encoder.strides, strict=False):
            height, width = (-(-n // stride) for n in x.shape[2:])
            pyramid.append(head(feature)[..., :height, :width])
        return pyramid

    @property
    def scale_strides(self) -> list[tuple[int, int]]:
        """Image pixels per pixel of each output of `forward_pyramid`, per axis."""
        return [(stride, stride) for stride in (1, *self.encoder.strides)][: len(self.heads)]

    @property
    def size_unit(self) -> tuple[int, int]:
        """Sizes inside are multiples of it, per axis."""
        return self.encoder.size_unit

    def _full(self, finest: Tensor, image: Tensor) -> Tensor:
        return self.expanders[0](finest, head=self.heads[0])[..., : image.shape[2], : image.shape[3]]

    def _features(self, image: Tensor) -> list[Tensor]:
        """Decoder maps, fine to coarse."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"expected an image of shape (batch, {self.in_channels}, height, width), got {tuple(image.shape)}; "
                f"the network was built with in_channels={self.in_channels}"
            )
        bottom, right = (-n % unit for n, unit in zip(image.shape[2:], self.size_unit, strict=True))
        x = F.pad(image, (0, right, 0, bottom)) if bottom or right else image
        *skips, x = self.encoder(channels_last(x))
        features = []
        for scale in reversed(range(len(skips))):
            x = self.projections[scale](self.expanders[scale + 1](x)) + skips[scale]
            for block in self.decoder[scale]:
                x = run_checkpointed(block, x) if self.checkpointing else block(x)
            features.append(x)
        return features[::-1]
