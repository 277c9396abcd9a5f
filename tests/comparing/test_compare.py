"""A whole comparison: made, gone on with, shared out, refused."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import pytest

from dlka_med.cli import main
from dlka_med.comparing.contest import plan_configs
from dlka_med.comparing.folder import Asked, ComparisonFolder, RunKey
from dlka_med.config.loading import load_config
from dlka_med.errors import InputError
from dlka_med.planning.memory import estimated_peak
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed
from dlka_med.training.callbacks import Recorder

from .conftest import NETWORKS, light, quick

RUNS = [RunKey(network, seed, 0) for seed in (0, 1) for network in NETWORKS]


def test_all_files_are_there(made_once):
    folder, result = made_once
    assert list(result.networks) == list(NETWORKS)
    for file in (folder.result_file, folder.table_file, folder.scores_file, folder.figure_file):
        assert file.stat().st_size > 0
    for key in RUNS:
        run = RunFolder.open(folder.run(key).path)
        assert (run.config.seed, run.config.dataset.fold, run.config.network.name) == (key.seed, 0, key.network)
        predicted = {file.name.removesuffix(".nii.gz") for file in folder.predictions(*key[:2]).glob("*.nii.gz")}
        assert predicted == set(run.split["validation"])
    assert len({RunFolder.open(folder.run(key).path).split["train"] for key in RUNS}) == 1


def test_configs_differ_only_in_their_networks(made_once):
    folder, _ = made_once
    ours, theirs = (load_config(folder.config_file(name)) for name in NETWORKS)
    assert ours.network.name != theirs.network.name
    assert ours.name != theirs.name
    assert ours.model_copy(update={"network": theirs.network, "name": theirs.name}) == theirs


def test_the_figures_are_those_of_the_label_maps(made_once, balls):
    folder, _ = made_once
    content = json.loads(folder.result_file.read_text())
    cases = RunFolder.open(folder.run(RUNS[0]).path).split["validation"]

    def dice(network, seed, case):
        predicted, reference = (
            np.asarray(nib.load(file).dataobj) == 1
            for file in (folder.predictions(network, seed) / f"{case}.nii.gz", balls / "labelsTr" / f"{case}.nii.gz")
        )
        return 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())

    means = {}
    for network in NETWORKS:
        seeds = [np.mean([dice(network, seed, case) for case in cases]) for seed in (0, 1)]
        found = content["networks"][network]
        assert list(found["seeds"].values()) == pytest.approx(seeds)
        assert found["spread_of_seeds"] == pytest.approx(np.std(seeds, ddof=1))
        assert found["mean"]["dice"]["mean"] == pytest.approx(np.mean(seeds))
        run = folder.run(RunKey(network, 0, 0))
        assert found["parameters"] == sum(tensor.numel() for tensor in run.load_network().parameters())
        config = run.config
        assert found["estimated_peak_bytes"] == pytest.approx(estimated_peak(config, "cpu"), abs=1)
        assert found["steps"] == 3
        assert found["seconds_per_step"] > 0
        assert found["seconds_per_case"] > 0
        means[network] = np.mean(seeds)
    apart = content["comparisons"][0]["differences"]["dice"]["mean"]
    assert apart["mean"] == pytest.approx(means["dlka_net_3d"] - means["unet"])
    assert apart["interval"] is None  # one patient
    assert (content["cases"], content["patients"]) == (2, 1)
    with folder.scores_file.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(RUNS) * len(cases)
    row = rows[-1]
    assert float(row["dice"]) == pytest.approx(dice(row["network"], row["seed"], row["case"]))


def test_the_same_call_trains_nothing_again(made, call, trained):
    before = made.result_file.read_text()
    result = call(made.path, networks=NETWORKS)
    assert trained == []
    assert json.loads(before) == json.loads(made.result_file.read_text()) == json.loads(json.dumps(result.summary()))


def test_seeds_are_added(made, call, trained):
    result = call(made.path, seeds=3)
    assert trained == [(str(made.run(RunKey(name, 2, 0)).path), False) for name in NETWORKS]
    assert [list(one.seeds) for one in result.networks.values()] == [[0, 1, 2]] * 2
    with pytest.raises(InputError, match="compares 3 seeds already: ask for as many or more"):
        call(made.path, seeds=2)


def test_other_arguments_are_refused_by_name(made, call, trained, balls, tmp_path):
    for change, told in (
        ({"networks": ("unet", "dlka_net_3d")}, "networks is dlka_net_3d, unet there and unet, dlka_net_3d here"),
        ({"epochs": 2}, "epochs is 1 there and 2 here"),
        ({"epochs": None, "minutes": 1.0}, "minutes is not given there and 1.0 here"),
        ({"memory": 5}, "memory is 4 there and 5 here"),
        ({"folds": (1,)}, "compares the folds 0 already: ask for these, or for more"),
        ({"folds": (0, 3)}, "there is no fold 3: the 3 folds are numbered 0 to 2"),
        ({"folds": (0, -1)}, "there is no fold -1: the 3 folds are numbered 0 to 2"),
    ):
        with pytest.raises(InputError, match=told):
            call(made.path, **change)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="exists already and is not empty"):
        call(tmp_path / "full")
    assert trained == []


def test_all_are_timed_by_the_clock_that_is_asked_for(balls, small, tmp_path):
    asked = Asked(str(balls), NETWORKS, minutes=1.0, memory=4, device="cpu", clock="processor")
    folder = ComparisonFolder(tmp_path / "out")
    plan_configs(folder, asked, workers=1, probe=quick, estimate=light)
    for config in folder.read_configs(NETWORKS).values():
        assert (config.training.clock, config.training.minutes) == ("processor", 1.0)
    with pytest.raises(InputError, match="--clock processor is of --minutes: leave it away with --epochs"):
        Asked(str(balls), NETWORKS, epochs=1, clock="processor")


def test_an_interrupted_run_goes_on(made, call, trained, monkeypatch):
    shutil.rmtree(made.run(RUNS[-1]).path)
    made.outcome_file(RUNS[-1]).unlink()
    record = Recorder.on_train_epoch_end

    def stop(self, trainer, task):
        record(self, trainer, task)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_end", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            call(made.path)
    before = made.result_file.stat().st_mtime_ns
    assert call(made.path) is not None
    assert made.result_file.stat().st_mtime_ns > before
    assert [Path(out).parts[-3:] for out, _ in trained][:1] == [("unet", "seed_1", "fold_0")]
    assert made.run(RUNS[-1]).started


def test_label_maps_of_other_weights_are_made_again(made, call, trained):
    key = RUNS[-1]
    old = {file: file.stat().st_mtime_ns for file in made.predictions(*key[:2]).glob("*.nii.gz")}
    shutil.rmtree(made.run(key).path)
    made.outcome_file(key).write_text(json.dumps({"weights": "other", "cases": 2, "seconds": 1.0, "failed": None}))
    call(made.path)
    assert len(trained) == 1
    assert all(file.stat().st_mtime_ns > before for file, before in old.items())
    outcome = json.loads(made.outcome_file(key).read_text())
    assert outcome["weights"] == hashlib.sha256(made.run(key).weights_file.read_bytes()).hexdigest()
    assert outcome["cases"] == len(old)


def test_shards_share_the_runs_and_the_last_one_compares(call, small, trained, tmp_path):
    out = tmp_path / "out"
    assert call(out, seeds=1, shard=(1, 2)) is None
    assert [Path(run).parts[-3] for run, _ in trained] == ["unet"]
    assert call(out, seeds=1, shard=(0, 2)) is not None
    assert [Path(run).parts[-3] for run, _ in trained] == ["unet", "dlka_net_3d"]


def test_one_may_join_while_another_still_plans(call, small, trained, tmp_path):
    joined = []

    def plans_long(config, device="cpu"):
        if not joined and config.network.name == "unet":  # the plan of the first is written
            assert ComparisonFolder(tmp_path / "out").config_file("dlka_net_3d").is_file()
            joined.append(Thread(target=lambda: joined.append(call(tmp_path / "out", seeds=1, shard=(1, 2)))))
            joined[0].start()
            joined[0].join(0.5)
            assert joined[0].is_alive()
        return light(config)

    call(tmp_path / "out", seeds=1, shard=(0, 2), estimate=plans_long)
    joined[0].join(60)
    assert len(joined) == 2
    assert sorted(Path(run).parts[-3] for run, _ in trained) == ["dlka_net_3d", "unet"]


def test_the_command_joins_who_plans_and_refuses_what_is_another_folder(balls, tmp_path, monkeypatch, capsys):
    folder, called = ComparisonFolder(tmp_path / "out"), []
    folder.configs.mkdir(parents=True)
    monkeypatch.setattr("dlka_med.comparing.compare.compare", lambda *given, **_: called.append(given))
    command = ["compare", str(balls), "-o", str(folder.path), "--networks", "unet,dlka_net_3d", "--epochs", "1"]
    with claimed(folder.lock, wait=True):
        assert main(command) == 0
    assert len(called) == 1
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_network_that_cannot_take_the_patch_leaves_nothing_behind(call, small, trained, tmp_path):
    with pytest.raises(InputError, match=r"timm_unet sees 2D images, but dlka_net_3d is planned in 3D"):
        call(tmp_path / "out", networks=("dlka_net_3d", "timm_unet"))
    assert [child.name for child in (tmp_path / "out").iterdir()] == [".locks"]
    assert call(tmp_path / "out", seeds=1, shard=(1, 2)) is None


def test_cases_that_come_later_are_refused(made, call, trained, balls):
    file = made.folds_file(NETWORKS[0])
    first, *others = json.loads(file.read_text())
    file.write_text(json.dumps([first[1:], *others] if isinstance(first, list) else first))
    with pytest.raises(InputError, match=r"has cases that .* does not name"):
        call(made.path)
    assert trained == []
