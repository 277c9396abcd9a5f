# ruff: noqa: F401
"""Medical image segmentation around Deformable Large Kernel Attention (D-LKA), in 2D and 3D.

    import dlka_med as dlka

    run = dlka.train(dlka.load_config("config.yaml"), "runs/first")
    dlka.predict(run.path, "images", "predictions")

What stands here is looked up when it is first used, so that the import itself takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below, for those who read types
    from dlka_med.blocks.dlka_block import DLKABlock
    from dlka_med.blocks.large_kernel_attention import LargeKernelAttention
    from dlka_med.calibrating.calibrate import calibrate
    from dlka_med.checking.check import check_dataset as check
    from dlka_med.comparing.compare import ablate, compare
    from dlka_med.config.loading import load_config, save_config
    from dlka_med.config.schema import RunConfig
    from dlka_med.errors import InputError, WriteError
    from dlka_med.evaluation.evaluate import evaluate
    from dlka_med.inference.predict import predict_images as predict
    from dlka_med.inference.predictor import Predictor
    from dlka_med.layers.dcnv3 import DCNv3, DCNv4
    from dlka_med.layers.deform_conv import DeformConv
    from dlka_med.networks import NETWORKS, build_network
    from dlka_med.networks.dlka_net_2d import DLKANet2d
    from dlka_med.networks.dlka_net_3d import DLKANet3d
    from dlka_med.networks.dlka_unet import DLKAUNet
    from dlka_med.ops.deform_conv import deform_conv
    from dlka_med.planning.plan import plan
    from dlka_med.run_folder import RunFolder
    from dlka_med.training.folds import train_folds
    from dlka_med.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "DCNv3": "layers.dcnv3",
    "DCNv4": "layers.dcnv3",
    "DLKABlock": "blocks.dlka_block",
    "DLKANet2d": "networks.dlka_net_2d",
    "DLKANet3d": "networks.dlka_net_3d",
    "DLKAUNet": "networks.dlka_unet",
    "DeformConv": "layers.deform_conv",
    "InputError": "errors",
    "LargeKernelAttention": "blocks.large_kernel_attention",
    "NETWORKS": "networks",
    "Predictor": "inference.predictor",
    "RunConfig": "config.schema",
    "RunFolder": "run_folder",
    "WriteError": "errors",
    "ablate": "comparing.compare",
    "build_network": "networks",
    "calibrate": "calibrating.calibrate",
    "check": "checking.check:check_dataset",
    "compare": "comparing.compare",
    "deform_conv": "ops.deform_conv",
    "evaluate": "evaluation.evaluate",
    "load_config": "config.loading",
    "plan": "planning.plan",
    "predict": "inference.predict:predict_images",
    "save_config": "config.loading",
    "train": "training.train",
    "train_folds": "training.folds",
}
"""Where each name is found: a module of the package, and after a colon what it is called there."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
