"""Configs of small networks, with the names of channels and labels."""

from dlka_med.config.schema import RunConfig


def config_of(network, patch, batch=2, channels=("MRI",), labels=3, **dataset):
    return RunConfig.model_validate(
        {
            "name": "x",
            "dataset": {
                "root": "x",
                "channels": channels,
                "labels": {"background": 0} | {f"l{n}": n for n in range(1, labels)},
                **dataset,
            },
            "network": network,
            "training": {"patch_size": patch, "batch_size": batch, "optimizer": {"name": "adamw"}, "ema": 0.99},
        }
    )


def volumes(width=32, depth=1, strides=((2, 2, 2),) * 3, **more):
    stages = len(strides)
    return {
        "name": "dlka_net_3d",
        "channels": [width * 2**n for n in range(stages)],
        "depths": [depth] * stages,
        "strides": strides,
        "position_embedding": False,
        "supervised_scales": 2,
        "dropout": 0.0,
        **more,
    }
