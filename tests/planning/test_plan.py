"""The whole way, mostly with a stand-in for the probe; once with real steps and a training."""

import json
import shutil
from math import prod

import nibabel as nib
import numpy as np
import pytest
import torch

from dlka_med.config.loading import load_config
from dlka_med.data.cases import read_dataset
from dlka_med.data.folds import read_folds, write_folds
from dlka_med.data.splits import split_cases
from dlka_med.errors import InputError
from dlka_med.planning.memory import kept_free
from dlka_med.planning.plan import budget_of, plan
from dlka_med.planning.probe import Measured
from dlka_med.training.train import train

from .sets import KINDS, write_set

GIB = 2**30


def weighed(config, device="cpu"):
    """A rough stand-in for a step's bytes."""
    return 0.5 * GIB + 1000.0 * prod(config.training.patch_size) * config.training.batch_size


class Machine:
    """Stands in for the probe; keeps what it was asked."""

    def __init__(self, per_second=180_000.0, heavier=1.0):
        self.per_second, self.heavier, self.asked = per_second, heavier, []

    def __call__(self, config, device):
        self.asked.append(config)
        voxels = prod(config.training.patch_size) * config.training.batch_size
        return Measured(self.heavier * weighed(config), voxels / self.per_second)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_of_all_kinds_load_as_they_were_probed(tmp_path, kind):
    machine, out = Machine(), tmp_path / "plan.yaml"
    made = plan(write_set(tmp_path / "set", kind), out, memory=4, device="cpu", probe=machine, estimate=weighed)
    config = load_config(out)
    assert config == made.config
    last = machine.asked[-1]
    assert (config.network, config.preprocessing) == (last.network, last.preprocessing)
    for key in ("patch_size", "batch_size", "precision"):
        assert getattr(config.training, key) == getattr(last.training, key)
    assert config.dataset.slices == ("axial" if kind == "thick slices" else None)
    facts = json.loads((tmp_path / "plan.data.json").read_text())
    assert facts["cases"] == (1 if kind == "many labels" else 4)


def test_a_case_that_comes_later_joins_a_fold_and_moves_nobody(tmp_path):
    root = write_set(tmp_path / "set", "tiny volumes")
    stand_ins = {"device": "cpu", "memory": 4, "probe": Machine(), "estimate": weighed}
    out = tmp_path / "plan.yaml"
    plan(root, out, **stand_ins)
    config = load_config(out)
    assert config.dataset.folds == str(tmp_path / "plan.folds.json")
    before = read_folds(config.dataset.folds)
    assert sorted(case for fold in before for case in fold) == [f"case_{number}" for number in range(4)]
    for number in ("00", "99"):  # one before all others, one behind
        shutil.copy(root / "imagesTr" / "case_0_0000.nii.gz", root / "imagesTr" / f"case_{number}_0000.nii.gz")
        image = nib.load(root / "imagesTr" / f"case_{number}_0000.nii.gz")
        nib.save(
            nib.Nifti1Image(image.get_fdata().astype(np.float32) + int(number), image.affine),
            root / "imagesTr" / f"case_{number}_0000.nii.gz",
        )
        shutil.copy(root / "labelsTr" / "case_0.nii.gz", root / "labelsTr" / f"case_{number}.nii.gz")
    facts = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(facts | {"numTraining": 6}))
    out.unlink()
    plan(root, out, **stand_ins)
    after = read_folds(load_config(out).dataset.folds)
    assert [set(old) <= set(new) for old, new in zip(before, after, strict=True)] == [True] * len(before)
    assert sum(map(len, after)) == 6
    split = split_cases(read_dataset(root), load_config(out).dataset.folds, 0)
    assert set(split.validation) == set(after[0])


def test_folds_that_name_a_case_that_is_gone_are_told_before_anything_is_tried(tmp_path):
    root, machine = write_set(tmp_path / "set", "tiny volumes"), Machine()
    write_folds(tmp_path / "plan.folds.json", [["case_0", "case_1"], ["case_2", "gone"]])
    with pytest.raises(InputError, match=r"plan\.folds\.json names 1 cases that .* lacks: gone"):
        plan(root, tmp_path / "plan.yaml", device="cpu", memory=4, probe=machine, estimate=weighed)
    assert machine.asked == []
    assert not (tmp_path / "plan.yaml").exists()


def test_every_line_of_the_yaml_says_why(tmp_path):
    out = tmp_path / "plan.yaml"
    plan(write_set(tmp_path / "set", "tiny volumes"), out, device="cpu", memory=4, probe=Machine(), estimate=weighed)
    text = out.read_text()
    assert text.startswith("# ")
    assert "20 minutes on cpu" in text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if "  # " not in line and not line.endswith(":")] == []


@pytest.mark.parametrize("name", ["Liver study\nphase: [2", "liver\r\nlobe: {", "\tGröße #2: \"a' \u2028b\x07 "])
def test_odd_names_leave_the_yaml_whole(tmp_path, name):
    root, out = write_set(tmp_path / "set", "tiny volumes"), tmp_path / "plan.yaml"
    facts = {"name": name, "channel_names": {"0": name}, "labels": {"background": 0, name: 1}}
    description = root / "dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | facts))
    made = plan(root, out, device="cpu", memory=4, probe=Machine(), estimate=weighed)
    assert load_config(out) == made.config


def test_a_slow_machine_gets_smaller_windows(tmp_path):
    root = write_set(tmp_path / "set", "photographs")
    patches = []
    for number, per_second in enumerate((45_000, 180_000, 2_000_000)):
        machine = Machine(per_second)
        made = plan(root, tmp_path / f"{number}.yaml", device="cpu", memory=8, probe=machine, estimate=weighed)
        patches.append(prod(made.config.training.patch_size))
        assert len(machine.asked) <= 3
    assert patches == sorted(set(patches))


def test_what_holds_more_than_was_thought_is_planned_anew(tmp_path):
    root = write_set(tmp_path / "set", "photographs")
    machine = Machine(per_second=5e6, heavier=2.0)
    made = plan(root, tmp_path / "p.yaml", device="cpu", memory=3, probe=machine, estimate=weighed)
    assert len(machine.asked) > 1
    assert made.trials[-1].measured.peak < 3 * GIB
    assert machine.asked[-1].training.patch_size == made.config.training.patch_size


def test_a_machine_without_memory_is_told_of(tmp_path):
    root, out = write_set(tmp_path / "set", "tiny volumes"), tmp_path / "p.yaml"

    def lacking(config, device):
        return Measured(failed="not enough memory")

    with pytest.raises(InputError, match=r"did not \(not enough memory\)"):
        plan(root, out, device="cpu", memory=4, probe=lacking, estimate=weighed)
    assert not out.exists()


@pytest.mark.parametrize(("per_second", "minutes"), [(100.0, 0.1), (1e6, 1e-5)])
def test_minutes_that_hold_no_step_say_what_would(tmp_path, per_second, minutes):
    root, given = write_set(tmp_path / "set", "tiny volumes"), {"device": "cpu", "memory": 4, "estimate": weighed}
    with pytest.raises(InputError, match=rf"none fits into {minutes:g} minutes: give --minutes \d") as refused:
        plan(root, tmp_path / "p.yaml", minutes=minutes, probe=Machine(per_second), **given)
    enough = float(str(refused.value).partition("--minutes ")[2].split()[0])
    assert plan(root, tmp_path / "p.yaml", minutes=enough, probe=Machine(per_second), **given)


def test_broken_cases_are_named_and_mended_by_check(tmp_path):
    root = write_set(tmp_path / "set", "tiny volumes")
    (root / "imagesTr" / "case_1_0000.nii.gz").write_bytes(b"")
    label = nib.load(root / "labelsTr" / "case_2.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) * 7, label.affine), root / "labelsTr" / "case_2.nii.gz")
    image = nib.load(root / "imagesTr" / "case_3_0000.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata() * np.nan, image.affine), root / "imagesTr" / "case_3_0000.nii.gz")
    with pytest.raises(InputError, match="has errors and would not train") as refused:
        plan(root, tmp_path / "p.yaml", device="cpu", memory=4, probe=Machine(), estimate=weighed)
    said = str(refused.value)
    for code in ("file-empty", "label-undeclared", "voxels-nan"):
        assert f"{code}  " in said
    assert "dlka check" in said
    assert not (tmp_path / "p.yaml").exists()


def test_wrong_wishes_are_refused(tmp_path):
    root, out = write_set(tmp_path / "set", "microscopy"), tmp_path / "p.yaml"
    with pytest.raises(InputError, match="holds 2D images"):
        plan(root, out, network="dlka_net_3d", device="cpu", memory=4, probe=Machine(), estimate=weighed)
    with pytest.raises(InputError, match="both given"):
        plan(root, out, minutes=1, epochs=1, probe=Machine(), estimate=weighed)
    with pytest.raises(InputError, match="--device cuda:77 cannot be used"):
        plan(root, out, device="cuda:77", probe=Machine(), estimate=weighed)
    regions = write_set(tmp_path / "regions", "regions")
    description = regions / "dataset.json"
    facts = json.loads(description.read_text())
    del facts["regions_class_order"]
    description.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="need regions_class_order"):
        plan(regions, out, device="cpu", memory=4, probe=Machine(), estimate=weighed)


@pytest.mark.slow
def test_a_plan_is_probed_and_trains(tmp_path):
    root, out = write_set(tmp_path / "set", "tiny volumes"), tmp_path / "p.yaml"
    made = plan(root, out, minutes=1, memory=3, device="cpu", workers=1)
    last = made.trials[-1]
    assert 0 < last.measured.peak < 3 * GIB
    short = ["training.minutes=null", "training.epochs=1", "training.steps_per_epoch=1", "training.workers=0"]
    assert train(load_config(out, short), tmp_path / "run").weights_file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_unedited_plans_of_all_kinds_train(tmp_path, kind):
    out = tmp_path / "plan.yaml"
    plan(write_set(tmp_path / "set", kind), out, minutes=0.2, memory=6, device="cpu", probe=Machine(20_000.0))
    assert train(load_config(out), tmp_path / "run").weights_file.is_file()


@pytest.mark.parametrize(("major", "precision"), [(7, "fp16"), (8, "bf16")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, major, precision):
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or major >= 8
    )
    assert budget_of(None, None, 8.0, "cuda").precision == precision


@pytest.mark.parametrize(("floor", "told"), [(1.0, False), (2.3, True)])
def test_a_training_that_holds_more_than_is_given_is_told_of(tmp_path, monkeypatch, floor, told):
    monkeypatch.setattr("dlka_med.planning.plan.ROUNDS", 1)
    root = write_set(tmp_path / "set", "photographs")

    def steep(config, device):
        return 0.5 * GIB + 4000.0 * prod(config.training.patch_size) * config.training.batch_size

    def probe(config, device):
        return Measured(floor * GIB + 0.2 * steep(config, device), 0.01)

    made = plan(root, tmp_path / "p.yaml", device="cpu", memory=3, probe=probe, estimate=steep)
    assert any("more than the 3 GiB given" in line for line in made.outlook) == told
    assert (made.trials[-1].measured.peak + kept_free(made.budget, 1) > 3 * GIB) == told
