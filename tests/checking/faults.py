"""One fault of each kind, to be planted in a sound dataset."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from tests.checking.datasets import (
    FLAT,
    SHAPE,
    Planted,
    colours,
    ct,
    move,
    patch,
    patients,
    pictures,
    replant,
    save,
    volumes,
    voxels,
    with_test,
    years,
)

PIXDIM, UNITS, SROW_Y = 80, 123, 296  # places in a NIfTI header


@dataclass(frozen=True)
class Fault:
    """What is planted, and the code that tells of it.

    Args:
        also: codes that tell of the same.
        stays: whether a mended copy still has it, as only the user can decide.
    """

    code: str
    plant: Callable[[Planted], object]
    build: Callable[[Path], Planted] = volumes
    also: tuple[str, ...] = ()
    stays: bool = False


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _shear() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    return affine


def _turned() -> np.ndarray:
    affine, angle = np.eye(4), np.radians(10)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine


def _everywhere(change: Callable[[Planted, int], object]) -> Callable[[Planted], object]:
    return lambda planted: [change(planted, index) for index in range(6)]


def _singular(planted: Planted) -> None:
    for path in planted.pair(0):
        patch(path, SROW_Y, struct.pack("<4f", 1, 0, 0, 0))


def _forms(planted: Planted) -> None:
    image = nib.load(planted.image(0))
    voxels, shifted = np.asarray(image.dataobj), np.eye(4)
    shifted[0, 3] = 5
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_xyzt_units("mm")
    image.set_sform(np.eye(4), 1)
    image.set_qform(shifted, 1)
    nib.save(image, planted.image(0))


def _metres(planted: Planted, index: int) -> None:
    move(planted, index, np.diag([0.001, 0.001, 0.001, 1]))
    for path in planted.pair(index):
        patch(path, UNITS, bytes([1]))


def _no_unit(planted: Planted, index: int) -> None:
    for path in planted.pair(index):
        patch(path, UNITS, bytes([0]))


def _mixed_units(planted: Planted) -> None:
    _metres(planted, 0)
    _no_unit(planted, 1)


def _coarse_label(planted: Planted) -> None:
    affine = np.diag([2.0, 1, 1, 1])
    affine[0, 3] = 0.5
    save(planted.label(0), voxels(planted.label(0))[::2], affine)


def _shifted_label(by: float) -> Callable[[Planted], None]:
    def plant(planted: Planted) -> None:
        affine = np.eye(4)
        affine[1, 3] = by
        save(planted.label(0), voxels(planted.label(0)), affine)

    return plant


def _set(place: tuple[int, ...], value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[place] = value

    return change


def _rgb(planted: Planted) -> None:
    array = voxels(planted.image(0)).astype(np.uint8)
    triples = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for index, name in enumerate("RGB"):
        triples[name] = array[..., index]
    save(planted.image(0), triples)


def _one_in_colour(planted: Planted) -> None:
    planted.describe(channel_names={"0": "grey"})
    for index in range(1, 6):
        replant(planted.image(index), lambda image: image[..., 0])


def _exif(planted: Planted) -> None:
    image = Image.open(planted.image(0))
    image.load()
    exif = image.getexif()
    exif[0x0112] = 3
    image.save(planted.image(0), exif=exif)


def _soft_edges(label: np.ndarray) -> np.ndarray:
    soft = label * 255
    soft[4, 5:15] = [40, 60, 80, 100, 110, 140, 150, 160, 200, 220]
    return soft


def _colour(label: np.ndarray) -> np.ndarray:
    return np.stack([label * 200, label * 30, label * 0], axis=-1).astype(np.uint8)


def _jpeg(planted: Planted) -> None:
    Image.fromarray(voxels(planted.label(0)) * 255).save(planted.label(0).with_suffix(".jpg"), quality=60)
    planted.label(0).unlink()


def _stray(planted: Planted) -> None:
    save(planted.root / "labelsTr" / "nobody.png", np.zeros(FLAT, np.uint8))


def _twice(planted: Planted) -> None:
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    planted.describe(training=[*training, training[0]])


def _mixed_kinds(planted: Planted) -> None:
    picture = Planted(planted.root, ("photo",), ".png", "")
    for path in picture.pair(0):
        save(path, np.arange(480, dtype=np.uint16).reshape(FLAT).astype(np.uint8))
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    entry = {"image": "./imagesTr/photo.png", "label": "./labelsTr/photo.png"}
    planted.describe(training=[*training, entry], numTraining=7)


def _copy(planted: Planted) -> None:
    shutil.copy(planted.image(0), planted.image(1))


def _copy_with_other_label(planted: Planted) -> None:
    _copy(planted)
    replant(planted.label(1), _set((3, 3, 3), 1))


def _share_label(planted: Planted) -> None:
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    planted.describe(training=[training[0], training[1] | {"label": training[0]["label"]}, *training[2:]])


def _copy_to_test(planted: Planted) -> None:
    shutil.copy(planted.image(0), planted.root / "imagesTs" / "test_6.nii.gz")


def _copy_across_groups(planted: Planted) -> None:
    _copy(planted)
    planted.group({name: f"patient {index}" for index, name in enumerate(planted.names)})


def _group_in_test(planted: Planted) -> None:
    planted.group({name: "" for name in planted.names[1:]} | {planted.names[0]: "A", "test_6": "A"})


def _fewer_tumours(planted: Planted) -> None:
    for index in range(3):
        replant(planted.label(index), lambda label: label.clip(max=1))


def _thin(planted: Planted) -> None:
    move(planted, 0, np.diag([0.5, 0.5, 0.5, 1]))
    replant(planted.label(0), lambda label: np.where(label == 2, 1, label).astype(np.uint8))
    replant(planted.label(0), _set((3, 3, 3), 2))


FAULTS = (
    Fault("file-missing", lambda p: p.image(0).unlink()),
    Fault("file-missing", lambda p: p.label(0).unlink()),
    Fault("file-missing", lambda p: p.label(0).unlink(), pictures),
    Fault("file-empty", lambda p: p.image(0).write_bytes(b"")),
    Fault("file-unreadable", lambda p: _truncate(p.image(0))),
    Fault("file-unreadable", lambda p: _truncate(p.label(0))),
    Fault("file-unreadable", lambda p: p.image(0).write_bytes(b"no picture"), pictures),
    Fault("file-stray", _stray, pictures),
    Fault("file-unlisted", lambda p: save(p.root / "imagesTr" / "more.nii.gz", np.zeros(SHAPE, np.uint8))),
    Fault("file-shared", _share_label),
    Fault("case-twice", _twice),
    Fault("kinds-mixed", _mixed_kinds),
    Fault("groups-wrong", lambda p: p.group({"nobody": "A"})),
    Fault("axes-wrong", lambda p: replant(p.image(0), lambda a: np.stack([np.stack([a, a], -1)] * 2, -1))),
    Fault("axes-five", lambda p: replant(p.image(0), lambda a: a[:, :, :, None]), colours),
    Fault("channels-wrong", lambda p: replant(p.image(0), lambda a: np.stack([a, a], -1))),
    Fault("channels-wrong", lambda p: replant(p.label(0), lambda a: np.stack([a, a], -1))),
    Fault("channels-wrong", _one_in_colour, pictures, also=("modes-mixed",)),
    Fault("voxels-rgb", _rgb, colours),
    Fault("modes-mixed", lambda p: replant(p.image(0), lambda a: a[..., 0]), pictures),
    Fault("exif-turned", _exif, pictures),
    Fault("grid-size", _coarse_label),
    Fault("grid-size", lambda p: replant(p.label(0), lambda a: a[:-1]), pictures),
    Fault("grid-affine", _shifted_label(1.0)),
    Fault("grid-affine", _shifted_label(500.0)),
    Fault("grid-noise", _shifted_label(0.01)),
    Fault("affine-singular", _singular),
    Fault("affine-sheared", lambda p: move(p, 0, _shear())),
    Fault("affine-oblique", lambda p: move(p, 0, _turned())),
    Fault("affine-left-handed", _everywhere(lambda p, index: move(p, index, np.diag([-1.0, 1, 1, 1])))),
    Fault("orientation-mixed", lambda p: move(p, 0, np.diag([-1.0, -1, 1, 1]))),
    Fault("pixdim-differs", lambda p: patch(p.image(0), PIXDIM, struct.pack("<f", 2))),
    Fault("forms-differ", _forms),
    Fault("unit-missing", lambda p: _no_unit(p, 0)),
    Fault("unit-other", lambda p: _metres(p, 0)),
    Fault("unit-mixed", _mixed_units, also=("unit-other",)),
    Fault("spacing-implausible", lambda p: move(p, 0, np.diag([1000.0, 1000, 1000, 1]))),
    Fault("spacing-odd", lambda p: move(p, 0, np.diag([1.0, 1, 5, 1]))),
    Fault("size-odd", lambda p: [replant(path, lambda a: np.tile(a, (1, 1, 6))) for path in p.pair(0)]),
    Fault("voxels-nan", lambda p: replant(p.image(0), _set((0, 1, 2), np.nan))),
    Fault("voxels-infinite", lambda p: replant(p.image(0), _set((0, 1, 2), np.inf))),
    Fault("image-constant", lambda p: replant(p.image(0), np.ones_like)),
    Fault("outliers-extreme", lambda p: replant(p.image(0), _set((4, 4, 4), 1e6))),
    Fault("ct-offset-lost", lambda p: replant(p.image(0), lambda a: a + 1024), ct),
    Fault("ct-without-negatives", _everywhere(lambda p, index: replant(p.image(index), lambda a: a + 1024)), ct),
    Fault("mask-255", lambda p: replant(p.label(0), lambda a: a * 255), pictures),
    Fault("mask-255", lambda p: replant(p.label(0), lambda a: (a > 0) * np.uint8(255))),
    Fault("mask-antialiased", lambda p: replant(p.label(0), _soft_edges), pictures),
    Fault("mask-colours", lambda p: replant(p.label(0), _colour), pictures),
    Fault("mask-jpeg", _jpeg, pictures),
    Fault("label-undeclared", lambda p: replant(p.label(0), _set((3, 3, 3), 7))),
    Fault("label-undeclared", lambda p: replant(p.label(0), _set((3, 3, 3), -1), np.int16)),
    Fault("label-not-whole", lambda p: replant(p.label(0), _set((3, 3, 3), 1.5), np.float32)),
    Fault("label-not-whole", lambda p: replant(p.label(0), _set((3, 3, 3), 1.01), np.float32)),
    Fault("label-not-finite", lambda p: replant(p.label(0), _set((3, 3, 3), np.nan), np.float32)),
    Fault("label-absent", lambda p: p.describe(labels={"0": "background", "1": "organ", "2": "tumour", "5": "cyst"})),
    Fault("label-rare", _fewer_tumours),
    Fault("label-empty", lambda p: replant(p.label(0), np.zeros_like)),
    Fault("label-vanishes", _thin),
    Fault("duplicate-cases", _copy),
    Fault("duplicate-labels-differ", _copy_with_other_label),
    Fault("duplicate-in-test", _copy_to_test, with_test),
    Fault("duplicate-across-groups", _copy_across_groups),
    Fault("group-in-test", _group_in_test, with_test),
    Fault("ids-one-patient", lambda p: None, patients),
    Fault("ids-one-patient", lambda p: None, years, stays=True),
    Fault("count-wrong", lambda p: p.describe(numTraining=99)),
)
UNMENDABLE = {
    "file-missing",
    "file-empty",
    "file-unreadable",
    "file-stray",
    "file-shared",
    "case-twice",
    "kinds-mixed",
    "groups-wrong",
    "axes-wrong",
    "channels-wrong",
    "affine-singular",
    "affine-sheared",
    "unit-mixed",
    "spacing-implausible",
    "image-constant",
    "ct-offset-lost",
    "label-undeclared",
    "label-not-finite",
    "duplicate-labels-differ",
}
"""Errors and warnings that `--fix` can only leave out."""
