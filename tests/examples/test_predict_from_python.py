"""The example predicts a scan in memory three times, each time as the file is predicted."""

import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from dlka_med.inference.predict import predict_images

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "predict_from_python.py"
LARGE_CT = runpy.run_path(str(EXAMPLE.parent / "predict_large_ct.py"))


def test_the_three_kinds_are_the_label_map_of_the_file(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    names, seen = runpy.run_path(str(EXAMPLE)), []
    run = LARGE_CT["make_run"](tmp_path / "run", classes=4, patch=(16, 16, 16), overlap=0.25)
    LARGE_CT["write_ct"](tmp_path / "ct.nii.gz", (20, 33, 18), (0.8, 0.9, 1.5))
    (path,) = predict_images(run.path, tmp_path / "ct.nii.gz", tmp_path / "out")
    expected = np.asarray(nib.load(path).dataobj)
    made = names["label_maps"]
    monkeypatch.setitem(names["main"].__globals__, "label_maps", lambda *given: seen.extend(made(*given)) or seen)
    names["main"]([str(run.path), str(tmp_path / "ct.nii.gz")])
    for found in (seen[0], np.asarray(seen[1].dataobj), seen[2].numpy()[0]):
        np.testing.assert_array_equal(found, expected)
    counts = [f"label {value}: {(expected == value).sum()} voxels" for value in np.unique(expected)]
    said = capsys.readouterr().out.splitlines()
    assert said == ["ndarray (20, 33, 18)", "Nifti1Image (20, 33, 18)", "MetaTensor (1, 20, 33, 18)", *counts]
