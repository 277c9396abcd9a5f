"""The residual U-Net of MONAI."""

from collections.abc import Sequence

from dlka_med.blocks.dims import check_choice
from dlka_med.networks.any_size import check_each_positive, steps_per_axis, strides_up_to
from dlka_med.networks.monai_network import MonaiNetwork, Norm, check_odd, least_units


class UNet(MonaiNetwork):
    """Residual U-Net (Kerfoot et al., Left-Ventricle Quantification Using Residual U-Net, STACOM 2018).

    Each stage but the last begins with a strided conv; the deepest map is 1 / prod(strides) of the image. It has
    logits of one scale.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: without a meaning here, where all sizes are alike.
        spatial_dims: 2 or 3.
        channels: of each stage.
        strides: between the stages, so one fewer; per axis or one number for all.
        kernel_size: of the convs; odd.
        residual_units: convs of each stage, which a residual connection spans; 0: one conv without.
        norm: "batch", or "instance" without parameters.
        dropout: probability that a value is left out behind each conv.

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
        channels: Sequence[int] = (24, 48, 96, 192),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        kernel_size: int = 3,
        residual_units: int = 2,
        norm: Norm = "instance",
        dropout: float = 0.0,
    ) -> None:
        steps = steps_per_axis(strides, spatial_dims)
        check_each_positive(channels=channels)
        check_odd(kernel_size)
        check_choice("norm", norm, ("batch", "instance"))
        if len(channels) < 2 or len(steps) != len(channels) - 1:
            raise ValueError(
                f"channels needs two stages or more and strides one entry fewer, got {len(channels)} and {len(steps)}"
            )
        *scales, unit = strides_up_to(steps, spatial_dims)
        super().__init__(spatial_dims, in_channels, out_channels, unit, scales[:1], least_units(norm))
        from monai.networks.nets.unet import UNet

        self.model = UNet(
            spatial_dims,
            in_channels,
            out_channels,
            tuple(channels),
            steps,
            kernel_size=kernel_size,
            up_kernel_size=kernel_size,
            num_res_units=residual_units,
            norm=norm,
            dropout=dropout,
        )
