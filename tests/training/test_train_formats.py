"""A dataset of NRRD and MetaImage files from the check to the figures, by the command line."""

import json

import nibabel as nib
import numpy as np
import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.checking.fix import fix_dataset
from dlka_med.cli.command import main
from dlka_med.config.loading import load_config
from dlka_med.data.cases import read_dataset
from dlka_med.data.grid import Grid
from dlka_med.data.itk import write_itk
from dlka_med.data.load import load_case
from dlka_med.run_folder import RunFolder
from dlka_med.training.train import train

from .conftest import CONFIG
from .runs import changed

KINDS = (".nrrd", ".mha", ".mhd", ".hdr", ".nrrd", ".mha")


@pytest.fixture
def converted(balls, tmp_path):
    """The balls in other formats, with a colour and a code."""
    pairs = []
    for index, ending in enumerate(KINDS):
        entry = {}
        for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
            image = nib.load(balls / folder / f"ball_{index}.nii.gz")
            path = tmp_path / "data" / folder / f"ball_{index}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.asarray(image.dataobj)
            if ending == ".hdr":
                nib.save(nib.Nifti1Pair(voxels, image.affine), path)
            else:
                write_itk(path, voxels, Grid(path, voxels.shape, image.affine))
            entry[key] = str(path.relative_to(tmp_path / "data"))
        pairs.append(entry)
    facts = json.loads((balls / "dataset.json").read_text()) | {"training": pairs}
    facts["segments"] = {"ball": {"color": [255, 0, 0], "code": ["53505006", "SCT", "Ball"]}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(facts))
    (tmp_path / "data" / "groups.csv").write_text((balls / "groups.csv").read_text())
    return tmp_path / "data"


def test_what_is_trained_is_what_nifti_gives(balls, converted, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    config = changed(_config(path, converted), epochs=1)
    run = train(config, tmp_path / "run")
    other = train(changed(_config(path, balls), epochs=1), tmp_path / "other")
    ours, theirs = run.load_weights(), other.load_weights()
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert RunFolder.open(run.path).config.dataset.segments["ball"].code == ("53505006", "SCT", "Ball")
    out = tmp_path / "out"
    assert main(["predict", str(run.path), str(converted), "--split", "all", "-o", str(out)]) == 0
    endings = {path.stem.split(".")[0]: path.name.partition(".")[2] for path in out.glob("ball*")}
    assert endings == {f"ball_{i}": end for i, end in enumerate(("nrrd", "mha", "mha", "nii.gz", "nrrd", "mha"))}
    assert main(["evaluate", str(out), str(converted), "-o", str(tmp_path / "figures")]) == 0
    capsys.readouterr()


def _config(path, root):
    path.write_text(CONFIG.format(root=root))
    return load_config(path)


def test_a_mended_copy_keeps_formats_and_partners(converted, tmp_path):
    """A case of each format is mended, another one copied as it is."""
    clean = check_dataset(converted, workers=0)
    assert not [finding for finding in clean.findings if finding.severity == "error"]
    for index in (0, 1, 2, 3):
        path = converted / "imagesTr" / f"ball_{index}{KINDS[index]}"
        image = nib.load(path) if KINDS[index] == ".hdr" else None
        voxels = np.full((16, 16, 16), 50, np.float32)
        voxels[2:12, 3:9, 4:] = np.random.default_rng(index).normal(100, 10, (10, 6, 12))
        voxels[3, 3, 3] = np.nan
        if image is not None:
            nib.save(nib.Nifti1Pair(voxels, image.affine), path)
        else:
            write_itk(path, voxels, Grid(path, voxels.shape, np.diag([1.0, 2, 1, 1])))
    fix_dataset(check_dataset(converted, workers=0), tmp_path / "mended", workers=0)
    dataset = read_dataset(tmp_path / "mended")
    assert [case.images[0].suffix for case in dataset.cases] == [*KINDS]
    for case in dataset.cases:
        loaded = load_case(case, dataset.channels, dataset.labels)
        np.testing.assert_array_equal(loaded.affine, np.diag([1, 2, 1, 1]))
