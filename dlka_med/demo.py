"""From nothing to a segmented brain: a small real dataset, then the calls that any user makes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from dlka_med.config import RunConfig
from dlka_med.config.loading import load_config, save_config
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing, whole_folder

# The template is its own mirror image, so one hemisphere (x < 98) holds all that can be learned or tested.
# Blocks are 40 mm wide; 8 mm lie between the last training block (y < 148) and the held-out ones (y >= 156).
BLOCK = 40
X_STARTS = (18, 58)
Y_STARTS_TRAINING = (28, 68, 108)
Y_STARTS_TEST = (156,)
Z_STARTS = (0, 40, 80, 120)
MIN_BRAIN_SHARE = 0.13
LABELS = {"background": 0, "grey_matter": 1, "white_matter": 2}


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
        return "\n".join(
            [
                "",
                f"Mean Dice on the unseen frontal lobe: {self.dice:.3f}",
                "Pictures (image, reference, prediction):",
                *(f"  {picture}" for picture in self.pictures),
                "Try next:",
                f"  dlka train {self.folder / 'demo.yaml'} -s training.minutes=10 --out {longer}",
                f"  dlka predict {self.run} {dataset / 'imagesTs'} --out {mirrored} --mirror",
                f"  dlka evaluate {mirrored} {dataset / 'labelsTs'} --out {mirrored}-evaluation",
                "",
            ]
        )


def run_demo(out: str | Path, minutes: float = 2.0, seed: int = 0) -> Demo:
    """Make the dataset of `make_brain_dataset`, train on it, predict and evaluate its unseen region.

    Args:
        out: new folder, for `dataset`, `demo.yaml`, `run`, `predictions`, `evaluation` and `pictures`.
        minutes: wall-clock of the training.
        seed: of the dataset and of the training.

    Raises:
        InputError: nilearn is missing, or `out` is not empty.
    """
    out = Path(out)
    refuse_existing(out)
    from dlka_med.evaluation.evaluate import evaluate
    from dlka_med.inference.predict import predict_images
    from dlka_med.training.train import train

    dataset = out / "dataset"
    make_brain_dataset(dataset, seed)
    save_config(_config(dataset, minutes, seed), out / "demo.yaml")

    run = train(load_config(out / "demo.yaml"), out / "run")
    predict_images(run.path, dataset / "imagesTs", out / "predictions")
    result = evaluate(out / "predictions", dataset / "labelsTs", out / "evaluation")
    pictures = _pictures(dataset, out / "predictions", out / "pictures")
    return Demo(out, run.path, result.mean.dice, (*pictures, run.curve_file))


def make_brain_dataset(folder: str | Path, seed: int = 0) -> None:
    """Cut the MNI152 brain template of nilearn into a labelled dataset in the layout of the MSD.

    The template (T1, 1 mm, skull-stripped) and its maps of grey and white matter come with nilearn, so
    nothing is downloaded. A voxel gets the tissue with the largest share; the rest is background. Blocks of
    40 mm do not overlap, keep their place in the world, and each gets its own brightness, bias and noise.
    `imagesTs` and `labelsTs` are the front of the frontal lobe (world y of 22 mm and more) and lie 8 mm in
    front of all of `imagesTr` and `labelsTr`. `groups.csv` keeps blocks above each other on one side of a
    split.

    Raises:
        InputError: nilearn is missing, or `folder` is not empty.
    """
    image, label, affine = _template()
    generator = np.random.default_rng(seed)
    with whole_folder(folder) as temporary:
        training, groups = [], ["case,group"]
        for case, start in _blocks(image, Y_STARTS_TRAINING):
            _write_block(temporary, "Tr", case, start, image, label, affine, generator)
            training.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
            groups.append(f"{case},x{start[0]}_y{start[1]}")
        test = []
        for case, start in _blocks(image, Y_STARTS_TEST):
            _write_block(temporary, "Ts", case, start, image, label, affine, generator)
            test.append(f"./imagesTs/{case}.nii.gz")
        description = {
            "name": "MNI152Tissues",
            "description": "Grey and white matter of the symmetric ICBM 2009a brain template, in blocks",
            "reference": "Fonov et al., NeuroImage 54 (2011), by way of nilearn",
            "tensorImageSize": "3D",
            "modality": {"0": "T1"},
            "labels": {str(value): name for name, value in LABELS.items()},
            "numTraining": len(training),
            "numTest": len(test),
            "training": training,
            "test": test,
        }
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


def _blocks(image: np.ndarray, y_starts: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for x in X_STARTS:
        for y in y_starts:
            for z in Z_STARTS:
                if (_cut(image, (x, y, z)) > 0).mean() >= MIN_BRAIN_SHARE:
                    yield f"brain_x{x:03d}_y{y:03d}_z{z:03d}", (x, y, z)


def _cut(volume: np.ndarray, start: tuple[int, int, int]) -> np.ndarray:
    return volume[tuple(slice(s, s + BLOCK) for s in start)]


def _write_block(
    folder: Path,
    subset: str,
    case: str,
    start: tuple[int, int, int],
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray,
    generator: np.random.Generator,
) -> None:
    placed = affine.copy()
    placed[:3, 3] = nib.affines.apply_affine(affine, start)
    scan = np.rint(1000 * _varied(_cut(image, start), generator)).astype(np.int16)
    for kind, voxels in (("images", scan), ("labels", _cut(label, start))):
        target = folder / f"{kind}{subset}" / f"{case}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        nifti = nib.Nifti1Image(voxels, placed)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, target)


def _varied(block: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The block as another scanner might show it: brightness, smooth bias field, noise inside the brain."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in block.shape], indexing="ij", sparse=True)
    slopes, bends = generator.normal(0, 0.05, (2, 3))
    bias = np.exp(sum(s * a + b * a**2 for s, b, a in zip(slopes, bends, axes, strict=True)))
    noise = generator.normal(0, 0.03, block.shape)
    varied = generator.uniform(0.6, 1.6) * (block * bias + noise)
    return np.where(block > 0, varied.clip(min=0.001), 0)


def _config(dataset: Path, minutes: float, seed: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "demo",
            "seed": seed,
            "dataset": {"root": str(dataset.absolute()), "folds": 5},
            "network": {
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
            },
            "training": {
                "epochs": None,
                "minutes": minutes,
                "steps_per_epoch": 20,
                "batch_size": 1,
                "patch_size": (BLOCK, BLOCK, BLOCK),
                "validate_every": 2,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 4e-3,
                    "weight_decay": 1e-2,
                    "schedule": "cosine",
                    "warmup": 0.05,
                },
                "augmentation": {
                    "rotate_probability": 0.0,
                    "scale_probability": 0.0,
                    "blur_probability": 0.0,
                    "gamma_probability": 0.0,
                    "low_resolution_probability": 0.0,
                },
                "workers": 0,
            },
        }
    )


def _pictures(dataset: Path, predictions: Path, out: Path) -> tuple[Path, ...]:
    """One PNG of all held-out blocks, and one of each."""
    from dlka_med.evaluation.figures import Panel, contact_sheet, overlay

    panels = []
    for image in sorted((dataset / "imagesTs").iterdir()):
        files = (image, dataset / "labelsTs" / image.name, predictions / image.name)
        panels.append(Panel(image.name.removesuffix(".nii.gz"), *(np.asarray(nib.load(f).dataobj) for f in files)))
    paths = [out / "held_out.png", *(out / f"{panel.title}.png" for panel in panels)]
    contact_sheet(panels, LABELS, paths[0])
    for panel, path in zip(panels, paths[1:], strict=True):
        overlay(panel.image, panel.reference, panel.prediction, LABELS, path, title=panel.title)
    return tuple(paths)
