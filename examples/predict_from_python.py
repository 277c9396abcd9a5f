"""A trained run predicts images that are in memory: an array, a nibabel image, a MONAI MetaTensor.

    python examples/predict_from_python.py RUN SCAN.nii.gz

RUN is a run folder made by `dlka train`, or the folder of a cross-validation, whose folds then predict together. The
predictor is made once: a service that lives long calls it case after case. Label maps are those of `dlka predict`, with
what `dlka postprocess` has learned of the run; `Predictor.of_run(RUN, postprocess=False)` leaves that out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from dlka_med.inference.predictor import Predictor


def label_maps(predictor: Predictor, scan: nib.Nifti1Image) -> tuple[np.ndarray, nib.Nifti1Image, MetaTensor]:
    """The label map of one scan three times: whatever comes in comes out, with the label values of the dataset."""
    voxels = np.asarray(scan.dataobj, dtype=np.float32)  # (x, y, z), or (x, y, z, C): channels last
    as_array = predictor(voxels, scan.affine)
    as_image = predictor(scan)

    channels = np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0)  # (C, x, y, z), as MONAI has them
    tensor = MetaTensor(torch.from_numpy(channels.copy()), affine=torch.from_numpy(scan.affine))
    return as_array, as_image, predictor(tensor)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("scan", type=Path, metavar="SCAN")
    given = parser.parse_args(arguments)
    predictor = Predictor.of_run(given.run)
    as_array, as_image, as_tensor = label_maps(predictor, nib.load(given.scan))
    for found in (as_array, as_image, as_tensor):
        print(f"{type(found).__name__} {tuple(found.shape)}")
    for value, voxels in zip(*np.unique(as_array, return_counts=True), strict=True):
        print(f"label {value}: {voxels} voxels")


if __name__ == "__main__":
    main()
