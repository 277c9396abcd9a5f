"""A U-Net of D-LKA blocks, in 2D and 3D (Azad et al., Beyond Self-Attention, WACV 2024, section 3.3)."""

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks import DLKABlock, PatchDownsample, PatchUpsample, ResidualConv
from dlka_med.blocks.dims import check_choice, check_spatial_dims, per_stage
from dlka_med.blocks.dlka_block import Attention
from dlka_med.blocks.norm import InstanceNorm, Norm
from dlka_med.layers.conv import CONV
from dlka_med.networks.any_size import check_positive, crop, steps_per_axis
from dlka_med.networks.checkpointing import run_checkpointed
from dlka_med.ops.layout import channels_last

Stride = tuple[int, ...]
FullResolution = Literal["residual", "stem", "light", "none"]


class DLKAUNet(nn.Module):
    """U-Net of D-LKA blocks from scratch; `DLKANet3d` has the arguments of the published one.

    The encoder has one stage per entry of `channels`: a strided conv, then D-LKA blocks. The decoder goes
    back with transposed convs; each encoder map is added to the map of its size, and D-LKA blocks follow. At
    full resolution a residual conv block of the image is added and one residual conv block follows.

    Any input size is accepted: inside, the image is padded with zeros at the far end of each axis to a
    multiple of the total stride.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: spatial shape for which the position embedding is made; other sizes interpolate it. None: without
            position embedding.
        spatial_dims: 2 or 3.
        channels: of each stage.
        depths: D-LKA blocks of each stage, in the encoder and again in the decoder.
        strides: downsampling in front of each stage, per axis or one number for all; the first may be (1, 1, 1).
        full_resolution_channels: of the blocks at full resolution.
        full_resolution: "residual": the published blocks; "stem": the same, but the encoder goes on from the image's
            block in place of the image; "light": one conv each for the image and for the sum, with instance norm and
            LeakyReLU: a fraction of the time; "none": the finest stage's map is brought to full resolution and the
            image is not seen there.
        deformation: of the blocks, see `dlka_med.blocks.DLKABlock`; or one for each stage, fine to coarse.
        position_embedding: whether each block has a learned vector per voxel.
        supervised_scales: outputs of `forward_pyramid`, at most one per stage.
        dropout: probability that a channel of the blocks' residual conv branch is left out.
        norm: of the blocks' residual convs; "instance" for batches too small for running statistics.
        layer_scale: start value of the factor of each attention branch.
        checkpointing: recompute the blocks' activations in the backward pass; same results, less memory.
        offset_groups, offset_limit: see `dlka_med.blocks.LargeKernelGate`; the published network has no limit.

    Raises:
        ValueError: if an argument is out of range or the stage lists differ in length.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        img_size: Sequence[int] | None = None,
        *,
        spatial_dims: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 1, 1, 1),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        full_resolution_channels: int = 16,
        full_resolution: FullResolution = "stem",
        deformation: Attention | Sequence[Attention] = ("absent", "absent", "absent", "dense"),
        position_embedding: bool = False,
        supervised_scales: int = 2,
        dropout: float = 0.0,
        norm: Norm = "instance",
        layer_scale: float = 0.01,
        checkpointing: bool = False,
        offset_groups: int | None = None,
        offset_limit: float | None = 8.0,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        strides = steps_per_axis(strides, spatial_dims)
        _check_stages(channels, depths, strides)
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_positive(full_resolution_channels=full_resolution_channels)
        check_choice("norm", norm, ("batch", "instance"))
        check_choice("full_resolution", full_resolution, get_args(FullResolution))
        if position_embedding and img_size is None:
            raise ValueError("position_embedding needs img_size, the spatial shape that it is made for")
        if img_size is not None and (len(img_size) != spatial_dims or min(img_size) < 1):
            raise ValueError(f"img_size needs {spatial_dims} positive sizes, got {tuple(img_size)}")
        if not 1 <= supervised_scales <= len(channels):
            raise ValueError(f"supervised_scales must be 1 to {len(channels)} (the stages), got {supervised_scales}")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.checkpointing = checkpointing
        self.full_resolution = full_resolution
        self.strides: tuple[Stride, ...] = strides

        gates = per_stage("deformation", deformation, len(channels))

        def stage(index: int) -> nn.Sequential:
            position_size = None
            if position_embedding:
                padded = [n + pad for n, pad in zip(img_size, self._padding(img_size), strict=True)]
                position_size = [n // s for n, s in zip(padded, self._stride(index + 1), strict=True)]
            blocks = [
                DLKABlock(
                    channels[index],
                    spatial_dims,
                    gates[index],
                    position_size=position_size,
                    layer_scale=layer_scale,
                    dropout=dropout,
                    norm=norm,
                    offset_groups=offset_groups,
                    offset_limit=offset_limit,
                )
                for _ in range(depths[index])
            ]
            return nn.Sequential(*blocks)

        stages = range(len(channels))
        inputs = (full_resolution_channels if full_resolution == "stem" else in_channels, *channels)
        outputs = (full_resolution_channels, *channels)
        self.downsamplers = nn.ModuleList(
            PatchDownsample(spatial_dims, inputs[i], channels[i], strides[i]) for i in stages
        )
        self.encoder = nn.ModuleList(stage(i) for i in stages)
        self.upsamplers = nn.ModuleList(
            PatchUpsample(spatial_dims, channels[i], outputs[i], strides[i]) for i in stages
        )
        self.decoder = nn.ModuleList(stage(i) for i in stages[:-1])
        self.image_block, self.full_block = _full_blocks(
            full_resolution, spatial_dims, in_channels, full_resolution_channels
        )
        conv = CONV[spatial_dims]
        self.heads = nn.ModuleList(conv(outputs[i], out_channels, 1) for i in range(supervised_scales))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, out_channels, *S)` of the image x `(B, in_channels, *S)`.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        return crop(self.heads[0](self._features(x)[0]), x.shape[2:])

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """Logits of the `supervised_scales` finest scales, full to coarse.

        Each is at its own resolution: for a scale of stride s its size is ceil(n / s) along an axis of n
        voxels, and its voxel i covers the image's voxels [i * s, (i + 1) * s), of which the last may lie
        partly outside. The first is what `forward` returns.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        features = self._features(x)
        pyramid = []
        for scale, head in enumerate(self.heads):
            size = [-(-n // s) for n, s in zip(x.shape[2:], self._stride(scale), strict=True)]
            pyramid.append(crop(head(features[scale]), size))
        return pyramid

    @property
    def scale_strides(self) -> list[Stride]:
        """Image voxels per voxel of each output of `forward_pyramid`, per axis."""
        return [self._stride(scale) for scale in range(len(self.heads))]

    @property
    def size_unit(self) -> Stride:
        """Sizes inside are multiples of it, per axis."""
        return self._stride(len(self.strides))

    def _features(self, image: Tensor) -> list[Tensor]:
        """Decoder maps, full to coarse."""
        self._check_image(image)
        x = image
        pads = self._padding(image.shape[2:])
        if any(pads):
            x = F.pad(x, [n for pad in reversed(pads) for n in (0, pad)])
        x = image = channels_last(x)
        if self.full_resolution == "stem":
            x = image = self.image_block(x)
        skips = []
        for downsample, blocks in zip(self.downsamplers, self.encoder, strict=True):
            x = self._run(blocks, downsample(x))
            skips.append(x)
        features = [x]
        for upsample, blocks, skip in zip(
            reversed(self.upsamplers[1:]), reversed(self.decoder), reversed(skips[:-1]), strict=True
        ):
            x = self._run(blocks, upsample(x) + skip)
            features.append(x)
        full = self.upsamplers[0](x)
        if self.full_resolution != "none":
            skip = image if self.full_resolution == "stem" else self.image_block(image)
            full = self.full_block(full + skip)
        features.append(full)
        return features[::-1]

    def _run(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        for block in blocks:
            x = run_checkpointed(block, x) if self.checkpointing else block(x)
        return x

    def _stride(self, stages: int) -> Stride:
        """Product of the first `stages` strides."""
        return tuple(prod([stride[axis] for stride in self.strides[:stages]]) for axis in range(self.spatial_dims))

    def _padding(self, size: Sequence[int]) -> list[int]:
        return [-n % s for n, s in zip(size, self.size_unit, strict=True)]

    def _check_image(self, image: Tensor) -> None:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            axes = ", ".join("xyz"[: self.spatial_dims])
            raise ValueError(
                f"expected an image of shape (batch, {self.in_channels}, {axes}), got {tuple(image.shape)}; "
                f"the network was built with in_channels={self.in_channels}"
            )


def _full_blocks(
    kind: FullResolution, dims: int, in_channels: int, channels: int
) -> tuple[nn.Module | None, nn.Module | None]:
    """The block of the image at full resolution, and that of its sum with the decoder's map."""
    if kind == "none":
        return None, None
    if kind in ("residual", "stem"):
        return tuple(ResidualConv(dims, inputs, channels, norm="instance") for inputs in (in_channels, channels))
    both, image = (CONV[dims](inputs, channels, 3, padding=1, bias=False) for inputs in (channels, in_channels))
    normed = [(InstanceNorm(), nn.LeakyReLU(0.01, inplace=True)) for _ in range(2)]
    return image, nn.Sequential(*normed[0], both, *normed[1])


def _check_stages(channels: Sequence[int], depths: Sequence[int], strides: Sequence[Stride]) -> None:
    for name, values in (("channels", channels), ("depths", depths)):
        if not isinstance(values, Sequence):
            raise ValueError(f"{name} needs one whole number for each stage, got {values!r}")
    lengths = {"channels": len(channels), "depths": len(depths), "strides": len(strides)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"channels, depths and strides need one entry per stage each, got {lengths}")
    if len(channels) < 2:
        raise ValueError(f"at least two stages are needed, got channels {tuple(channels)}")
    for name, values in (("channels", channels), ("depths", depths)):
        if min(values) < 1:
            raise ValueError(f"{name} must be positive, got {tuple(values)}")
