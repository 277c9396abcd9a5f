"""Which run made a label map, and what the case was to it."""

import json

import nibabel as nib
import numpy as np
import pytest
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.record import Origin, facts_of, id_of, made_by, refuse_others
from dlka_med.prediction_folder import Made, PredictionFolder
from dlka_med.provenance import Provenance, fingerprint
from dlka_med.run_folder import RunFolder

SPLIT = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}


def make_run(path, weights=b"1", split=SPLIT, **sections) -> RunFolder:
    whole = {
        "name": "run",
        "dataset": {"root": "data", "channels": ["CT"], "labels": {"background": 0, "organ": 1}},
        "network": {"name": "unet"},
        "training": {"patch_size": [32, 32, 32]},
    }
    run = RunFolder.create(path, RunConfig.model_validate(whole | sections), split)
    run.weights_file.write_bytes(weights)
    return run


def predictor(**options) -> Predictor:
    return Predictor(nn.Identity(), **{"patch_size": (32, 32, 32)} | options)


def write(path, seed) -> Case:
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).normal(size=(4, 5, 6)), np.eye(4)), path)
    return Case(path.name.partition(".")[0], (path,))


def test_the_id_is_that_of_weights_and_settings_wherever_the_run_lies(tmp_path):
    run, other = make_run(tmp_path / "one"), make_run(tmp_path / "moved")
    first = facts_of([run], predictor())
    assert first["run"] == "one"
    assert id_of(first) == id_of(facts_of([other], predictor(batch_size=7)))
    spaced = make_run(tmp_path / "spaced", preprocessing={"spacing": [1.0, 1.0, 2.0]})
    labelled = make_run(
        tmp_path / "labelled", dataset={"root": "data", "channels": ["CT"], "labels": {"background": 0, "organ": 2}}
    )
    retrained = make_run(tmp_path / "retrained", b"2")
    others = [
        *(facts_of([each], predictor()) for each in (spaced, labelled, retrained)),
        facts_of([run, other], predictor()),
        facts_of([run], predictor(overlap=0.25)),
        facts_of([run], predictor(mirror_axes=(1,))),
        facts_of([run], predictor(precision="bf16")),
        facts_of([run], predictor(patch_size=(32, 32, 16))),
        facts_of([run], predictor(), crop="masks"),
        facts_of([run], predictor(temperature=1.5)),
        facts_of([run], predictor(painted=(1,), thresholds=(0.3,))),
    ]
    assert len({id_of(first), *map(id_of, others)}) == len(others) + 1


def test_each_member_counts_with_its_own_greys_and_network(tmp_path):
    first = make_run(tmp_path / "first")
    scaled = {"intensity": [{"kind": "zscore_nonzero"}]}
    seconds = [
        make_run(tmp_path / "plain"),
        make_run(tmp_path / "scaled", preprocessing=scaled),
        make_run(tmp_path / "wide", network={"name": "unet", "channels": [8, 16], "strides": [2]}),
    ]
    assert len({id_of(facts_of([first, second], predictor())) for second in seconds}) == 3


def test_label_maps_of_others_are_refused_with_what_differs(tmp_path):
    run, folder = make_run(tmp_path / "run"), PredictionFolder(tmp_path)
    facts, (a, b, z) = facts_of([run], predictor()), (write(tmp_path / f"{name}.nii", 0) for name in "abz")
    folder.begin(id_of(facts), facts, ["a", "b"])
    folder.finish("a", Made(id_of(facts), "new"))
    assert refuse_others(folder, facts, [a]) == set()
    assert refuse_others(folder, facts, [a, b]) == {"b"}, "it was not finished"
    with pytest.raises(InputError, match=r"a label map of the case z, but cases\.json there does not say which run"):
        refuse_others(folder, facts, [a, z])
    other = facts_of([run], predictor(overlap=0.25))
    with pytest.raises(InputError, match=r"case a by another run or other settings \(run: overlap 0\.5 there, 0\.25"):
        refuse_others(folder, other, [a])
    assert refuse_others(folder, other, [b]) == {"b"}
    trained = facts_of([make_run(tmp_path / "trained", b"2")], predictor())
    with pytest.raises(InputError, match=r"\(run: other weights\)"):
        refuse_others(folder, trained, [a])


def test_a_label_map_of_another_image_under_the_same_name_is_refused(tmp_path):
    run, folder = make_run(tmp_path / "run"), PredictionFolder(tmp_path)
    facts, case, gone = facts_of([run], predictor()), write(tmp_path / "a.nii", 0), Case("a", (tmp_path / "gone.nii",))
    folder.finish("a", made_by(facts, Origin([run]), case))
    for same in (case, Case("a", write(tmp_path / "copy.nii", 0).images), gone):
        assert refuse_others(folder, facts, [same]) == set()
    with pytest.raises(InputError, match=r"case a that was made of another image than it has now: move"):
        refuse_others(folder, facts, [write(tmp_path / "a.nii", 1)])


def test_what_a_case_was_to_the_run_is_told_by_its_content_then_by_its_name(tmp_path):
    run = make_run(tmp_path / "run")
    known = {name: write(tmp_path / f"{name}.nii", seed) for seed, name in enumerate("abcd")}
    Provenance().joined([known["a"], known["b"]], [known["c"]]).save(run)
    origin = Origin([run])
    assert [origin.part(case) for case in known.values()] == ["train", "train", "validation", "test"]
    copy, validated = Case("copy", known["a"].images), Case("renamed", known["c"].images)
    assert origin.part(validated) == "validation"
    namesake = Case("a", write(tmp_path / "other.nii", 9).images)
    missing = Case("b", (tmp_path / "missing.nii",))
    assert [origin.part(case) for case in (copy, namesake, missing)] == ["train", "new", "train"]
    others = [Case("c", namesake.images), Case("c", missing.images)]
    assert [origin.part(case) for case in others] == ["new", "validation"]
    facts = facts_of([run], predictor())
    assert made_by(facts, origin, copy) == Made(id_of(facts), "train", image=fingerprint(copy))
    assert made_by(facts, origin, missing) == Made(id_of(facts), "train")


def test_without_a_record_names_count_and_of_imported_weights_nothing_is_sure(tmp_path):
    case, stranger = write(tmp_path / "a.nii", 0), write(tmp_path / "new.nii", 1)
    old = Origin([make_run(tmp_path / "old")])
    assert [old.part(each) for each in (case, stranger)] == ["train", "new"]
    imported = make_run(tmp_path / "imported", split=SPLIT | {"train": []})
    Provenance(complete=False).save(imported)
    assert Origin([imported]).part(stranger) == "unknown"


def test_a_case_that_trained_one_of_several_runs_trained_them(tmp_path):
    runs = [make_run(tmp_path / str(fold), split=SPLIT | {"train": [trained]}) for fold, trained in enumerate("ac")]
    cases = {name: write(tmp_path / f"{name}.nii", seed) for seed, name in enumerate("acde")}
    for run in runs:
        Provenance().joined([cases[run.split["train"][0]]]).save(run)
    parts = {name: Origin(runs).part(case) for name, case in cases.items()}
    assert parts == {"a": "train", "c": "train", "d": "test", "e": "new"}


def test_a_damaged_record_of_the_run_is_named_before_any_work(tmp_path):
    run = make_run(tmp_path / "run")
    (run.path / "trained_on.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match=r"trained_on\.json"):
        Origin([run])
