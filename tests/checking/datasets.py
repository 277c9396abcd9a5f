"""Small sound datasets, and how to change their files."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (8, 9, 10)
FLAT = (20, 24)
LABELS = {"background": 0, "organ": 1, "tumour": 2}


@dataclass(frozen=True)
class Planted:
    """A dataset on disk, by the names of its cases."""

    root: Path
    names: tuple[str, ...]
    ending: str
    mark: str

    def image(self, index: int) -> Path:
        return self.root / "imagesTr" / f"{self.names[index]}{self.mark}{self.ending}"

    def label(self, index: int) -> Path:
        return self.root / "labelsTr" / f"{self.names[index]}{self.ending}"

    def pair(self, index: int) -> tuple[Path, Path]:
        return self.image(index), self.label(index)

    def describe(self, **facts: object) -> None:
        file = self.root / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))

    def group(self, groups: dict[str, str]) -> None:
        (self.root / "groups.csv").write_text("case,group\n" + "".join(f"{k},{v}\n" for k, v in groups.items()))


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".gz":
        Image.fromarray(voxels).save(path)
        return
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) if path.suffix == ".png" else np.asarray(nib.load(path).dataobj)


def replant(path: Path, change: Callable[[np.ndarray], object], dtype: type | None = None) -> None:
    """Change the voxels of a file in place; its affine stays."""
    array = voxels(path).copy() if dtype is None else voxels(path).astype(dtype)
    changed = change(array)
    affine = nib.load(path).affine if path.suffix == ".gz" else None
    save(path, array if changed is None else changed, affine)


def move(planted: Planted, index: int, affine: np.ndarray) -> None:
    for path in planted.pair(index):
        save(path, voxels(path), affine)


def patch(path: Path, place: int, content: bytes) -> None:
    """Overwrite bytes of a compressed NIfTI header."""
    stored = bytearray(gzip.decompress(path.read_bytes()))
    stored[place : place + len(content)] = content
    path.write_bytes(gzip.compress(bytes(stored)))


def volumes(root: Path, *, channels: tuple[str, ...] = ("MRI",), names: str = "case_{}", test: int = 0) -> Planted:
    """A Decathlon dataset of 6 volumes with two labels each."""
    ids = tuple(names.format(index) for index in range(6)) if "{}" in names else tuple(names.split())
    planted = Planted(root, ids, ".nii.gz", "")
    shape = SHAPE if len(channels) == 1 else (*SHAPE, len(channels))
    for index in range(len(ids) + test):
        random = np.random.default_rng(index)
        image = random.integers(0, 200, shape).astype(np.float32) - (1000 if channels == ("CT",) else 0)
        if index >= len(ids):
            save(root / "imagesTs" / f"test_{index}.nii.gz", image)
            continue
        label = np.zeros(SHAPE, np.uint8)
        label[2:6, 2:6, 2:7] = 1
        label[3:5, 3:5, 3:5] = 2
        save(planted.image(index), image)
        save(planted.label(index), label)
    facts = {
        "modality": {str(index): name for index, name in enumerate(channels)},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": len(ids),
        "training": [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids],
        "test": [f"./imagesTs/test_{len(ids) + index}.nii.gz" for index in range(test)],
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return planted


def pictures(root: Path) -> Planted:
    """An nnU-Net dataset of 6 RGB images with one label."""
    planted = Planted(root, tuple(f"cell_{index}" for index in range(6)), ".png", "_0000")
    for index in range(6):
        random = np.random.default_rng(index)
        label = np.zeros(FLAT, np.uint8)
        label[4:14, 5:15] = 1
        save(planted.image(index), random.integers(0, 200, (*FLAT, 3), dtype=np.uint8))
        save(planted.label(index), label)
    facts = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cell": 1},
        "numTraining": 6,
        "file_ending": ".png",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return planted


def ct(root: Path) -> Planted:
    return volumes(root, channels=("CT",))


def colours(root: Path) -> Planted:
    return volumes(root, channels=("R", "G", "B"))


def with_test(root: Path) -> Planted:
    return volumes(root, test=1)


def years(root: Path) -> Planted:
    return volumes(root, names="2019_1 2019_2 2019_3 2020_1 2020_2 2020_3")


def patients(root: Path) -> Planted:
    return volumes(root, names="p1_a p1_b p2_a p3_a p4_a p5_a")
