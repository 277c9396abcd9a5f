"""Original checkpoints put into our networks: rename tables, strictly checked or in parts with a report."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dlka_med.networks.dlka_net_2d import DLKANet2d
from dlka_med.networks.dlka_net_3d import DLKANet3d
from dlka_med.networks.load_report import SHOWN, LoadReport, listed
from dlka_med.networks.weight_file import named_tensors

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

DLKA_NET_3D: Rules = (
    (r"^module\.", ""),
    (r"^d_lka_former_encoder\.downsample_layers\.(\d+)\.0\.conv\.", r"downsamplers.\1.conv."),
    (r"^d_lka_former_encoder\.downsample_layers\.(\d+)\.1\.", r"downsamplers.\1.norm."),
    (r"^d_lka_former_encoder\.stages\.", "encoder."),
    (r"^decoder(\d+)\.transp_conv\.", lambda match: f"upsamplers.{int(match[1]) - 2}."),
    (r"^decoder2\.decoder_block\.0\.", "full_block."),
    (r"^decoder(\d+)\.decoder_block\.0\.", lambda match: f"decoder.{int(match[1]) - 3}."),
    (r"^encoder1\.", "image_block."),
    (r"^(image_block|full_block)\.(conv[12])\.conv\.", r"\1.\2."),
    (r"^image_block\.conv3\.conv\.", "image_block.shortcut.0."),
    (r"^out(\d+)\.conv\.conv\.", lambda match: f"heads.{int(match[1]) - 1}."),
    (r"\.gamma$", ".attention_scale"),
    (r"\.pos_embed$", ".position"),
    (r"^((?:en|de)coder\.\d+\.\d+)\.norm\.", r"\1.attention_norm."),
    (r"\.conv51\.(conv[12])\.conv\.", r".feed_forward.0.\1."),
    (r"\.conv51\.", ".feed_forward.0."),
    (r"\.conv8\.1\.", ".feed_forward.2."),
    (r"\.epa_block\.proj_1\.", ".attention.project_in."),
    (r"\.epa_block\.proj_2\.", ".attention.project_out."),
    (r"\.epa_block\.spatial_gating_unit\.", ".attention.gate."),
    (r"\.gate\.conv0\.", ".gate.depthwise."),
    (r"\.gate\.conv_spatial\.", ".gate.dilated."),
    (r"\.gate\.deform_conv\.conv_offset\.", ".gate.dense.offset_conv."),
    (r"\.gate\.deform_conv\.", ".gate.dense."),
    (r"\.gate\.conv1\.", ".gate.pointwise."),
)


DLKA_NET_2D: Rules = (
    (r"^module\.", ""),
    (r"^backbone\.backbone\.", "encoder.model."),
    (r"^decoder_(\d+)\.layer_up\.expand\.", r"expanders.\1.conv."),
    (r"^decoder_(\d+)\.layer_up\.", r"expanders.\1."),
    (r"^decoder_(\d+)\.x1_linear\.", r"projections.\1."),
    (r"^decoder_0\.last_layer\.", "heads.0."),
    (r"^decoder_(\d+)\.layer_lka_(\d+)\.", lambda match: f"decoder.{match[1]}.{int(match[2]) - 1}."),
    (r"^(decoder\.\d+\.\d+)\.layer_scale_1$", r"\1.attention_scale"),
    (r"^(decoder\.\d+\.\d+)\.layer_scale_2$", r"\1.mlp_scale"),
    (r"^(decoder\.\d+\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"^(decoder\.\d+\.\d+)\.norm2\.", r"\1.feed_forward.0."),
    (r"^(decoder\.\d+\.\d+)\.mlp\.fc1\.", r"\1.feed_forward.1."),
    (r"^(decoder\.\d+\.\d+)\.mlp\.dwconv\.dwconv\.", r"\1.feed_forward.2."),
    (r"^(decoder\.\d+\.\d+)\.mlp\.fc2\.", r"\1.feed_forward.5."),
    (r"\.attn\.proj_1\.", ".attention.project_in."),
    (r"\.attn\.proj_2\.", ".attention.project_out."),
    (r"\.attn\.spatial_gating_unit\.", ".attention.gate."),
    (r"\.gate\.conv0\.", ".gate.depthwise."),
    (r"\.gate\.conv_spatial\.", ".gate.dilated."),
    (r"\.gate\.conv1\.", ".gate.pointwise."),
    (r"\.(depthwise|dilated)\.offset_net\.", r".\1.offset_conv."),
    (r"\.(depthwise|dilated)\.deform_conv\.", r".\1."),
)


@dataclass(frozen=True)
class Original:
    """How the authors' checkpoints of one network become ours.

    Attributes:
        sign: what some name in such a checkpoint starts with, and in no other.
        rules: of renaming, applied one after another.
        unused: pattern of the original names whose tensors no image ever meets.
        check: the arguments of our network that decide about names and shapes.
    """

    sign: str
    rules: Rules
    unused: str | None
    check: str


ORIGINALS: dict[type[nn.Module], Original] = {
    DLKANet2d: Original(
        "backbone.backbone.",
        DLKA_NET_2D,
        # A conv for grey images, which were repeated to three channels instead, and the deepest decoder without skip.
        r"^(module\.)?(backbone\.conv|decoder_3\.(x1_linear|layer_lka_[12]))\.",
        'encoder, deformation="depthwise", depths, supervised_scales=1 and the number of classes',
    ),
    DLKANet3d: Original(
        "d_lka_former_encoder.", DLKA_NET_3D, None, "channels, depths, strides, img_size and the number of classes"
    ),
}


def load_original(
    network: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    partial: bool = False,
    axes: Sequence[int] = (0, 1, 2),
) -> LoadReport:
    """Put a checkpoint of the authors' code into `network`; nothing is changed unless all of it fits.

    A `DLKANet2d` for one channel gets the sum of the first conv over its three, which is exactly the original on a
    grey image repeated to three channels.

    Args:
        network: a `DLKANet3d` or `DLKANet2d` (deformation "depthwise") of the checkpoint's size.
        state_dict: original name -> tensor or array; may be nested as {"state_dict": ...} or {"model": ...},
            and the names may have the prefix `module.`.
        partial: load what fits and report the rest, to fine-tune with other classes, channels or sizes. Position
            embeddings of another size are left out.
        axes: of the original that the axes of a `DLKANet3d` are; the original has (slice, row, column), so
            (2, 1, 0) is for arrays with the slices last.

    Raises:
        ValueError: if names are missing or left over, two of them mean the same tensor or shapes differ (the
            first ones are shown; with `partial` only if two names mean one tensor or nothing fits), if `axes` is no
            order of three, or if there is no rename table for this class of network.
    """
    if type(network) not in ORIGINALS:
        known = " and ".join(network.__name__ for network in ORIGINALS)
        raise ValueError(f"no original checkpoints are known for {type(network).__name__}, only for {known}")
    if sorted(axes) != [0, 1, 2] or (tuple(axes) != (0, 1, 2) and type(network) is not DLKANet3d):
        raise ValueError(f"axes: expected an order of 0, 1 and 2, and this one in 2D, got {tuple(axes)}")
    table, original, ours = ORIGINALS[type(network)], named_tensors(state_dict), network.state_dict()
    unused = [name for name in original if table.unused and re.match(table.unused, name)]
    names = {name: _renamed(name, table.rules) for name in original if name not in unused}
    found = Counter(names.values())
    if ambiguous := [f"{old} -> {new}" for old, new in names.items() if found[new] > 1]:
        raise ValueError("the checkpoint has several tensors\n" + listed("for one place", ambiguous, SHOWN))
    theirs = {new: torch.as_tensor(original[old]) for old, new in names.items() if new in ours}
    if tuple(axes) != (0, 1, 2):
        theirs = {name: _turned(name, tensor, ours[name], axes) for name, tensor in theirs.items()}
    fitting = {name: _fitted(name, tensor, ours[name]) for name, tensor in theirs.items()}
    tensors = {name: tensor for name, tensor in fitting.items() if tensor is not None}
    report = LoadReport(
        loaded=tuple(tensors),
        renamed={old: new for old, new in names.items() if old != new and new in tensors},
        unused=tuple(unused),
        summed=tuple(name for name in tensors if tensors[name].numel() != theirs[name].numel()),
        missing=tuple(name for name in ours if name not in found),
        unexpected=tuple(old for old, new in names.items() if new not in ours),
        misshapen={
            name: (tuple(theirs[name].shape), tuple(ours[name].shape)) for name in fitting if name not in tensors
        },
    )
    if not (tensors if partial else report.complete):
        signs = {other.__name__: value.sign for other, value in ORIGINALS.items() if other is not type(network)}
        others = [other for other, sign in signs.items() if any(sign in name for name in original)]
        raise ValueError(
            f"the checkpoint is not one of this {type(network).__name__} "
            + (f"but of {others[0]}\n" if others else f"(check {table.check})\n")
            + "\n".join(report.differences(SHOWN))
        )
    network.load_state_dict(tensors, strict=False)
    return report


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _fitted(name: str, theirs: Tensor, ours: Tensor) -> Tensor | None:
    """A tensor of the original in the shape of ours, or None if it is another one."""
    found, expected = tuple(theirs.shape), tuple(ours.shape)
    if name.endswith(".position"):  # the original lists the voxels along one axis
        return theirs.reshape(expected) if found == (1, ours.shape[:-1].numel(), expected[-1]) else None
    if found == expected:
        return theirs
    if (*found, 1, 1) == expected:  # a linear layer of the original is a 1x1 conv here
        return theirs.reshape(expected)
    grey = len(found) == 4 and expected == (found[0], 1, *found[2:])
    return theirs.sum(1, keepdim=True) if grey and found[1] == 3 and name.startswith("encoder.") else None


def _turned(name: str, theirs: Tensor, ours: Tensor, axes: Sequence[int]) -> Tensor:
    """A tensor of the 3D original for images whose axes are in another order; the kernels are cubes or strides."""
    if name.endswith(".position"):
        sizes = [ours.shape[axes.index(axis)] for axis in range(3)]
        if theirs.ndim != 3 or theirs.shape[1] != prod(sizes):
            return theirs
        return theirs.unflatten(1, sizes).permute(0, *(1 + axis for axis in axes), 4).flatten(1, 3)
    if theirs.ndim == 5:
        theirs = theirs.permute(0, 1, *(2 + axis for axis in axes))
    if ".offset_conv." in name:  # an offset per kernel point and axis
        side = round((theirs.shape[0] / 3) ** (1 / 3))
        points = theirs.unflatten(0, (side, side, side, 3))[:, :, :, list(axes)]
        theirs = points.permute(*axes, *range(3, points.ndim)).flatten(0, 3)
    return theirs
