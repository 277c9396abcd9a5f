"""From images in the formats of the clinic to label maps in theirs or in others."""

import json
import logging
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from torch import nn

from dlka_med.cli.command import main
from dlka_med.config.schema import RunConfig
from dlka_med.data.grid import Grid
from dlka_med.data.itk import write_itk
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder
from tests.dicom_series import BIRTH, oblique, voxels_of, write_series

LABELS = {"background": 0, "bright": 3, "dark": 7}
SEGMENTS = {"bright": {"color": [255, 0, 0], "code": ["10200004", "SCT", "Liver"]}}
AFFINE = oblique()


class Sign(nn.Module):
    """The last channel: above 300 is class 1, below -300 is class 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, -1:]
        return torch.cat([torch.zeros_like(x), x - 300, -x - 300], dim=1)


def expected_map(voxels):
    return np.where(voxels > 300, 3, np.where(voxels < -300, 7, 0))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Sign())

    def _make_run(channels=("CT",), **preprocessing):
        plain = {"spacing": None, "crop_foreground": False, "intensity": [{"kind": "none"}] * len(channels)}
        config = RunConfig.model_validate(
            {
                "name": "run",
                "dataset": {"root": "data", "channels": channels, "labels": LABELS, "segments": SEGMENTS},
                "preprocessing": plain | preprocessing,
                "network": {"name": "unet", "spatial_dims": 3, "channels": [4, 6], "strides": [2]},
                "training": {"patch_size": [6, 6, 6]},
            }
        )
        run = RunFolder.create(tmp_path / "run", config, {"train": ["a"], "validation": ["b"], "test": []})
        run.weights_file.write_bytes(b"")  # the command line looks whether there are any
        return run.path

    return _make_run


def write_image(path, voxels, affine=AFFINE):
    """A case in the format of its name; a folder is a series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.partition(".")[2]
    if kind in ("nrrd", "mha", "mhd"):
        write_itk(path, voxels, Grid(path, voxels.shape, affine))
    elif kind in ("", "zip"):
        write_series(path.with_suffix(""), voxels, affine)
    else:
        nib.save((nib.Nifti1Pair if kind == "hdr" else nib.Nifti1Image)(voxels, affine), path)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in path.with_suffix("").iterdir():
                archive.write(file, file.name)
        shutil.rmtree(path.with_suffix(""))
    return path


def labels_of(path, shape):
    """Values (x, y, z) of a label map; a DICOM-SEG without its first slices would be shorter."""
    if path.suffix != ".dcm":
        return reader_of(path).label(path)
    seg = pydicom.dcmread(path)
    values = {one.SegmentNumber: LABELS[one.SegmentLabel] for one in seg.SegmentSequence}
    found = np.zeros(shape, int)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        ras = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        index = round((np.linalg.inv(AFFINE) @ [*ras, 1])[2])
        found[:, :, index][frame.T > 0] = values[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
    return found, None


ENDINGS = {"a.nrrd": ".nrrd", "a.mha": ".mha", "a.mhd": ".mha", "a.hdr": ".nii.gz", "a": ".dcm", "a.zip": ".dcm"}


@pytest.mark.parametrize(("name", "ending"), ENDINGS.items())
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_every_voxel_lands_where_it_came_from(make_run, tmp_path, name, ending, orientation):
    run = make_run(orientation=orientation)
    image = write_image(tmp_path / "in" / name, voxels_of())
    (found,) = predict_images(run, image, tmp_path / "out")
    assert found == tmp_path / "out" / f"a{ending}"
    values, grid = labels_of(found, voxels_of().shape)
    np.testing.assert_array_equal(values, expected_map(voxels_of()))
    if grid is not None:
        np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a"])
@pytest.mark.parametrize("form", ["nii.gz", "nii", "nrrd", "mha"])
def test_a_format_may_be_named(make_run, tmp_path, name, form):
    image = write_image(tmp_path / "in" / name, voxels_of())
    (found,) = predict_images(make_run(), image, tmp_path / "out", form=form)
    assert found.name == f"a.{form}"
    values, grid = labels_of(found, None)
    np.testing.assert_array_equal(values, expected_map(voxels_of()))
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-5)


def test_a_folder_of_several_formats(make_run, tmp_path):
    for seed, name in enumerate(("a.nrrd", "b.mhd", "c.nii.gz", "d.hdr")):
        write_image(tmp_path / "in" / name, voxels_of(seed=seed))
    found = predict_images(make_run(), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in found] == ["a.nrrd", "b.mha", "c.nii.gz", "d.nii.gz"]
    for seed, path in enumerate(found):
        np.testing.assert_array_equal(labels_of(path, None)[0], expected_map(voxels_of(seed=seed)))
    for path, reference in zip(found, ("a.mha", "b.nrrd", "c.nrrd", "d.mha"), strict=True):
        write_image(tmp_path / "references" / reference, labels_of(path, None)[0])
    scores = evaluate(tmp_path / "out", tmp_path / "references")
    assert scores.mean["dice"].mean == 1


def test_a_series_that_does_not_fit_is_listed_with_what_it_needs(make_run, tmp_path, monkeypatch):
    for seed, name in enumerate(("scan1", "scan2")):
        write_series(tmp_path / "in" / name, voxels_of(seed=seed), AFFINE)
    plain = pydicom.Dataset.pixel_array.fget

    def pixels(one):
        if "scan2" in str(one.filename):
            raise MemoryError
        return plain(one)

    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(pixels))
    with pytest.raises(InputError, match="1 of 2 cases could not be predicted"):
        predict_images(make_run(), tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "scan1.dcm").is_file()
    (told,) = json.loads((tmp_path / "out" / "failed.json").read_text()).values()
    assert told.startswith(
        f"there is not enough memory ({tmp_path / 'in' / 'scan2'}: a series of 7 x 6 x 5 voxels needs"
    )
    assert "damaged" not in told


def test_from_folders_of_series_to_segmentations(make_run, tmp_path, caplog, capsys):
    """One bad series does not keep the others from being predicted, and nobody learns whose they are."""
    for seed, name in enumerate(("scan1", "scan2", "scan3")):
        write_series(tmp_path / "in" / name, voxels_of(seed=seed), AFFINE, skip=(2,) if name == "scan2" else ())
    caplog.set_level(logging.DEBUG)
    arguments = ["predict", str(make_run()), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    told = capsys.readouterr().err + caplog.text
    assert "1 of 3 cases could not be predicted" in told
    assert "scan2, series 1 (CT, 4 slices of 7 x 6) lacks 1 slice" in told
    for secret in ("Mustermann", BIRTH, "P-1"):
        assert secret not in told
    assert sorted(path.name for path in (tmp_path / "out").glob("scan*")) == ["scan1.dcm", "scan3.dcm"]
    for seed, name in ((0, "scan1"), (2, "scan3")):
        values, _ = labels_of(tmp_path / "out" / f"{name}.dcm", voxels_of().shape)
        np.testing.assert_array_equal(values, expected_map(voxels_of(seed=seed)))
    (first, _) = pydicom.dcmread(tmp_path / "out" / "scan1.dcm").SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    assert main([*arguments[:-1], str(tmp_path / "other"), "--format", "nrrd"]) == 2
    assert (tmp_path / "other" / "scan3.nrrd").is_file()


def test_a_series_is_named_on_the_command_line(make_run, tmp_path, capsys):
    for number in (1, 2):
        write_series(tmp_path / "study", voxels_of(seed=number), AFFINE, number=number, stem=f"S{number}")
    arguments = ["predict", str(make_run()), str(tmp_path / "study"), "-o", str(tmp_path / "out"), "--format", "mha"]
    assert main(arguments) == 2
    assert "choose one with --series NUMBER" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--series", "2"]) == 0
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "study.mha", None)[0], expected_map(voxels_of(seed=2)))


def test_a_series_for_each_channel(make_run, tmp_path):
    for number in (1, 2):
        voxels, stem = voxels_of(seed=number), f"S{number}"
        write_series(tmp_path / "study", voxels, AFFINE, number=number, modality="MR", stem=stem)
    for series, seed in ((("1", "2"), 2), (("2", "1"), 1)):
        run = make_run(channels=("T1", "T2"))
        (found,) = predict_images(run, tmp_path / "study", tmp_path / "out", series=series, form="mha", overwrite=True)
        np.testing.assert_array_equal(labels_of(found, None)[0], expected_map(voxels_of(seed=seed)))
        shutil.rmtree(run)


def test_a_series_of_another_modality_is_told(make_run, tmp_path, caplog):
    write_series(tmp_path / "scan", voxels_of(), AFFINE, modality="MR")
    predict_images(make_run(), tmp_path / "scan", tmp_path / "out")
    assert "series 1 (MR, 5 slices of 7 x 6): the channel is called 'CT', so the run was trained on CT" in caplog.text


@pytest.mark.parametrize("out", ["scan", "scan/out"])
def test_nothing_is_written_into_a_series(make_run, tmp_path, out):
    write_series(tmp_path / "scan", voxels_of(), AFFINE)
    with pytest.raises(InputError, match="lie in a series: name another folder"):
        predict_images(make_run(), tmp_path / "scan", tmp_path / out)
