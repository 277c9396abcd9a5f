"""Many folds: restarted anywhere, shared out, never of different configs or on each other's cases."""

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from dlka_med.config.loading import save_config
from dlka_med.data.cases import read_dataset
from dlka_med.data.folds import read_folds, write_folds
from dlka_med.data.splits import find_folds
from dlka_med.errors import InputError
from dlka_med.folds_folder import FoldsFolder
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed
from dlka_med.training.callbacks import Recorder
from dlka_med.training.folds import train_folds
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train

from .runs import assert_same_weights, changed, command, rows_of


@pytest.fixture
def config(crossvalidated):
    return crossvalidated[0]


@pytest.fixture
def complete(crossvalidated, tmp_path):
    """A copy of a folder of folds, finished and evaluated."""
    return FoldsFolder(shutil.copytree(crossvalidated[1].path, tmp_path / "run"))


@pytest.fixture
def trained(crossvalidated, monkeypatch):
    """Folds are copied instead of trained; which, and whether they were resumed."""
    calls = []

    def copy(config, out, *, resume=False, extend=False, is_claimed=False, reasons=()):
        assert is_claimed
        calls.append((config.dataset.fold, resume))
        if not resume:
            shutil.copytree(crossvalidated[1].path / out.name, out)
        return RunFolder.open(out)

    monkeypatch.setattr("dlka_med.training.folds.train", copy)
    return calls


@pytest.fixture
def grown(balls, tmp_path):
    """The dataset with one case more, of a patient of its own."""
    root = shutil.copytree(balls, tmp_path / "grown")
    for part in ("imagesTr", "labelsTr"):
        shutil.copy(root / part / "ball_0.nii.gz", root / part / "ball_6.nii.gz")
    facts = json.loads((root / "dataset.json").read_text())
    facts["training"].append({kind: f"{kind}sTr/ball_6.nii.gz" for kind in ("image", "label")})
    (root / "dataset.json").write_text(json.dumps(facts))
    with (root / "groups.csv").open("a") as file:
        file.write("\nball_6,patient_3")
    return root


def test_each_fold_is_an_ordinary_run(config, crossvalidated, balls):
    _, folder, _ = crossvalidated
    folds = read_folds(folder.folds_file)
    assert folds == find_folds(read_dataset(balls), 3)
    for fold, cases in enumerate(folds):
        run = RunFolder.open(folder.path / f"fold_{fold}")
        assert set(run.split["validation"]) == set(cases)
        assert run.config.dataset.fold == fold
        assert run.config.dataset.folds == str(folder.folds_file)
        assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    with pytest.raises(InputError, match="it holds runs: fold_0, fold_1, fold_2"):
        RunFolder.open(folder.path)


@pytest.mark.slow
def test_interrupted_inside_and_between_folds_it_ends_as_if_nothing_had_been(
    config, crossvalidated, tmp_path, stop_after, monkeypatch, caplog
):
    _, whole, expected = crossvalidated
    out, record = FoldsFolder(tmp_path / "run"), Recorder.on_train_epoch_end
    with stop_after(epoch=1):
        train_folds(config, out.path)
    assert [len(rows_of(run)) for run in out.started(3).values()] == [1]
    with stop_after(epoch=2):
        train_folds(config, out.path)
    monkeypatch.setattr(Recorder, "on_train_epoch_end", record)
    calls = []

    def train_one(config, path, *, resume, extend, is_claimed, reasons):
        calls.append((config.dataset.fold, resume))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, path, resume=resume, extend=extend, is_claimed=is_claimed)

    monkeypatch.setattr("dlka_med.training.folds.train", train_one)
    with pytest.raises(KeyboardInterrupt):
        train_folds(config, out.path)
    assert "the same command goes on" in caplog.text
    assert not out.crossvalidation_file.exists()
    assert train_folds(config, out.path) == expected
    assert calls == [(1, False), (2, False), (2, False)]
    for fold in range(3):
        assert_same_weights(out.run(fold), whole.run(fold))


def test_interrupted_while_predicting_it_predicts_the_rest(config, complete, crossvalidated, trained, monkeypatch):
    made = sorted(complete.predictions.glob("*.nii.gz"))
    before = made[0].stat().st_mtime_ns
    for file in made[1:]:
        file.unlink()
    complete.crossvalidation_file.unlink()
    assert train_folds(config, complete.path) == crossvalidated[2]
    assert trained == []
    assert made[0].stat().st_mtime_ns == before
    assert sorted(complete.predictions.glob("*.nii.gz")) == made


def test_chosen_folds_are_trained_and_the_last_one_brings_the_result(config, trained, tmp_path, caplog, crossvalidated):
    with caplog.at_level(logging.INFO, "dlka_med"):
        assert train_folds(config, tmp_path / "run", [2, 0]) is None
    assert "when all folds are trained; missing: 1" in caplog.text
    assert train_folds(config, tmp_path / "run", [1]) == crossvalidated[2]
    assert trained == [(0, False), (2, False), (1, False)]
    with pytest.raises(InputError, match="there is no fold 3: the 3 folds are numbered 0 to 2"):
        train_folds(config, tmp_path / "run", [0, 3])
    with pytest.raises(InputError, match="there is no fold 3"):
        train_folds(config, tmp_path / "other", [3])
    assert not (tmp_path / "other").exists()


def test_shards_share_the_folds(config, trained, tmp_path, crossvalidated):
    assert train_folds(config, tmp_path / "run", shard=(0, 2)) is None
    assert trained == [(0, False), (2, False)]
    assert train_folds(config, tmp_path / "run", shard=(3, 4)) is None
    assert train_folds(config, tmp_path / "run", shard=(1, 2)) == crossvalidated[2]
    assert trained == [(0, False), (2, False), (1, False)]


def test_a_fold_that_another_process_trains_is_left_to_it(config, trained, tmp_path, caplog):
    with claimed(tmp_path / "run" / ".locks" / "fold_1.lock", wait=False), caplog.at_level(logging.INFO, "dlka_med"):
        assert train_folds(config, tmp_path / "run") is None
    assert trained == [(0, False), (2, False)]
    assert "fold 1: another process is training it" in caplog.text


def test_of_two_that_finish_together_one_makes_the_result(config, complete, trained, caplog, monkeypatch):
    """The other one waits for it, and leaves what it finds."""
    complete.crossvalidation_file.unlink()
    held = threading.Event()

    def finish_first():
        with claimed(complete.path / ".locks" / "all.lock", wait=True):
            held.set()
            deadline = time.monotonic() + 30
            while "waiting for another process" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            complete.crossvalidation_file.write_text('{"made by": "the other one"}')

    rival = threading.Thread(target=finish_first)
    shutil.move(complete.run(2).path, complete.path / ".moved")

    def train_last(config, out, *, resume, extend, is_claimed, reasons):
        shutil.move(complete.path / ".moved", out)
        rival.start()
        assert held.wait(30)

    monkeypatch.setattr("dlka_med.training.folds.train", train_last)
    with caplog.at_level(logging.INFO, "dlka_med"):
        assert train_folds(config, complete.path) is None
    rival.join()
    assert complete.crossvalidation_file.read_text() == '{"made by": "the other one"}'
    assert "another process has made" in caplog.text


def test_a_fold_that_is_about_to_end_is_joined_by_its_own_process(config, complete, trained, caplog):
    """Its files are whole before its process is; else both would make the result."""
    complete.crossvalidation_file.unlink()
    with claimed(complete.path / ".locks" / "fold_1.lock", wait=False), caplog.at_level(logging.INFO, "dlka_med"):
        assert train_folds(config, complete.path) is None
    assert "another process is about to end it" in caplog.text
    assert not complete.crossvalidation_file.exists()
    assert train_folds(config, complete.path)


def test_another_config_is_refused_by_its_key(config, complete, trained, grown):
    shutil.rmtree(complete.run(2).path)
    with pytest.raises(InputError, match=r"fold_0 with another config.*: seed: 7 asked, 0 in the run"):
        train_folds(config.model_copy(update={"seed": 7}), complete.path)
    with pytest.raises(InputError, match=r"fold_0 has trained for longer .*: training\.epochs is 2 there and 1 here"):
        train_folds(changed(config, epochs=1), complete.path)
    before = complete.folds_file.read_bytes()
    with pytest.raises(InputError, match=r"offset_limit: 2\.0 asked"):
        train_folds(changed(changed(config, "network", offset_limit=2.0), "dataset", root=str(grown)), complete.path)
    assert complete.folds_file.read_bytes() == before, "nobody joins a folder that is refused"
    assert trained == []


def test_folds_of_different_configs_make_no_result(config, complete, trained):
    """What the config leaves open, such as labels, may differ between folds that fit it all the same."""
    run = complete.run(1)
    save_config(changed(run.config, "dataset", labels={"background": 0, "sphere": 1}), run.config_file)
    words = r"trained with different configs: dataset\.labels is .*ball.* in fold_0 and .*sphere.* in fold_1; move away"
    with pytest.raises(InputError, match=words):
        train_folds(config, complete.path)
    assert trained == []


def test_a_fold_that_comes_with_another_length_makes_no_result(config, complete, monkeypatch):
    """Another process trains it meanwhile, with another config."""
    shutil.move(complete.run(2).path, complete.path / ".moved")

    def bring(asked, out, *, resume, extend, is_claimed, reasons):
        shutil.move(complete.path / ".moved", out)
        save_config(changed(complete.run(2).config, epochs=3), complete.run(2).config_file)

    monkeypatch.setattr("dlka_med.training.folds.train", bring)
    with pytest.raises(InputError, match=r"training\.epochs is 2 in fold_0 and 3 in fold_2"):
        train_folds(config, complete.path)


def test_more_epochs_train_all_folds_further(config, complete, trained, monkeypatch):
    def has_finished(run, budget):
        return budget.epochs == 2 or (int(run.path.name[-1]), True) in trained

    monkeypatch.setattr("dlka_med.training.folds.has_finished", has_finished)
    assert train_folds(changed(config, epochs=3), complete.path) is not None
    assert trained == [(0, True), (1, True), (2, True)]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_a_signal_ends_all_folds_and_the_same_call_goes_on(config, tmp_path, monkeypatch, caplog):
    step = SegmentationTask.on_train_batch_end

    def wish(self, *batch):
        step(self, *batch)
        os.kill(os.getpid(), signal.SIGUSR1)

    out = FoldsFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_batch_end", wish)
        assert train_folds(config, out.path) is None
    assert list(out.started(3)) == [0]
    assert out.run(0).weights_file.is_file()
    assert "the same command goes on with the folds" in caplog.text
    assert train_folds(config, out.path, [0]) is None
    assert int(rows_of(out.run(0))[-1]["step"]) == config.training.epochs * config.training.steps_per_epoch


def test_the_folds_of_a_folder_stay(config, complete, trained, tmp_path):
    with pytest.raises(InputError, match=r"dataset\.folds asks for 2 folds, but .*folds\.json holds 3"):
        train_folds(changed(config, "dataset", folds=2), complete.path)
    folds = read_folds(complete.folds_file)
    write_folds(tmp_path / "other.json", folds[1:] + folds[:1])
    with pytest.raises(InputError, match=r"the case ball_\d is in fold 0 of .*other\.json, but in fold 1 of"):
        train_folds(changed(config, "dataset", folds=str(tmp_path / "other.json")), complete.path)
    write_folds(tmp_path / "same.json", folds)
    assert train_folds(changed(config, "dataset", folds=str(tmp_path / "same.json")), complete.path)


def test_folds_that_were_trained_one_by_one_are_joined(config, complete, trained, crossvalidated):
    for file in (complete.folds_file, complete.crossvalidation_file):
        file.unlink()
    shutil.rmtree(complete.predictions)
    for run in complete.started(3).values():
        save_config(changed(run.config, "dataset", folds=3), run.config_file)
    assert train_folds(config, complete.path) == crossvalidated[2]
    assert trained == []


def test_a_run_that_was_trained_on_its_fold_is_refused(config, complete, trained):
    run = complete.run(1)
    content = json.loads(run.split_file.read_text())
    content["train"].append(content["validation"].pop())
    run.split_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"fold_1 was trained on 1 of the cases that validate in fold 1 of"):
        train_folds(config, complete.path)


def test_a_case_that_comes_later_joins_a_fold_and_the_result(config, complete, trained, grown):
    before = read_folds(complete.folds_file)
    times = {file.name: file.stat().st_mtime_ns for file in complete.predictions.glob("*.nii.gz")}
    content = train_folds(changed(config, "dataset", root=str(grown)), complete.path)
    assert trained == []
    assert read_folds(complete.folds_file) == ((*before[0], "ball_6"), *before[1:])
    assert content["all"]["cases"] == 7
    assert [entry["cases"] for entry in content["folds"]] == [3, 2, 2]
    assert {row["fold"] for row in content["scores"] if row["case"] == "ball_6"} == {0}
    assert all((complete.predictions / name).stat().st_mtime_ns == time for name, time in times.items())


def test_folds_of_a_file_are_trained_and_leaks_refused(config, trained, tmp_path):
    path = tmp_path / "leaking.json"
    write_folds(path, [["ball_0", "ball_2"], ["ball_1", "ball_4"]])
    asked = changed(config, "dataset", folds=str(path), test_cases=("ball_5",))
    with pytest.raises(InputError, match=r"1 groups lie in several folds.*folds_may_leak"):
        train_folds(asked, tmp_path / "run")
    assert not (tmp_path / "run" / "folds.json").exists()
    assert trained == []
    write_folds(path, [["ball_0", "ball_1"], ["ball_2"]])
    assert train_folds(asked, tmp_path / "run", [0]) is None
    assert read_folds(tmp_path / "run" / "folds.json") == (("ball_0", "ball_1"), ("ball_2", "ball_3"))


def test_what_is_no_folder_of_folds_is_refused(config, complete, trained, tmp_path):
    with pytest.raises(InputError, match="fold_0 holds a run already, no folds"):
        train_folds(config, complete.run(0).path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(InputError, match="notes exists already and is not empty"):
        train_folds(config, tmp_path / "notes")
    with pytest.raises(InputError, match="run exists already and is not empty"):
        train(config, complete.path)


def test_a_start_that_has_seen_a_later_fold_is_refused_before_the_first_trains(config, crossvalidated, tmp_path):
    start = changed(config, start_from=str(crossvalidated[1].run(0).path))
    with pytest.raises(InputError, match=r"were trained on 4 of the 6 cases that validate or test here"):
        train_folds(start, tmp_path / "run")
    assert not (tmp_path / "run" / "folds.json").exists()


def test_several_devices_train_one_fold_at_a_time(config, complete, trained, tmp_path):
    with pytest.raises(InputError, match=r"training\.devices is 2 .* or train fold 0 by itself with .*fold=0 --out"):
        train_folds(changed(config, devices=2, strategy="ddp"), tmp_path / "new")
    assert trained == []


@pytest.mark.slow
def test_torchrun_spreads_the_folds(config_file, tmp_path):
    short = ["-s", "training.epochs=1", "-s", "training.steps_per_epoch=1", "--folds", "all"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", "localhost:0"]
    typed = command(config_file, tmp_path / "run", *short)
    done = subprocess.run([typed[0], *launcher, *typed[1:]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean Dice") == 1, done.stderr
    content = json.loads(FoldsFolder(tmp_path / "run").crossvalidation_file.read_text())
    assert content["all"]["cases"] == 6
