"""A network in parts: what each stage and each type of layer costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from dlka_med.blocks.dlka_block import DLKABlock
from dlka_med.blocks.large_kernel_attention import LargeKernelGate
from dlka_med.layers import predicting_parts
from dlka_med.ops.multiply_adds import Work

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TYPES = (
    "convolution",
    "1x1 convolution",
    "depthwise convolution",
    "transposed convolution",
    "linear map",
    "attention and other products",
    "offsets and modulation",
    "sampling",
    "deformable kernel",
)


@dataclass(frozen=True)
class Stage:
    """A part of a network whose maps have one size.

    Args:
        name: of the module.
        shape: of its output, without the batch; None: it does not run in prediction, or others use its weights.
        gates: what deforms in its D-LKA blocks, as in `LargeKernelGate`; empty without such blocks.
    """

    name: str
    shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    gates: tuple[str, ...] = ()


def by_type(network: nn.Module, work: Mapping[str, Work]) -> dict[str, int]:
    """Multiply-adds of each type of layer, those of `TYPES` that there are.

    What deformable layers predict their offsets with is told apart, and so is the sampling between voxels.

    Args:
        work: of `work_of_modules`.
    """
    modules, predicting, found = dict(network.named_modules()), predicting_parts(network), Counter()
    for name, done in work.items():
        found["offsets and modulation" if name in predicting else _type(modules[name])] += done.plain
        found["sampling"] += done.sampling
        found["deformable kernel"] += done.kernel
    return {name: found[name] for name in TYPES if found[name]}


def stages(network: nn.Module, work: Mapping[str, Work]) -> list[Stage]:
    """The largest parts whose convolutions give maps of one size, or bring them from one to another, in their order.

    What stands between them (embeddings, products) is a last stage of its own, "rest", so that the sums are those of
    the network.

    Args:
        work: of `work_of_modules`.
    """
    found: list[Stage] = []
    counted: set[int] = set()
    _walk(network, "", work, found, counted)
    rest = [p for p in network.parameters() if id(p) not in counted]
    parameters, total = sum(p.numel() for p in rest), sum(done.total for done in work.values())
    total -= sum(stage.multiply_adds for stage in found)
    if parameters or total:
        found.append(Stage("rest", None, parameters, total))
    return found


def _walk(module: nn.Module, name: str, work: Mapping[str, Work], found: list[Stage], counted: set[int]) -> None:
    inside = {f"{name}.{part}".strip("."): each for part, each in module.named_modules()}
    inside = {part: each for part, each in inside.items() if part in work}
    if name not in work:
        return  # it stands in the network under another name, too
    children = [(f"{name}.{part}".strip("."), child) for part, child in module.named_children()]
    parameters = {id(p): p for p in module.parameters() if id(p) not in counted}
    if not parameters and not any(work[part].total for part in inside):
        return
    # A block may bring its input to another size; two parts in a row are two stages.
    most = 1 if not name or isinstance(module, nn.Sequential) else 2
    if children and (len(work[name].shapes) != 1 or len(_sizes(inside, work)) > most):
        for part, child in children:
            _walk(child, part, work, found, counted)
        return
    counted.update(parameters)
    shapes = work[name].shapes
    gates = [each.deformation for each in inside.values() if isinstance(each, LargeKernelGate)]
    gates += ["absent" for each in inside.values() if isinstance(each, DLKABlock) and each.attention is None]
    found.append(
        Stage(
            name,
            shapes[0][1:] if shapes else None,
            sum(p.numel() for p in parameters.values()),
            sum(work[part].total for part in inside),
            tuple(dict.fromkeys(gates)),
        )
    )


def _sizes(inside: Mapping[str, nn.Module], work: Mapping[str, Work]) -> set[tuple[int, ...]]:
    """Spatial shapes that convolutions give; those of a pooled image do not count."""
    convs = [part for part, each in inside.items() if isinstance(each, CONVS + TRANSPOSED)]
    sizes = {shape[2:] for part in convs for shape in work[part].shapes}
    return {size for size in sizes if max(size) > 1}


def _type(module: nn.Module) -> str:
    if isinstance(module, TRANSPOSED):
        return "transposed convolution"
    if isinstance(module, nn.Linear):
        return "linear map"
    if not isinstance(module, CONVS):
        return "attention and other products"
    if module.groups > 1 and module.groups == module.in_channels:
        return "depthwise convolution"
    return "1x1 convolution" if set(module.kernel_size) == {1} else "convolution"
