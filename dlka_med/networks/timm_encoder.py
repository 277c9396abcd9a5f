"""The encoders of `DLKANet2d` and `TimmUNet`: any backbone of timm, seen as a list of feature maps."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dlka_med.networks.weight_file import read_weights

SIZE_UNIT = 32
PROBE_UNITS = 4  # a side of the image that is tried; on a smaller one, unpadded convolutions find no room
ANOTHER = 'choose another encoder, such as "convnext_atto" or "resnet18"'


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

    Attributes:
        channels: of each map.
        strides: of each map.
        size_unit: (height, width) that divide the size of the images.

    Raises:
        ValueError: if timm knows no such name, the backbone gives too few maps or some that fit no grid of the
            image, or the file does not fit it.
        FileNotFoundError: if `pretrained` names no file.
        RuntimeError: if the weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        img_size: Sequence[int] = (224, 224),
        *,
        pretrained: bool | str | Path = False,
        stages: int = 4,
    ) -> None:
        super().__init__()
        self.name = name
        self.img_size = tuple(-(-size // SIZE_UNIT) * SIZE_UNIT for size in img_size)
        _check_name(name)
        model, arguments = _backbone(name, in_channels, self.img_size)
        if pretrained is True:
            model = _downloaded(name, arguments)
        elif pretrained:
            model = _from_file(name, pretrained, arguments, model.state_dict())
        self.model = model
        info = list(self.model.feature_info)
        if len(info) < stages:
            raise ValueError(f"encoder: expected a backbone with {stages} feature maps, but {name!r} has {len(info)}")
        self.indices = self.model.prune_intermediate_layers(stages, prune_norm=False, prune_head=True)
        if hasattr(self.model, "head"):  # before timm 1.0.31 the norm of ConvNeXt's head stayed
            self.model.head = nn.Identity()
        self.has_norm = not type(model).__module__.startswith("timm.models.hiera")  # which refuses to be asked for one
        self.channels: tuple[int, ...] = tuple(info[index]["num_chs"] for index in self.indices)
        self.strides: tuple[int, ...] = tuple(info[index]["reduction"] for index in self.indices)
        bound = "img_size" in arguments and "strict_img_size" not in arguments
        windows = any(hasattr(module, "partition_size") for module in model.modules())
        self.size_unit = self.img_size if bound else (max(self.strides),) * 2
        self.one_size = bound and not windows
        self._check_maps(in_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of x, whose height and width are multiples of `size_unit`."""
        if self.one_size and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"the encoder {self.name!r} takes images of {self.img_size} at most, got {tuple(x.shape[2:])}: "
                "build the network with a larger img_size"
            )
        return self.model.forward_intermediates(
            x, indices=self.indices, norm=self.has_norm, output_fmt="NCHW", intermediates_only=True
        )

    def _check_maps(self, in_channels: int) -> None:
        """Raise `ValueError` unless the maps of an image are as `channels` and `strides` tell."""
        if any(coarse % fine for fine, coarse in pairwise(self.strides)):
            raise ValueError(
                f"encoder: the strides {self.strides} of the maps of {self.name!r} are no multiples of each other, so "
                f"that its maps cannot be brought together; {ANOTHER}"
            )
        size = self.size_unit if self.size_unit == self.img_size else tuple(PROBE_UNITS * n for n in self.size_unit)
        image = torch.zeros(1, in_channels, *size, device=next(self.model.parameters()).device)
        self.model.eval()
        with torch.no_grad():
            maps = self(image)
        self.model.train()
        for found, channels, stride in zip(maps, self.channels, self.strides, strict=True):
            expected = (channels, *(n // stride for n in size))
            if tuple(found.shape[1:]) != expected:
                raise ValueError(
                    f"encoder: for an image of {size} the map of stride {stride} of {self.name!r} has the shape "
                    f"{tuple(found.shape[1:])} instead of {expected}, so that it lies on no grid of the image (most "
                    f"often for convolutions without padding); {ANOTHER}"
                )


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        nearest = get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)
        hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(f"encoder: timm {timm.__version__} has no model called {name!r}{hint}")


def _backbone(name: str, in_channels: int, img_size: tuple[int, ...]) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone with random weights, and the arguments that it was built with."""
    arguments: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        return timm.create_model(name, **arguments), arguments
    arguments["img_size"] = img_size
    try:
        return timm.create_model(name, **arguments, strict_img_size=False), {**arguments, "strict_img_size": False}
    except TypeError:  # the backbone is bound to its size
        return timm.create_model(name, **arguments), arguments


def _downloaded(name: str, arguments: dict[str, Any]) -> nn.Module:
    if not timm.is_model_pretrained(name):
        raise ValueError(f"pretrained: timm {timm.__version__} offers no weights for {name!r}; choose another encoder")
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # each way of downloading has exceptions of its own
        raise RuntimeError(
            f"the pretrained weights of {name!r} cannot be downloaded ({type(error).__name__}): connect to the "
            "internet once, so that they come into the cache; or give a file of them, pretrained=PATH, downloaded "
            f"elsewhere (the repository timm/{timm.get_pretrained_cfg(name).architecture} on huggingface.co and its "
            "variants); or choose pretrained=False"
        ) from error


def _from_file(name: str, path: str | Path, arguments: dict[str, Any], expected: Mapping[str, Tensor]) -> nn.Module:
    weights = read_weights(path)
    if missing := [key for key in expected if key not in weights]:
        raise ValueError(
            f"{path} holds no weights of {name!r} as timm names them: {len(missing)} of {len(expected)} tensors are "
            f"missing, the first: {', '.join(missing[:3])}; it starts with {', '.join(list(weights)[:3])}"
        )
    try:
        model = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"state_dict": weights, "source": ""}, **arguments
        )
    except RuntimeError as error:
        first = " ".join(str(error).split("\n\t")[1:2]) or error
        raise ValueError(f"{path} does not fit {name!r}: {first}") from error
    model.pretrained_cfg.pop("state_dict")
    return model
