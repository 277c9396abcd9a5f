"""Networks: image in, logits at the image's size out."""

from difflib import get_close_matches
from typing import Any

from torch import nn

from dlka_med.networks.dlka_net_2d import DLKANet2d
from dlka_med.networks.dlka_net_3d import DLKANet3d
from dlka_med.networks.dlka_unet import DLKAUNet
from dlka_med.networks.dynunet import DynUNet
from dlka_med.networks.load_report import LoadReport, load_matching
from dlka_med.networks.mednext import MedNeXt
from dlka_med.networks.original_weights import load_original
from dlka_med.networks.segresnet import SegResNet
from dlka_med.networks.swin_unetr import SwinUNETR
from dlka_med.networks.timm_unet import TimmUNet
from dlka_med.networks.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {
    "dlka_net_2d": DLKANet2d,
    "dlka_net_3d": DLKANet3d,
    "dlka_unet": DLKAUNet,
    "unet": UNet,
    "dynunet": DynUNet,
    "segresnet": SegResNet,
    "swin_unetr": SwinUNETR,
    "mednext": MedNeXt,
    "timm_unet": TimmUNet,
}


def build_network(name: str, **arguments: Any) -> nn.Module:
    """The network called `name` in `NETWORKS`, built with `arguments`.

    Raises:
        ValueError: if there is no such network; the message lists the nearest names.
    """
    if name not in NETWORKS:
        nearest = get_close_matches(name, NETWORKS, n=3, cutoff=0.3) or list(NETWORKS)
        raise ValueError(f"there is no network called {name!r}; did you mean {' or '.join(map(repr, nearest))}?")
    return NETWORKS[name](**arguments)


__all__ = [
    "NETWORKS",
    "DLKANet2d",
    "DLKANet3d",
    "DLKAUNet",
    "DynUNet",
    "LoadReport",
    "MedNeXt",
    "SegResNet",
    "SwinUNETR",
    "TimmUNet",
    "UNet",
    "build_network",
    "load_matching",
    "load_original",
]
