"""Original checkpoints put into our networks: rename tables, strictly checked."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlka_med.networks.dlka_net_3d import DLKANet3d

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

TABLES: dict[type[nn.Module], Rules] = {DLKANet3d: DLKA_NET_3D}


@dataclass(frozen=True)
class LoadReport:
    """What `load_original` did; `str(report)` is readable.

    Attributes:
        loaded: our names of all tensors that were set.
        renamed: original name -> our name, where they differ.
    """

    loaded: tuple[str, ...]
    renamed: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.renamed)} renamed"]
        lines += [f"  {old} -> {new}" for old, new in self.renamed.items()]
        return "\n".join(lines)


def load_original(network: nn.Module, state_dict: Mapping[str, Any]) -> LoadReport:
    """Put a checkpoint of the authors' code into `network`; nothing is changed unless all of it fits.

    Args:
        network: a `DLKANet3d` of the checkpoint's size.
        state_dict: original name -> tensor or array; may be nested as {"state_dict": ...} or {"model": ...},
            and the names may have the prefix `module.`.

    Raises:
        ValueError: if names are missing or left over, two of them mean the same tensor or shapes differ (the
            first ones are shown), or if there is no rename table for this class of network.
    """
    if type(network) not in TABLES:
        known = ", ".join(table.__name__ for table in TABLES)
        raise ValueError(f"no original checkpoints are known for {type(network).__name__}, only for {known}")
    original = _unwrapped(state_dict)
    names = {name: _renamed(name, TABLES[type(network)]) for name in original}
    ours = network.state_dict()
    found = Counter(names.values())
    missing = [name for name in ours if name not in found]
    ambiguous = [f"{old} -> {new}" for old, new in names.items() if found[new] > 1]
    unexpected = [old for old, new in names.items() if new not in ours]
    tensors = {new: torch.as_tensor(original[old]) for old, new in names.items() if new in ours}
    wrong = [
        f"{new}: {tuple(tensor.shape)} instead of {_original_shape(new, ours[new])}"
        for new, tensor in tensors.items()
        if tuple(tensor.shape) != _original_shape(new, ours[new])
    ]
    if missing or unexpected or ambiguous or wrong:
        raise ValueError(
            f"the checkpoint is not one of this {type(network).__name__} "
            "(check channels, depths, strides, img_size and the number of classes)"
            + _shown("missing", missing)
            + _shown("unexpected", unexpected)
            + _shown("for one place", ambiguous)
            + _shown("of wrong shape", wrong)
        )
    network.load_state_dict({name: tensor.reshape(ours[name].shape) for name, tensor in tensors.items()})
    return LoadReport(tuple(tensors), {old: new for old, new in names.items() if old != new})


def _unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            return _unwrapped(checkpoint[key])
    return dict(checkpoint)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _original_shape(name: str, ours: Tensor) -> tuple[int, ...]:
    """Shape of the original tensor; its position embedding lists the voxels along one axis."""
    if name.endswith(".position"):
        return (1, ours.shape[:-1].numel(), ours.shape[-1])
    return tuple(ours.shape)


def _shown(what: str, names: list[str], limit: int = 5) -> str:
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"\n{len(names)} {what}: {'; '.join(names[:limit])}{more}"
