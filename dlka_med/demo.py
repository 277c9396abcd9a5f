"""From nothing to a segmented brain: a small real dataset, then the calls that any user makes."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from dlka_med.config import RunConfig
from dlka_med.config.loading import load_config, save_config
from dlka_med.data.formats import case_id, is_volume
from dlka_med.data.raster import read_raster, write_grey
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing, whole_folder
from dlka_med.paths import could_hold_files

Dims = Literal[2, 3]

# The template is its own mirror image, so one hemisphere (x < 98) holds all that can be learned or tested.
# 8 mm lie between the last training region (y < 148) and the held-out ones (y >= 156).
BLOCK = 40  # mm
X_STARTS = (18, 58)
Y_STARTS = {"Tr": (28, 68, 108), "Ts": (156,)}
Z_STARTS = (0, 40, 80, 120)
SLICES = {"Tr": range(20, 144, 4), "Ts": range(48, 128, 8)}
SLICE_LENGTH = {"Tr": 120, "Ts": 56}  # along y
SLAB = 20  # mm: neighbouring slices look alike
MIN_BRAIN_SHARE = 0.13
LABELS = {"background": 0, "grey_matter": 1, "white_matter": 2}
CHANNEL = "T1"


@dataclass(frozen=True)
class Demo:
    """What `run_demo` made: its folder, the run, the mean Dice on the unseen region, pictures to look at."""

    folder: Path
    run: Path
    dice: float
    pictures: tuple[Path, ...]

    def describe(self) -> str:
        """The result in words, and what to try next."""
        dataset, mirrored, longer = (self.folder / name for name in ("dataset", "mirrored", "longer"))
        commands = (
            ("train", self.folder / "demo.yaml", "-s", "training.minutes=10", "--out", longer),
            ("predict", self.run, dataset / "imagesTs", "--out", mirrored, "--mirror"),
            ("evaluate", mirrored, dataset / "labelsTs", "--out", f"{mirrored}-evaluation"),
        )
        return "\n".join(
            [
                "",
                f"Mean Dice on the unseen frontal lobe: {self.dice:.3f}",
                "Pictures (image, reference, prediction):",
                *(f"  {picture}" for picture in self.pictures),
                "Try next:",
                *(f"  dlka {shlex.join(map(str, words))}" for words in commands),
                "",
            ]
        )


@dataclass(frozen=True)
class _Region:
    """A box of the template: first voxel, size in voxels, and the group that it belongs to."""

    start: tuple[int, int, int]
    size: tuple[int, int, int]
    group: str

    @property
    def case(self) -> str:
        return "brain_x{:03d}_y{:03d}_z{:03d}".format(*self.start)

    def cut(self, volume: np.ndarray) -> np.ndarray:
        return volume[tuple(slice(start, start + size) for start, size in zip(self.start, self.size, strict=True))]


def run_demo(out: str | Path, minutes: float = 2.0, seed: int = 0, dims: Dims = 3) -> Demo:
    """Make the dataset of `make_brain_dataset`, train on it, predict and evaluate its unseen region.

    Args:
        out: new folder, for `dataset`, `demo.yaml`, `run`, `predictions`, `evaluation` and `pictures`.
        minutes: wall-clock of the training.
        seed: of the dataset and of the training.
        dims: 3: blocks (NIfTI) and `dlka_net_3d`; 2: axial slices (PNG) and `dlka_unet`.

    Raises:
        InputError: nilearn is missing, or `out` is not empty.
    """
    out = Path(out)
    refuse_existing(could_hold_files(out))
    from dlka_med.evaluation.evaluate import evaluate
    from dlka_med.inference.predict import predict_images
    from dlka_med.training.train import train

    dataset = out / "dataset"
    make_brain_dataset(dataset, seed, dims)
    save_config(_config(dataset, minutes, seed, dims), out / "demo.yaml")

    run = train(load_config(out / "demo.yaml"), out / "run")
    predict_images(run.path, dataset / "imagesTs", out / "predictions")
    result = evaluate(out / "predictions", dataset / "labelsTs", out / "evaluation")
    pictures = _pictures(dataset, out / "predictions", out / "pictures")
    return Demo(out, run.path, result.mean["dice"].mean, (*pictures, run.curve_file))


def make_brain_dataset(folder: str | Path, seed: int = 0, dims: Dims = 3) -> None:
    """Cut the MNI152 brain template of nilearn into a labelled dataset in the layout of the MSD.

    The template (T1, 1 mm, skull-stripped) and its maps of grey and white matter come with nilearn, so
    nothing is downloaded. A voxel gets the tissue with the largest share; the rest is background. Regions do not
    overlap, and each gets its own brightness, bias and noise. In 3D they are blocks of 40 mm, which keep their
    place in the world; in 2D axial slices, 4 mm apart or more, as grey PNG with the front at the top.
    `imagesTs` and `labelsTs` are the front of the frontal lobe (world y of 22 mm and more) and lie 8 mm in
    front of all of `imagesTr` and `labelsTr`. `groups.csv` keeps blocks above each other, or the slices of 20 mm,
    on one side of a split.

    Raises:
        InputError: nilearn is missing, or `folder` is not empty.
    """
    image, label, affine = _template()
    generator = np.random.default_rng(seed)
    ending, pieces = (".nii.gz", "blocks") if dims == 3 else (".png", "slices")
    regions = {
        subset: [r for r in _regions(subset, dims) if (r.cut(image) > 0).mean() >= MIN_BRAIN_SHARE]
        for subset in ("Tr", "Ts")
    }
    with whole_folder(folder) as temporary:
        for subset, chosen in regions.items():
            for region in chosen:
                varied = _varied(region.cut(image), generator)
                for kind, voxels in (("images", varied), ("labels", region.cut(label))):
                    path = temporary / f"{kind}{subset}" / f"{region.case}{ending}"
                    path.parent.mkdir(exist_ok=True)
                    if dims == 3:
                        _write_block(path, voxels, region.start, affine)
                    else:
                        _write_slice(path, voxels)
        description = {
            "name": "MNI152Tissues",
            "description": f"Grey and white matter of the symmetric ICBM 2009a brain template, in {pieces}",
            "reference": "Fonov et al., NeuroImage 54 (2011), by way of nilearn",
            "tensorImageSize": f"{dims}D",
            "modality": {"0": CHANNEL},
            "labels": {str(value): name for name, value in LABELS.items()},
            "numTraining": len(regions["Tr"]),
            "numTest": len(regions["Ts"]),
            "training": [
                {kind: f"./{kind}sTr/{region.case}{ending}" for kind in ("image", "label")} for region in regions["Tr"]
            ],
            "test": [f"./imagesTs/{region.case}{ending}" for region in regions["Ts"]],
        }
        groups = ["case,group", *(f"{region.case},{region.group}" for region in regions["Tr"])]
        (temporary / "dataset.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
        (temporary / "groups.csv").write_text("\n".join(groups) + "\n", encoding="utf-8")


def _template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (0 to 1, 0 outside the brain), label values and affine of the whole template."""
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError:
        raise InputError('the demo takes its brain from nilearn: pip install "dlka_med[demo]"') from None
    template = load_mni152_template(resolution=1)
    grey = load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    label = np.argmax([1 - grey - white, grey, white], axis=0).astype(np.uint8)
    return template.get_fdata(dtype=np.float32), label, template.affine


def _regions(subset: str, dims: Dims) -> list[_Region]:
    if dims == 3:
        return [
            _Region((x, y, z), (BLOCK, BLOCK, BLOCK), f"x{x}_y{y}")
            for x in X_STARTS
            for y in Y_STARTS[subset]
            for z in Z_STARTS
        ]
    size = (BLOCK * len(X_STARTS), SLICE_LENGTH[subset], 1)
    return [_Region((X_STARTS[0], Y_STARTS[subset][0], z), size, f"z{z // SLAB * SLAB}") for z in SLICES[subset]]


def _write_block(path: Path, voxels: np.ndarray, start: tuple[int, int, int], affine: np.ndarray) -> None:
    if voxels.dtype != np.uint8:
        voxels = np.rint(1000 * voxels).astype(np.int16)
    placed = affine.copy()
    placed[:3, 3] = nib.affines.apply_affine(affine, start)
    nifti = nib.Nifti1Image(voxels, placed)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, path)


def _write_slice(path: Path, voxels: np.ndarray) -> None:
    if voxels.dtype != np.uint8:
        voxels = np.rint(150 * voxels).clip(0, 255).astype(np.uint8)
    write_grey(path, voxels[:, ::-1, 0].T)


def _varied(block: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The block as another scanner might show it: brightness, smooth bias field, noise inside the brain."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in block.shape], indexing="ij", sparse=True)
    slopes, bends = generator.normal(0, 0.05, (2, 3))
    bias = np.exp(sum(s * a + b * a**2 for s, b, a in zip(slopes, bends, axes, strict=True)))
    noise = generator.normal(0, 0.03, block.shape)
    varied = generator.uniform(0.6, 1.6) * (block * bias + noise)
    return np.where(block > 0, varied.clip(min=0.001), 0)


def _config(dataset: Path, minutes: float, seed: int, dims: Dims) -> RunConfig:
    network, training = _recipe(dims)
    return RunConfig.model_validate(
        {
            "name": "demo",
            "seed": seed,
            "dataset": {"root": str(dataset.absolute()), "folds": 5},
            # Held-out slices show much empty space, and training has to see as much; blocks are padded with it.
            "preprocessing": {"crop_foreground": dims == 3},
            "network": network,
            "training": {
                "epochs": None,
                "minutes": minutes,
                "steps_per_epoch": 20,
                "validate_every": 2,
                "augmentation": {"blur_probability": 0.0, "low_resolution_probability": 0.0},
                "ema": 0.98,
                "workers": 0,
                **training,
            },
        }
    )


def _recipe(dims: Dims) -> tuple[dict[str, Any], dict[str, Any]]:
    """Network and training of a run that has two minutes."""
    optimizer = {"name": "adamw", "weight_decay": 1e-2, "schedule": "cosine", "warmup": 0.05}
    if dims == 3:
        network = {
            "name": "dlka_net_3d",
            "channels": (16, 32, 64),
            "depths": (1, 1, 1),
            "strides": ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
            "full_resolution_channels": 16,
            "norm": "instance",
            "layer_scale": 0.1,
            "supervised_scales": 2,
            "position_embedding": False,
            "dropout": 0.0,
        }
        optimizer["learning_rate"] = 4e-3
        return network, {"batch_size": 1, "patch_size": (BLOCK, BLOCK, BLOCK), "optimizer": optimizer}
    network = {
        "name": "dlka_unet",
        "spatial_dims": 2,
        "channels": (16, 32, 64, 128),
        "depths": (1, 1, 1, 1),
        "strides": (2, 2, 2, 2),
        "deformation": ("absent", "absent", "absent", "dense"),
    }
    optimizer["learning_rate"] = 4e-3
    # No larger than the held-out slices: windows that reach beyond an image are unlike all that was trained on.
    patch = (SLICE_LENGTH["Ts"], 64)
    return network, {"batch_size": 4, "patch_size": patch, "optimizer": optimizer}


def _pictures(dataset: Path, predictions: Path, out: Path) -> tuple[Path, ...]:
    """One PNG of all held-out regions, and one of each."""
    from dlka_med.evaluation.figures import Panel, contact_sheet, overlay

    panels = []
    for image in sorted((dataset / "imagesTs").iterdir()):
        files = (image, dataset / "labelsTs" / image.name, predictions / image.name)
        panels.append(Panel(case_id(image), *(_array(file) for file in files)))
    paths = [out / "held_out.png", *(out / f"{panel.title}.png" for panel in panels)]
    contact_sheet(panels, LABELS, paths[0])
    for panel, path in zip(panels, paths[1:], strict=True):
        overlay(panel.image, panel.reference, panel.prediction, LABELS, path, title=panel.title)
    return tuple(paths)


def _array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj) if is_volume(path) else read_raster(path, [CHANNEL])[0]
