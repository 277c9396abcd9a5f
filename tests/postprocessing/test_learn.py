"""From a run folder to its post-processing, with islands and holes of known worth."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.cli import main
from dlka_med.config.labels import LabelScheme
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.kept_steps import postprocessing_of
from dlka_med.inference.postprocess import Step
from dlka_med.inference.predict import predict_images
from dlka_med.postprocessing.learn import learn_postprocessing, learn_steps
from dlka_med.postprocessing.result import format_postprocessing
from dlka_med.postprocessing.trials import HeldMap
from dlka_med.run_folder import RunFolder
from tests.held_out_runs import LABELS, folds_of, make_run, write_case

CASES = 7
ALL = [f"scan{case}" for case in range(CASES)]


class Bright(nn.Module):
    """What is brighter than 1 is organ."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), x - 1], dim=1)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Seven scans of an organ, with bright islands that are none of it, and a dark hole in it that is."""
    monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Bright())
    return make_dataset(tmp_path / "data")


def make_dataset(root, islands_belong=False):
    for case in range(CASES):
        label = np.zeros((15, 14, 13), bool)
        label[2:9, 3:9, 2 : 8 + case % 2] = True
        image = label.copy()
        image[11:13, 11, 3 + case % 4], image[13, 2, 9:11] = True, True
        if islands_belong:
            label = image.copy()
        image[5, 5, 4] = False
        write_case(root, f"scan{case}", 2.0 * image.astype(np.float32), 3 * label)
    facts = {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def run(dataset, tmp_path):
    return make_run(tmp_path / "run", dataset, ALL)


def content_of(folder):
    return json.loads((folder / "postprocessing.json").read_text())


def test_islands_go_and_holes_are_filled(run, dataset, tmp_path):
    before = run.weights_file.stat().st_mtime
    content = learn_postprocessing(run.path)
    assert content == content_of(run.path)
    assert content["steps"] == [{"step": "largest", "label": "organ"}, {"step": "holes", "label": "organ"}]
    assert (content["cases"], content["patients"]) == (7, 7)
    assert content["weights"] == {"run": hashlib.sha256(run.weights_file.read_bytes()).hexdigest()}
    components, holes = content["tried"]
    assert (components["better"], components["worse"], components["interval"]) == (7, 0, None)
    assert (components["false_removed"], components["true_removed"]) == (14, 0)
    assert components["gain"] == components["after"] - components["before"] > 0.005
    assert components["after"] == holes["before"]
    assert holes["after"] == 1
    assert not list(run.path.glob(".writing-*"))
    assert run.weights_file.stat().st_mtime == before
    for name, more in (("raw", {"postprocess": False}), ("clean", {})):
        predict_images(run.path, dataset, tmp_path / name, split="validation", **more)
    found = [evaluate(tmp_path / name, dataset).mean["dice"].mean for name in ("raw", "clean")]
    assert found == [pytest.approx(components["before"]), 1]


def test_an_organ_of_several_pieces_keeps_them(dataset, tmp_path):
    content = learn_postprocessing(make_run(tmp_path / "run", make_dataset(tmp_path / "pieces", True), ALL).path)
    assert content["steps"] == [{"step": "holes", "label": "organ"}]
    assert content["tried"][0]["refusal"] == "no better on all patients"


def test_folds_learn_together(dataset, tmp_path):
    parts = [ALL[:2], ALL[2:4], ALL[4:]]
    runs = folds_of(tmp_path / "folds", dataset, parts)
    content = learn_postprocessing(tmp_path / "folds")
    assert (content["cases"], len(set(content["weights"].values()))) == (7, 3)
    for run in runs:
        assert content_of(run.path) == content == content_of(tmp_path / "folds")
        assert [step.kind for step in postprocessing_of(run).steps] == ["largest", "holes"]


def test_regions_are_decided_one_by_one():
    """Islands of the core lie in the rest of the whole, and are that."""
    scheme = LabelScheme.of({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    maps = []
    for case in range(6):
        reference = np.zeros((9, 12), np.uint8)
        reference[1:8, 1:11], reference[2:5, 2:4] = 1, 2
        prediction = reference.copy()
        prediction[6, 8 + case % 2] = 2
        maps.append(HeldMap(prediction, reference, 1.0, str(case)))
    decisions = learn_steps(maps, scheme)
    assert [one.step for one in decisions if one.kept] == [Step("largest", "core")]
    assert [one.family.label for one in decisions] == [None, "whole", "core", "whole", "core"]
    assert all(np.array_equal(one.prediction, one.reference) for one in maps)


def test_what_goes_with_one_region_is_gone_for_the_others():
    """Islands of the whole hold all false cores; the nodes lie apart, so that not all foreground is one."""
    scheme = LabelScheme.of({"background": 0, "whole": [1, 2], "core": 2, "node": 3}, [1, 2, 3])
    maps = []
    for case in range(6):
        reference = np.zeros((15, 12), np.uint8)
        reference[1:8, 1:7], reference[2:5, 2:4], reference[12:, 1:5] = 1, 2, 3
        prediction = reference.copy()
        prediction[1 + case % 2, 9:11] = 2
        maps.append(HeldMap(prediction, reference, 1.0, str(case)))
    found = {one.family.label: one for one in learn_steps(maps, scheme) if not one.family.of_holes}
    assert found[None].refusal is not None
    assert found["whole"].kept
    assert {name: gain.after for name, gain in found["whole"].labels.items()} == {"whole": 1, "core": 1, "node": 1}
    assert found["core"].refusal == "nothing to remove"


def test_steps_are_judged_on_what_those_before_have_left():
    """Far pieces go with the foreground's; then there is nothing left to remove of each label."""
    scheme = LabelScheme.of({"background": 0, "organ": 1, "tumour": 2})
    maps = []
    for case in range(6):
        reference = np.zeros((9, 12, 5), np.uint8)
        reference[1:6, 1:6, 1:4], reference[3:6, 6, 2] = 1, 2
        prediction = reference.copy()
        prediction[8, 9:11, case % 5], prediction[1, 10:, 4] = 1, 2
        maps.append(HeldMap(prediction, reference, 1.0, str(case)))
    decisions = learn_steps(maps, scheme)
    assert [(one.family.label, one.refusal) for one in decisions[:3]] == [
        (None, None),
        ("organ", "nothing to remove"),
        ("tumour", "nothing to remove"),
    ]
    assert decisions[0].false_removed == 12
    assert {name: gain.after for name, gain in decisions[0].labels.items()} == {"organ": 1, "tumour": 1}


def test_a_hole_that_is_filled_is_one_of_no_other_label():
    """Organ encloses the tumour, whose bubbles lie in a hole of either: who is first fills them, and is measured so."""
    scheme = LabelScheme.of({"background": 0, "organ": 1, "tumour": 2})
    maps = []
    for case in range(12):
        reference = np.zeros((20, 20), np.uint8)
        reference[1:19, 1:19], reference[6:14, 6:14] = 1, 2
        prediction = reference.copy()
        prediction[2, 2:16], prediction[8 + case % 3, 8:10] = 0, 0
        maps.append(HeldMap(prediction, reference, 1.0, str(case)))
    decisions = learn_steps(maps, scheme)
    assert [one.family.label for one in decisions] == [None, "organ", "tumour", "organ", "tumour"]
    organ, tumour = decisions[3:]
    assert (organ.kept, tumour.refusal) == (True, "no better on all patients")
    for label, decision in ((1, organ), (2, tumour)):
        found = [(one.prediction == label, one.reference == label) for one in maps]
        dice = [2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) for ours, theirs in found]
        assert decision.mean.after == pytest.approx(np.mean(dice))


def test_fewer_cases_on_request(run):
    assert learn_postprocessing(run.path, cases=5)["cases"] == 5
    with pytest.raises(InputError, match=r"4 held-out patients cannot tell whether a step helps, 5 is the least"):
        learn_postprocessing(run.path, cases=4)


def test_bad_data_leave_what_was_learned_before(run, dataset):
    learn_postprocessing(run.path)
    before = run.postprocessing_file.read_bytes()
    file = dataset / "labelsTr" / "scan3.nii.gz"
    nib.save(nib.Nifti1Image(np.full((15, 14, 13), 9, np.uint8), nib.load(file).affine), file)
    with pytest.raises(InputError, match=r"scan3\.nii\.gz has label values that are not declared"):
        learn_postprocessing(run.path)
    assert run.postprocessing_file.read_bytes() == before


def test_the_command_line_prints_the_table(run, capsys):
    assert main(["postprocess", str(run.path), "--cases", "6"]) == 0
    content = content_of(run.path)
    assert content["cases"] == 6
    told = capsys.readouterr().out
    assert told == format_postprocessing(content)
    head, first, second, last = told.splitlines()
    assert head.split()[:4] == ["label", "step", "Dice", "after"]
    assert first.split()[:2] == ["organ", "largest"]
    assert second.split()[:2] == ["organ", "holes"]
    assert last.startswith("2 of 2 steps are kept, from 6 held-out cases of 6 patients")


def test_the_table_names_volumes():
    tried = {"label": None, "of": "components", "best": {"step": "minimum", "label": None, "mm3": 33.5}, "kept": True}
    tried |= {
        "refusal": None,
        "chance": 0.04,
        "before": 0.5,
        "after": 0.75,
        "gain": 0.25,
        "interval": [0.1, 0.4],
        "better": 3,
        "worse": 1,
    }
    told = format_postprocessing({"steps": [{}], "tried": [tried], "cases": 9, "patients": 8})
    row = "all foreground  minimum 33.5 mm3  0.5000  0.7500  +0.2500  +0.1000 to +0.4000   0.040       3      1   yes"
    assert told.splitlines()[1] == row
