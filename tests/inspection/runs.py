"""Runs that were never trained, but whose kernel points move."""

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import nn

from dlka_med.config.loading import checked_config
from dlka_med.layers import offset_parameters
from dlka_med.run_folder import RunFolder, build_run_network

NETWORK = {
    2: {"name": "dlka_net_2d", "encoder": "test_convnext", "depths": [1, 1, 1]},
    3: {
        "name": "dlka_net_3d",
        "channels": [4, 8],
        "depths": [1, 1],
        "strides": [[1, 2, 2], [2, 2, 2]],
        "full_resolution_channels": 4,
        "position_embedding": False,
        "supervised_scales": 2,
        "norm": "instance",
    },
}


def config_of(dims, patch, network=None, **sections):
    data = {
        "name": "x",
        "dataset": {"root": "nowhere", "channels": ["MRI"], "labels": {"background": 0, "a": 1, "b": 7}},
        "preprocessing": {"crop_foreground": False, "intensity": [{"kind": "none"}]},
        "network": {**NETWORK[dims], **(network or {}), "layer_scale": 1.0},
        "training": {"patch_size": patch},
    }
    for name, section in sections.items():
        data[name] = {**data.get(name, {}), **section}
    return checked_config(data, "x")


def make_run(path, config, deviation=0.3):
    """A run whose offsets differ from place to place."""
    torch.manual_seed(0)
    network = build_run_network(config, pretrained=False)
    with torch.no_grad():
        for parameter in offset_parameters(network):
            nn.init.normal_(parameter, std=deviation)
        for head in network.heads:
            head.weight.mul_(5)
    run = RunFolder.create(path, config, {"train": [], "validation": [], "test": []})
    run.save_weights(network.state_dict())
    return run


def volume(path, values, spacing=(1.0, 1.0, 1.0)):
    nib.save(nib.Nifti1Image(np.asarray(values), np.diag([*spacing, 1.0])), path)
    return path


def picture(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
