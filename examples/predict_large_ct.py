"""Peak of memory and time of predicting a large CT with many classes: a synthetic scan, a small 3D network, one call.

    python examples/predict_large_ct.py --shape 512 512 600 --spacing 0.8 0.8 1 --classes 20

The network has random weights: what it says is of no use, what it takes is that of a trained one. All of it happens in
this process, and no more than the voxels of the scan, as whole numbers, are held while it is made.
"""

import argparse
import json
import logging
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dlka_med.config.schema import RunConfig
from dlka_med.inference.predict import predict_images
from dlka_med.networks import DLKANet3d
from dlka_med.run_folder import RunFolder, build_run_network


def write_ct(path: Path, shape: Sequence[int], spacing: Sequence[float]) -> None:
    """A body of fat with organs in it, in Hounsfield units with noise, slice by slice."""
    random = np.random.default_rng(0)
    places = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    across = places[0][:, None] ** 2 + places[1][None] ** 2
    waves = np.sin(9 * places[0])[:, None] * np.sin(7 * places[1])[None]
    scan = np.empty(shape, np.int16, order="F")
    for index, height in enumerate(places[2]):
        tissue = np.where(waves * np.cos(8 * height) > 0.3, 60, -90)
        scan[:, :, index] = np.where(across < 0.8, tissue, -1000) + random.integers(-20, 20, shape[:2])
    nib.save(nib.Nifti1Image(scan, np.diag([*spacing, 1.0])), path)


def make_run(folder: Path, classes: int, patch: Sequence[int], overlap: float) -> RunFolder:
    """A run that keeps the spacing of its images, with weights as they were drawn."""
    labels = {"background": 0} | {f"organ {number}": number for number in range(1, classes)}
    config = RunConfig.model_validate(
        {
            "name": "large",
            "dataset": {"root": "data", "channels": ["CT"], "labels": labels},
            "preprocessing": {
                "spacing": None,
                "intensity": [{"kind": "ct", "lower": -1000, "upper": 1000, "mean": 0, "std": 300}],
            },
            "network": {
                "name": "dlka_net_3d",
                "channels": [4, 8],
                "depths": [1, 1],
                "strides": [4, 2],
                "full_resolution": "none",
                "deformation": "none",
                "position_embedding": False,
                "supervised_scales": 1,
            },
            "training": {"patch_size": patch},
            "inference": {"overlap": overlap},
        }
    )
    run = RunFolder.create(folder, config, {"train": [], "validation": [], "test": []})
    run.save_weights(build_run_network(config).state_dict())
    return run


@contextmanager
def clocked(kind: type[nn.Module]) -> Iterator[list[float]]:
    """Seconds of each forward pass of modules of this kind."""
    seconds: list[float] = []

    def begin(module: nn.Module, _inputs: object) -> None:
        if isinstance(module, kind):
            seconds.append(-time.perf_counter())

    def end(module: nn.Module, _inputs: object, _output: object) -> None:
        if isinstance(module, kind):
            seconds[-1] += time.perf_counter()

    hooks = register_module_forward_pre_hook(begin), register_module_forward_hook(end)
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--shape", type=int, nargs=3, default=(512, 512, 600))
    add("--spacing", type=float, nargs=3, default=(0.8, 0.8, 1.0), help="mm")
    add("--classes", type=int, default=20)
    add("--patch", type=int, nargs=3, default=(128, 128, 128))
    add("--overlap", type=float, default=0.25)
    add("--options", type=json.loads, default={}, help="further arguments of predict_images, as JSON")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", given.classes, given.patch, given.overlap)
        scan = Path(folder) / "ct.nii.gz"
        write_ct(scan, given.shape, given.spacing)
        started = time.perf_counter()
        with clocked(DLKANet3d) as forward:
            predict_images(run.path, scan, Path(folder) / "out", **given.options)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak {peak:.2f} GiB, {seconds:.0f} s, of which {sum(forward):.0f} s in {len(forward)} forward passes")


if __name__ == "__main__":
    main()
