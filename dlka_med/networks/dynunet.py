"""The U-Net of nnU-Net, as MONAI has it."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from dlka_med.blocks.dims import check_choice
from dlka_med.networks.any_size import check_each_positive, check_scales, steps_per_axis, strides_up_to
from dlka_med.networks.monai_network import MonaiNetwork, Norm, check_odd, least_units


class DynUNet(MonaiNetwork):
    """The U-Net of nnU-Net (Isensee et al., nnU-Net, Nature Methods 2021).

    MONAI names every block twice, once in `skip_layers`; here each has one name, the other one.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: without a meaning here, where all sizes are alike.
        spatial_dims: 2 or 3.
        channels: of each stage, of which there are three or more.
        strides: in front of each stage, per axis or one number for all; the first is 1.
        kernel_size: of the convs; odd.
        residual: whether a residual connection spans the two convs of an encoder stage.
        norm: "batch" or "instance", both with parameters.
        dropout: probability that a value is left out behind each conv.
        supervised_scales: outputs of `forward_pyramid`, fewer than stages.

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
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2),
        kernel_size: int = 3,
        residual: bool = False,
        norm: Norm = "instance",
        dropout: float = 0.0,
        supervised_scales: int = 3,
    ) -> None:
        steps = steps_per_axis(strides, spatial_dims)
        check_each_positive(channels=channels)
        check_odd(kernel_size)
        check_choice("norm", norm, ("batch", "instance"))
        stages = len(channels)
        if stages < 3 or len(steps) != stages:
            raise ValueError(
                f"channels and strides need one entry for each of three stages or more, got {stages} and {len(steps)}"
            )
        if prod(steps[0]) != 1:
            raise ValueError(f"the first of strides has to be 1, got {steps[0]}")
        if max(map(max, steps)) > kernel_size + 1:
            raise ValueError(f"strides may be {kernel_size + 1} at most (kernel_size + 1), got {steps}")
        check_scales(supervised_scales, stages - 1)
        _, *scales, unit = strides_up_to(steps, spatial_dims)
        super().__init__(spatial_dims, in_channels, out_channels, unit, scales[:supervised_scales], least_units(norm))
        from monai.networks.nets.dynunet import DynUNet

        self.model = DynUNet(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=[kernel_size] * stages,
            strides=steps,
            upsample_kernel_size=steps[1:],
            filters=tuple(channels),
            dropout=dropout or None,
            norm_name=(norm, {"affine": True}),
            deep_supervision=supervised_scales > 1,
            deep_supr_num=max(supervised_scales - 1, 1),
            res_block=residual,
        )
        del self.model.skip_layers

    def _logits(self, x: Tensor, scales: int) -> list[Tensor]:
        model = self.model
        skips = []
        for block in (model.input_block, *model.downsamples):
            x = block(x)
            skips.append(x)
        features = [model.bottleneck(x)]
        for upsample, skip in zip(model.upsamples, reversed(skips), strict=True):
            features.append(upsample(features[-1], skip))
        heads = [model.output_block, *(model.deep_supervision_heads if scales > 1 else ())]
        return [head(feature) for head, feature in zip(heads, reversed(features[1:]), strict=False)]
