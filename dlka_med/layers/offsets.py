"""The learned offsets of every deformable layer of a module, to look at."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlka_med.layers.dcnv3 import DCNv3, DCNv4
from dlka_med.layers.deform_conv import DeformConv


@torch.no_grad()
def read_offsets(module: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """Run `module(*inputs)` in evaluation mode and return how far its deformable layers moved their kernel points.

    Works on a layer, a block or a network, whatever deforms in it; `module` is afterwards in the mode it was in.

    Returns:
        Name of the `DeformConv`, `DCNv3` or `DCNv4` in `module` ("" if it is `module` itself) -> offsets
        `(B, G, K, d, *S')` in voxels of that layer's input: for every output position, offset group and kernel
        point (the last kernel axis runs fastest) one displacement in the order of the spatial axes. Empty if
        nothing deforms. A layer that runs more than once has those of its last run.
    """
    offsets: dict[str, Tensor] = {}

    def keep(name: str, layer: DeformConv | DCNv3 | DCNv4, arguments: tuple[Tensor]) -> None:
        geometry = layer.geometry
        shape = (geometry.offset_groups, geometry.points, geometry.spatial_dims)
        offsets[name] = layer.predict_offsets(*arguments)[0].unflatten(1, shape)

    modes = {part: part.training for part in module.modules()}
    deformable = [(n, part) for n, part in module.named_modules() if isinstance(part, DeformConv | DCNv3 | DCNv4)]
    hooks = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in deformable]
    try:
        module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return offsets
