"""The encoders of the 2D networks: any backbone of timm, seen as a list of feature maps."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.maxxvit import MaxxVit
from torch import Tensor, nn

SIZE_UNIT = 32


class TimmEncoder(nn.Module):
    """The last `stages` feature maps of a backbone of timm, high to low resolution.

    x `(B, in_channels, H, W)` -> maps `(B, channels[i], H / strides[i], W / strides[i])`. The backbone's final norm
    is applied where it has one for its maps; what only a classifier needs is not built.

    H and W have to be multiples of `size_unit`. That is the greatest stride for most backbones. Those with windows
    derived from the image's size (MaxViT) keep the windows of `img_size` and take multiples of it; those with
    position embeddings of one size (CoAtNet) take `img_size` alone.

    Args:
        name: as timm knows it, such as "maxvit_rmlp_small_rw_224", "convnext_atto" or "resnet18".
        in_channels: channels of the image; pretrained first convs are summed or repeated to fit.
        img_size: height and width that the windows or position embeddings of the backbone are made for, rounded
            up to multiples of 32; without a meaning for purely convolutional backbones.
        pretrained: True loads the weights that timm offers under this name (by the network, or from its cache), a
            path such a file (`.safetensors`, or `.pth` with tensors alone).
        stages: number of maps; the four last are those of strides 4 to 32 of nearly all backbones.
        drop_path: stochastic depth inside the backbone; None: as timm has it.

    Attributes:
        channels: of each map.
        strides: of each map.
        size_unit: (height, width) that divide the size of the images.

    Raises:
        ValueError: if timm knows no such name or the backbone gives too few maps.
        FileNotFoundError: if `pretrained` names no file.
        RuntimeError: if the pretrained weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        img_size: Sequence[int] = (224, 224),
        *,
        pretrained: bool | str | Path = False,
        stages: int = 4,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.img_size = tuple(-(-size // SIZE_UNIT) * SIZE_UNIT for size in img_size)
        _check_name(name)
        arguments = {"in_chans": in_channels, "num_classes": 0}
        if drop_path is not None:
            arguments["drop_path_rate"] = drop_path
        self.model, sized = _built(name, self.img_size, pretrained, arguments)
        info = list(self.model.feature_info)
        if len(info) < stages:
            raise ValueError(f"encoder: expected a backbone with {stages} feature maps, but {name!r} has {len(info)}")
        self.indices = self.model.prune_intermediate_layers(stages, prune_norm=False, prune_head=True)
        self.channels: tuple[int, ...] = tuple(info[index]["num_chs"] for index in self.indices)
        self.strides: tuple[int, ...] = tuple(info[index]["reduction"] for index in self.indices)
        self.size_unit = self.img_size if sized else (max(self.strides),) * 2
        self.one_size = sized and not isinstance(self.model, MaxxVit)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of x, whose height and width are multiples of `size_unit`."""
        if self.one_size and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"the encoder {self.name!r} takes images of {self.img_size} at most, got {tuple(x.shape[2:])}: "
                "build the network with a larger img_size"
            )
        return self.model.forward_intermediates(
            x, indices=self.indices, norm=True, output_fmt="NCHW", intermediates_only=True
        )


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        nearest = get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)
        hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(f"encoder: timm {timm.__version__} has no model called {name!r}{hint}")


def _built(
    name: str, img_size: tuple[int, ...], pretrained: bool | str | Path, arguments: dict[str, Any]
) -> tuple[nn.Module, bool]:
    """The backbone, and whether it is bound to `img_size`."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        return _with_weights(name, pretrained, arguments), False
    try:
        return _with_weights(name, pretrained, arguments | {"img_size": img_size, "strict_img_size": False}), False
    except TypeError:
        return _with_weights(name, pretrained, arguments | {"img_size": img_size}), True


def _with_weights(name: str, pretrained: bool | str | Path, arguments: dict[str, Any]) -> nn.Module:
    return timm.create_model(name, pretrained=pretrained is True, **arguments)
