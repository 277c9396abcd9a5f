"""The published 3D D-LKA Net (Azad et al., Beyond Self-Attention, WACV 2024, section 3.3)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from dlka_med.networks.dlka_unet import DLKAUNet


class DLKANet3d(DLKAUNet):
    """3D D-LKA Net; the defaults are the published network for Synapse.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        img_size: spatial shape for which the position embedding is made; other sizes interpolate it.
        **arguments: of `DLKAUNet`, in place of `PUBLISHED`.

    Raises:
        ValueError: if an argument is out of range or the stage lists differ in length.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "channels": (32, 64, 128, 256),
        "depths": (3, 3, 3, 3),
        "strides": ((2, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        "full_resolution_channels": 16,
        "full_resolution": "residual",
        "deformation": "dense",
        "position_embedding": True,
        "supervised_scales": 3,
        "dropout": 0.1,
        "norm": "batch",
        "layer_scale": 1e-6,
        "offset_limit": None,
    }

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 14,
        img_size: Sequence[int] = (64, 128, 128),
        **arguments: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, img_size, spatial_dims=3, **self.PUBLISHED | arguments)
