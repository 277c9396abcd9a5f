"""Small images and datasets made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.data.cases import Case

LABELS = {"background": 0, "body": 1, "core": 5}


def _save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" not in path.name:
        Image.fromarray(array).save(path)
        return path
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def save() -> Callable[..., Path]:
    """`save(path, array, affine=identity)` writes a NIfTI file, or PNG, TIFF or JPEG as the path ends."""
    return _save


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """`make_case(id, image, label=None, affine=None)` writes a case; an image (C, *S) becomes C files."""

    def make(name: str, image: np.ndarray, label: np.ndarray | None = None, affine: np.ndarray | None = None) -> Case:
        channels = image if image.ndim == 4 else image[None]
        images = [
            _save(tmp_path / f"{name}_{index:04d}.nii.gz", channel, affine) for index, channel in enumerate(channels)
        ]
        file = None if label is None else _save(tmp_path / "labels" / f"{name}.nii.gz", label, affine)
        return Case(name, tuple(images), file)

    return make


@pytest.fixture
def random_cases(make_case: Callable[..., Case]) -> Callable[..., tuple[Case, ...]]:
    """`random_cases(count, shape)`: noise with a labelled block, declared values 0, 1 and 5."""

    def make(count: int, shape: tuple[int, ...] = (9, 10, 11)) -> tuple[Case, ...]:
        cases = []
        for index in range(count):
            random = np.random.default_rng(index)
            label = np.zeros(shape, dtype=np.uint8)
            label[2:6, 3:7, 2:8] = 1
            label[3, 4, 4] = 5
            cases.append(make_case(f"case_{index}", random.normal(100, 20, shape).astype(np.float32), label))
        return tuple(cases)

    return make


@pytest.fixture
def decathlon(tmp_path: Path) -> Callable[..., Path]:
    """`decathlon(ids, **facts)` makes a dataset of tiny cases; facts go into dataset.json."""

    def make(ids: list[str], **facts: object) -> Path:
        root = tmp_path / "Task"
        volume = np.ones((2, 2, 2), dtype=np.uint8)
        for folder in ("imagesTr", "labelsTr"):
            for name in ids:
                _save(root / folder / f"{name}.nii.gz", volume)
        training = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids]
        defaults = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": training}
        (root / "dataset.json").write_text(json.dumps(defaults | facts))
        return root

    return make


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Path]:
    """`nnunet(ids, channels=2, ending=".nii.gz", **facts)` makes a dataset in the layout of nnU-Net v2."""

    def make(ids: list[str], channels: int = 2, ending: str = ".nii.gz", **facts: object) -> Path:
        root = tmp_path / "Dataset001_Test"
        array = np.ones((2, 2, 2) if ending == ".nii.gz" else (3, 4), dtype=np.uint8)
        for name in ids:
            for index in range(channels):
                _save(root / "imagesTr" / f"{name}_{index:04d}{ending}", array)
            _save(root / "labelsTr" / f"{name}{ending}", array)
        defaults = {
            "channel_names": {str(index): f"T{index}" for index in range(channels)},
            "labels": LABELS,
            "file_ending": ending,
        }
        (root / "dataset.json").write_text(json.dumps(defaults | facts))
        return root

    return make
