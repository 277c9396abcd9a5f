"""Regions and voxels to be ignored, from the dataset to the evaluation."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.predict import predict_images
from dlka_med.training.train import train

from .runs import changed, rows_of

LABELS = {"background": 0, "ball": [3, 7], "core": 7, "ignore": 9}


@pytest.fixture
def regions(balls, tmp_path):
    """The balls with a core; half of each label is not annotated, and what is written there would mislead."""
    root = shutil.copytree(balls, tmp_path / "regions")
    for path in sorted((root / "labelsTr").iterdir()):
        image = nib.load(path)
        label = np.asarray(image.dataobj)
        x, y, z = (np.indices(label.shape).T - np.argwhere(label).mean(0)).T
        core = label * ((x**2 + y**2 + z**2) < 6)
        values = (3 * label + 4 * core).astype(np.uint8)
        values[:, :, ::2] = 9
        nib.save(nib.Nifti1Image(values, image.affine), path)
    facts = json.loads((root / "dataset.json").read_text())
    facts |= {"labels": LABELS, "regions_class_order": [3, 7]}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.mark.slow
def test_regions_are_learned_beside_what_is_ignored(config, regions, tmp_path):
    config = changed(config, "dataset", root=str(regions))
    config = changed(config, epochs=25, steps_per_epoch=4, validate_every=25)
    run = train(config, tmp_path / "run")
    assert run.config.dataset.labels == {"background": 0, "ball": (3, 7), "core": 7, "ignore": 9}
    assert run.config.dataset.regions_class_order == (3, 7)
    assert run.load_network().out_channels == 2
    last = rows_of(run)[-1]
    assert {key for key in last if key.startswith("dice ")} == {"dice ball", "dice core"}
    for path in predict_images(run.path, regions, tmp_path / "predictions", split="validation"):
        assert set(np.unique(nib.load(path).dataobj)) <= {0, 3, 7}
    result = evaluate(tmp_path / "predictions", regions)
    assert result.labels["ball"]["dice"].mean == pytest.approx(float(last["dice ball"]), abs=1e-4)
    assert result.labels["ball"]["dice"].mean > 0.7
    declared = json.loads((tmp_path / "predictions" / "labels.json").read_text())
    assert declared == {"labels": {"background": 0, "ball": [3, 7], "core": 7}, "regions_class_order": [3, 7]}


def test_regions_need_their_order(config, regions, tmp_path):
    file = regions / "dataset.json"
    facts = json.loads(file.read_text())
    del facts["regions_class_order"]
    file.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"need regions_class_order, .* in their order: ball, core"):
        train(changed(config, "dataset", root=str(regions)), tmp_path / "run")
