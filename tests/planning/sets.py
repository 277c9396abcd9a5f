"""Small datasets of the kinds that plans have to start on, written in the layout of nnU-Net v2."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

KINDS = ("thick slices", "tiny volumes", "four channels", "many labels", "regions", "photographs", "microscopy")


def write_set(root: Path, kind: str) -> Path:
    """A dataset of one of `KINDS`, with a bright box or many bright spots as what is to be found."""
    random = np.random.default_rng(0)
    if kind == "thick slices":
        return _volumes(root, random, (48, 40, 9), (0.5, 0.5, 7.5), ["MRI"])
    if kind == "tiny volumes":
        return _volumes(root, random, (7, 6, 5), (2.0, 2.0, 2.0), ["MRI"])
    if kind == "four channels":
        return _volumes(root, random, (20, 24, 18), (1.0, 1.0, 1.0), ["T1", "T1c", "T2", "FLAIR"])
    if kind == "regions":
        labels = {"background": 0, "all": [1, 2, 3], "core": [2, 3], "ignore": 9}
        root = _volumes(root, random, (20, 24, 18), (1.0, 1.0, 1.0), ["MRI"], held=3)
        for path in (root / "labelsTr").iterdir():
            label = np.asarray(nib.load(path).dataobj).copy()
            label[:, :, ::3] = 9
            _nifti(path, label, nib.load(path).affine)
        return _described(root, ["MRI"], labels, ".nii.gz", regions_class_order=[1, 2])
    if kind == "many labels":
        return _volumes(root, random, (122, 101, 30), (1.5, 1.5, 3.0), ["CT"], cases=1, held=42, declared=117)
    if kind == "photographs":
        return _images(root, random, (1000, 1000), np.uint8, ["R", "G", "B"], spots=1, radius=200)
    return _images(root, random, (120, 150), np.uint16, ["DAPI"], spots=9, radius=8)


def _volumes(
    root: Path,
    random: np.random.Generator,
    size: Sequence[int],
    spacing: Sequence[float],
    channels: Sequence[str],
    cases: int = 4,
    held: int = 1,
    declared: int = 1,
) -> Path:
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    for case in range(cases):
        label = np.zeros(size, np.uint8)
        inside = label[tuple(slice(n // 4, n - n // 4) for n in size)]
        inside[:] = 1 + np.arange(len(inside))[:, None, None] * held // len(inside)
        for index in range(len(channels)):
            image = (100 * (label > 0) + random.normal(0, 10, size)).astype(np.float32)
            _nifti(root / "imagesTr" / f"case_{case}_{index:04d}.nii.gz", image, affine)
        _nifti(root / "labelsTr" / f"case_{case}.nii.gz", label, affine)
    labels = {"background": 0} | {f"organ_{value}": value for value in range(1, declared + 1)}
    return _described(root, channels, labels, ".nii.gz")


def _images(
    root: Path,
    random: np.random.Generator,
    size: tuple[int, int],
    dtype: type,
    channels: Sequence[str],
    spots: int,
    radius: int,
) -> Path:
    rows, columns = np.ogrid[: size[0], : size[1]]
    side = int(np.ceil(np.sqrt(spots)))
    for case in range(4):
        label = np.zeros(size, np.uint8)
        for spot in range(spots):
            row, column = ((place + 0.5) * n / side for place, n in zip(divmod(spot, side), size, strict=True))
            label[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
        top = np.iinfo(dtype).max // 2
        shape = (*size, len(channels)) if len(channels) > 1 else size
        bright = label[..., None] if len(channels) > 1 else label
        image = (top * (0.4 + 0.5 * bright) + random.integers(0, top // 10, shape)).astype(dtype)
        for folder, name, array in (("imagesTr", f"case_{case}_0000", image), ("labelsTr", f"case_{case}", label)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return _described(root, channels, {"background": 0, "spot": 1}, ".png")


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def _described(root: Path, channels: Sequence[str], labels: Mapping[str, object], suffix: str, **more: object) -> Path:
    names = {str(index): name for index, name in enumerate(channels)}
    facts = {"channel_names": names, "labels": labels, "file_ending": suffix, **more}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root
