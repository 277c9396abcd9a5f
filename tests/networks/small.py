"""The smallest of each network that can be compared with the D-LKA nets, in 2D and 3D."""

import torch

from dlka_med.networks import build_network

SMALL = {
    "unet": {"channels": (4, 6, 8), "strides": (2, 2)},
    "dynunet": {"channels": (4, 6, 8), "strides": (1, 2, 2), "supervised_scales": 2},
    "segresnet": {"channels": 8, "depths": (1, 1, 1), "decoder_depths": (1, 1)},
    "swin_unetr": {"channels": 12, "depths": (2, 1, 1, 1), "window_size": 2},
    "mednext": {"channels": 4, "depths": (1, 1, 1), "expansions": (2, 2, 2), "supervised_scales": 3},
}
EVERY = [(name, dims) for name in SMALL for dims in (2, 3)] + [("timm_unet", 2)]


def network(name, dims, **arguments):
    torch.manual_seed(0)
    given = {"in_channels": 2, "out_channels": 3, "img_size": (64,) * dims}
    if name == "timm_unet":
        small = {"encoder": "test_convnext", "channels": (4, 4, 8, 8), "supervised_scales": 4}
    else:
        small = SMALL[name] | {"spatial_dims": dims}
    return build_network(name, **given | small | arguments)


def image(*size, batch=2, channels=2, seed=1):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
