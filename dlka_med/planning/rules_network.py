"""Rules for the network: how wide, how deep, and what it gives up where memory is short."""

from collections.abc import Sequence

from dlka_med.planning.choice import Choice, Choices
from dlka_med.planning.rules_other_networks import BY_AXIS, Settings, other_network, other_sizes, spatial_dims
from dlka_med.planning.size import Size, large_batches

PUBLISHED_3D = Size("as published", 32, 3, 2, cost=6.5, least=2**18)
SMALL_3D = (
    Size("small: what a short run or a CPU can train", 32, 1, 2, least=32**3),
    Size("half the published channels: memory is short", 16, 1, 2, cost=0.5, least=32**3),
    Size("half the published channels: memory is short", 16, 1, 1, cost=0.7, least=24**3, checkpointing=True),
    Size("a quarter of the published channels: memory is short", 8, 1, 1, cost=0.4, checkpointing=True),
)
SMALL_UNET_2D = (
    Size("small: what a short run or a CPU can train", 32, 1, 4, 1.3, 128**2),
    Size("half the channels: memory is short", 16, 1, 4, 0.55, 96**2),
    Size("half the channels: memory is short", 16, 1, 1, 1.4, checkpointing=True),
)
PLAIN_STAGES = 2  # the fine ones, of a small network
PUBLISHED_2D = Size("as published", 0, 2, 16, cost=12, least=192**2, encoder="maxvit_rmlp_small_rw_224")
SMALL_2D = (
    Size("3.4 million parameters; small enough for a short run", 0, 1, 4, least=128**2, encoder="convnext_atto"),
    Size("small, one image at a time: memory is short", 0, 1, 1, 1.3, encoder="convnext_atto", checkpointing=True),
)


def sizes(name: str, dims: int, published: bool) -> tuple[Size, ...]:
    """What may be trained, the best first; each needs less memory than the one before.

    Args:
        published: whether the networks of the paper, and others of their weight, are among them.
    """
    if name == "dlka_net_3d":
        return (PUBLISHED_3D, *SMALL_3D) if published else SMALL_3D
    if name == "dlka_unet":
        return SMALL_UNET_2D if dims == 2 else SMALL_3D
    if name == "dlka_net_2d":
        return (*large_batches(PUBLISHED_2D), *SMALL_2D) if published else SMALL_2D
    return other_sizes(name, dims, published)


def network(name: str, dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Choices:
    """The section `network`, but for its name.

    Args:
        strides: of the stages.
    """
    if name == "dlka_net_2d":
        settings = _of_2d(size, is_long) | _of_dlka(size)
    elif name == "dlka_net_3d":
        settings = _of_stages(dims, size, strides, is_long) | _of_dlka(size)
    elif name == "dlka_unet":
        settings = spatial_dims(dims) | _of_stages(dims, size, strides, is_long) | _of_dlka(size)
    else:
        settings = other_network(name, dims, size, strides, is_long)
    return {f"network.{key}": Choice(*pair) for key, pair in settings.items()}


def _of_dlka(size: Size) -> Settings:
    return {
        "offset_groups": (None, "1: all channels share their offsets"),
        "offset_limit": (8.0, "voxels of a layer's map that a kernel point moves at most, so that none is lost"),
        "checkpointing": (size.checkpointing, "memory is short" if size.checkpointing else "there is memory enough"),
    }


def _of_stages(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    stages = len(strides)
    if size.depth > 1:
        full_resolution, full = ("residual", "as published"), (16, "as published")
        gates = ("dense", "as published; depthwise and dcnv3 take much memory in 3D")
    else:
        full_resolution = ("stem", "the encoder goes on from what is seen at full resolution")
        full = (size.width // 2, "half of the first stage's: at full resolution they cost most")
        without = stages - 1 if dims == 2 else min(PLAIN_STAGES, stages - 1)
        why = "attention at the coarse stages, where it is cheap"
        gates = (["absent"] * without + ["dense"] * (stages - without), why)
    return {
        "channels": ([size.width * 2**stage for stage in range(stages)], "doubled from stage to stage"),
        "depths": ([size.depth] * stages, size.words),
        "strides": ([list(stride) for stride in strides], BY_AXIS),
        "full_resolution_channels": full,
        "full_resolution": full_resolution,
        "deformation": gates,
        "position_embedding": (False, "patches lie anywhere, so a position says little"),
        "supervised_scales": (min(3 if is_long else 2, stages), "outputs that the loss sees, full to coarse"),
        "dropout": (0.1, "as published") if is_long else (0.0, "a short run does not overfit"),
        "norm": ("batch", "as published")
        if size.depth > 1
        else ("instance", "as good as batch norm, and the same for batches of any size"),
        "layer_scale": (0.01, "small at first; from 0.1 on the Dice is the same"),
    }


def _of_2d(size: Size, is_long: bool) -> Settings:
    return {
        "encoder": (size.encoder, size.words),
        "pretrained": (False, "true: weights of timm, downloaded at the start; or a file of them"),
        "depths": ([size.depth] * 3, "as published" if size.depth > 1 else "what a short run can train"),
        "deformation": ("depthwise", "as published")
        if size.depth > 1
        else (["none", "depthwise", "depthwise"], "at the finest stage deforming would take half of the time"),
        "supervised_scales": (1, "as published") if is_long else (2, "a second scale helps a short run"),
        "mlp_ratio": (4, "as published"),
        "dropout": (0.0, "as published"),
        "drop_path": (0.0, "as published"),
        "layer_scale": (0.01, "as published")
        if is_long
        else (0.1, "the blocks' branches count from the start: a short run has no time to find them"),
    }
