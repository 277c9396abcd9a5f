"""Rules for the networks that the D-LKA nets are compared with: as wide as memory allows, else as their authors say."""

from collections.abc import Callable, Sequence
from typing import Any

from dlka_med.planning.size import Size, large_batches

Settings = dict[str, tuple[Any, str]]

BY_AXIS = "an axis waits while its voxels are over twice the shortest, and ends with maps of 4 voxels"
DOUBLED = "doubled from stage to stage"
WIDEST = {2: 512, 3: 320}  # channels of nnU-Net's deepest stages
LARGE, SMALL = "large: for a long run on a GPU", "small: what a short run or a CPU can train"
SHORT = "memory is short"
WORDS = (LARGE, SMALL, SHORT, SHORT)
BATCHES = {2: (16, 4, 4, 1), 3: (2, 2, 2, 1)}
LEAST = {2: (192**2, 128**2, 96**2, 0), 3: (2**18, 32**3, 24**3, 0)}  # voxels of a window
# Channels at full resolution, and time per voxel as a multiple of that of the small `dlka_net_2d`.
WIDTHS = {
    "unet": ((32, 0.5), (24, 0.3), (16, 0.2), (8, 0.15)),
    "dynunet": ((32, 1.8), (16, 0.5), (8, 0.3), (4, 0.2)),
    "segresnet": ((32, 2.0), (16, 0.9), (8, 0.6), (8, 0.6)),
    "swin_unetr": ((48, 6.0), (12, 1.2), (12, 1.6), (12, 1.6)),
    "mednext": ((32, 3.5), (16, 1.3), (8, 0.6), (4, 0.4)),
}
LEAN = {2: 1.0, 3: 2.5}  # that net is so much faster per voxel than these multiples say
TIMM_LARGE = Size("the encoder of the published D-LKA net", 16, 0, 16, 10, 192**2, "maxvit_rmlp_small_rw_224")
TIMM_SMALL = Size("4.3 million parameters; small enough for a short run", 16, 0, 4, 0.6, 128**2, "convnext_atto")


def other_sizes(name: str, dims: int, large: bool) -> tuple[Size, ...]:
    """What may be trained, the best first; each needs less memory than the one before.

    Args:
        large: whether those for long runs are among them.
    """
    if name == "timm_unet":
        widest, others = TIMM_LARGE, (TIMM_SMALL, TIMM_SMALL._replace(words=SHORT, batch=1, least=0))
    else:
        widest, *others = (
            Size(words, width, 0, batch, LEAN[dims] * cost, least)
            for words, (width, cost), batch, least in zip(WORDS, WIDTHS[name], BATCHES[dims], LEAST[dims], strict=True)
        )
        if name == "swin_unetr":
            others = [size._replace(checkpointing=size.words == SHORT) for size in others]
    if not large:
        return tuple(others)
    return (*(large_batches(widest) if dims == 2 else [widest]), *others)


def other_network(name: str, dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    """The section `network` of these networks, but for the name.

    Args:
        strides: of the stages.
    """
    if name == "timm_unet":
        return _timm_unet(size, is_long)
    return spatial_dims(dims) | OF[name](dims, size, strides, is_long)


def spatial_dims(dims: int) -> Settings:
    """What a network that comes in 2D and 3D is told first."""
    seen = {2: "the network sees images, or slices of volumes", 3: "the network sees volumes"}
    return {"spatial_dims": (dims, seen[dims])}


def _unet(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    return {
        "channels": ([size.width * 2**stage for stage in range(len(strides) + 1)], f"{size.words}; {DOUBLED}"),
        "strides": ([list(stride) for stride in strides], BY_AXIS),
        "kernel_size": (3, "MONAI's default"),
        "residual_units": (2, "as in MONAI's examples"),
        "norm": ("instance", "MONAI's default"),
        "dropout": (0.0, "MONAI's default"),
    }


def _dynunet(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    widths = [min(size.width * 2**stage, WIDEST[dims]) for stage in range(len(strides) + 1)]
    return {
        "channels": (widths, f"{size.words}; {DOUBLED}, at most {WIDEST[dims]} as nnU-Net"),
        "strides": ([[1] * dims, *map(list, strides)], BY_AXIS),
        "kernel_size": (3, "as nnU-Net"),
        "residual": (False, "as nnU-Net"),
        "norm": ("instance", "as nnU-Net"),
        "dropout": (0.0, "as nnU-Net"),
        "supervised_scales": _scales(len(strides), is_long),
    }


def _segresnet(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    stages = len(strides) + 1
    return {
        "channels": (size.width, f"{size.words}; {DOUBLED}"),
        "depths": ([1, 2, 2, 4][:stages], "as published, as many stages as leave maps of 4 voxels"),
        "decoder_depths": ([1] * (stages - 1), "as published"),
        "norm": ("group", "as published"),
        "dropout": (0.0, "MONAI's default"),
        "upsampling": ("nontrainable", "as published"),
    }


def _swin_unetr(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    heads = size.width // 12
    return {
        "channels": (size.width, f"{size.words}; {DOUBLED}"),
        "depths": ([2, 2, 2, 2], "as published"),
        "heads": ([heads * 2**stage for stage in range(4)], "of 12 channels each"),
        "window_size": (7, "as published"),
        "mlp_ratio": (4.0, "as published"),
        "norm": ("instance", "as published"),
        "dropout": (0.0, "MONAI's default"),
        "drop_path": (0.0, "MONAI's default"),
        "checkpointing": (size.checkpointing, SHORT if size.checkpointing else "there is memory enough"),
    }


def _mednext(dims: int, size: Size, strides: Sequence[Sequence[int]], is_long: bool) -> Settings:
    stages = len(strides) + 1
    return {
        "channels": (size.width, f"{size.words}; {DOUBLED}"),
        "depths": ([2] * stages, "as the published size S, as many stages as leave maps of 4 voxels"),
        "expansions": ([2] * stages, "as the published size S"),
        "kernel_size": (3, "as the published size S"),
        "supervised_scales": _scales(stages, is_long),
    }


def _timm_unet(size: Size, is_long: bool) -> Settings:
    return {
        "encoder": (size.encoder, size.words),
        "pretrained": (False, "true: weights of timm, downloaded at the start; or a file of them"),
        "channels": ([size.width * 2**stage for stage in range(4)], "doubled from fine to coarse"),
        "norm": ("batch" if size.batch > 1 else "instance", f"of batches of {size.batch}"),
        "supervised_scales": _scales(4, is_long),
    }


def _scales(most: int, is_long: bool) -> tuple[int, str]:
    return min(3 if is_long else 2, most), "outputs that the loss sees, full to coarse"


OF: dict[str, Callable[[int, Size, Sequence[Sequence[int]], bool], Settings]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "swin_unetr": _swin_unetr,
    "mednext": _mednext,
}
