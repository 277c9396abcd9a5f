"""What loggers are told, by stand-ins for them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlka_med.config.loading import load_config
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.loggers import TOOLS, Tool
from dlka_med.training.reporting import Reporter, hyperparameters, tag
from dlka_med.training.resume import with_absolute_paths
from dlka_med.training.train import train

from .runs import changed, rows_of


class Listener(Tool):
    """Writes down what it is told; fails as long as `broken` says so."""

    place = "here"
    told: list = []  # noqa: RUF012
    broken = False

    def __init__(self, run, experiment, identity):
        self.identity = identity or "new"
        self._note("open", identity)

    def _note(self, *what):
        if Listener.broken:
            raise ConnectionError("no answer")
        Listener.told.append(what)

    def begin(self, hyperparameters, columns):
        self._note("begin", hyperparameters["training.epochs"])

    def scalars(self, values, step):
        self._note("scalars", values["epoch"], step)

    def table(self, name, columns, rows, step):
        self._note("table", step)

    def picture(self, name, file, step):
        assert file.read_bytes().startswith(b"\x89PNG")
        self._note(name, step)

    def end(self, how):
        self._note("end", how)


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setitem(TOOLS, "tensorboard", Listener)
    monkeypatch.setattr(Listener, "told", [])
    monkeypatch.setattr(Listener, "broken", False)
    monkeypatch.setattr("dlka_med.training.pictures.overlay", lambda *a, **k: Path(a[4]).write_bytes(b"\x89PNG"))
    return Listener


def pictures(run, step):
    return [(f"case/{case}", step) for case in run.split["validation"][:2]]


def test_each_epoch_is_told_once_over_interruptions(config, tmp_path, listener, stop_after):
    config = changed(config, loggers=("tensorboard",))
    with stop_after(epoch=2):  # recorded, but not told yet
        train(config, tmp_path / "run")
    assert listener.told == [("open", None), ("begin", 3), ("scalars", 1, 2), ("end", "failed")]
    listener.told.clear()
    run = train(config, tmp_path / "run", resume=True)
    last = [("table", 6), *pictures(run, 6), ("end", "success")]
    assert listener.told == [("open", "new"), ("scalars", 2, 4), ("scalars", 3, 6), *last]
    assert json.loads(run.loggers_file.read_text()) == {"tensorboard": {"identity": "new", "epoch": 3}}
    listener.told.clear()
    train(config, tmp_path / "run", resume=True)
    assert listener.told == [], "a finished run has nothing to tell"


def test_a_logger_that_joins_later_is_told_all(config, tmp_path, listener, stop_after):
    with stop_after(epoch=2):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "loggers.json").exists()
    train(changed(config, loggers=("tensorboard",)), tmp_path / "run", resume=True)
    assert listener.told[:5] == [
        *(("open", None), ("begin", 3)),
        *(("scalars", 1, 2), ("scalars", 2, 4), ("scalars", 3, 6)),
    ]


@pytest.mark.slow
def test_a_logger_that_fails_does_not_end_the_training(config, tmp_path, listener, monkeypatch, caplog):
    config = changed(config, loggers=("tensorboard",))
    monkeypatch.setattr("dlka_med.training.task.SegmentationTask.on_train_epoch_end", _break_after_first, raising=False)
    run = train(config, tmp_path / "run")
    assert "tensorboard fails (no answer)" in caplog.text
    assert caplog.text.count("fails") == 1
    assert len(rows_of(run)) == 3
    assert json.loads(run.loggers_file.read_text())["tensorboard"]["epoch"] == 1
    listener.broken = False
    listener.told.clear()
    monkeypatch.undo()
    monkeypatch.setitem(TOOLS, "tensorboard", Listener)
    train(changed(config, epochs=4), run.path, resume=True, extend=True)
    assert [what[1] for what in Listener.told if what[0] == "scalars"] == [2, 3, 4]


def _break_after_first(task):
    Listener.broken = True


def test_a_logger_that_cannot_begin_is_told_before_a_step(config, tmp_path, listener):
    listener.broken = True
    with pytest.raises(InputError, match=r"tensorboard cannot record this run \(no answer\)"):
        train(changed(config, loggers=("tensorboard",)), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.ckpt").exists()


def test_only_the_first_device_tells(config, tmp_path, listener):
    config = changed(config, loggers=("tensorboard",))
    recorder = SimpleNamespace(rows=[{"epoch": 1, "step": 2}])
    reporter = Reporter(config, RunFolder(tmp_path / "run"), recorder, SimpleNamespace(found={}), None)
    reporter.on_train_start(SimpleNamespace(is_global_zero=False), None)
    reporter.on_train_epoch_end(SimpleNamespace(is_global_zero=False), None)
    assert listener.told == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"tensorboard": {"epoch": 1}}', '{"tensorboard": 3}'])
def test_a_damaged_record_is_refused(config, finished, listener, text):
    finished.loggers_file.write_text(text)
    config = changed(config, epochs=2, steps_per_epoch=1, loggers=("tensorboard",))
    with pytest.raises(InputError, match=r"loggers\.json is damaged: remove it"):
        train(config, finished.path, resume=True, extend=True)


def test_how_a_run_ended_is_told(config, tmp_path, listener):
    for error, how in ((KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted"), (MemoryError, "failed")):
        reporter = Reporter(config, RunFolder(tmp_path), None, None, None)
        reporter.tools = {"tensorboard": Listener(None, "", None)}
        with pytest.raises(error), reporter.ending():
            raise error
        assert listener.told[-1] == ("end", how)


def test_columns_of_one_kind_stand_together():
    columns = ["epoch", "loss", "dice", "best_dice", "dice left/right", "outside undeformed a.b", "outside a.b"]
    assert list(map(tag, columns)) == [
        *("epoch", "loss", "dice", "best_dice", "dice per label/left/right"),
        *("outside undeformed/a.b", "outside/a.b"),
    ]


def test_hyperparameters_hold_no_absolute_path(config):
    names = {"root": "data", "groups": "groups.csv", "cache": "cache", "folds": "folds.json"}
    known = with_absolute_paths(changed(changed(config, "dataset", **names), start_from="other"))
    found = hyperparameters(known)
    lacking = {"dataset.root", "dataset.groups", "dataset.cache", "dataset.folds", "training.start_from"}
    assert not lacking & found.keys()
    assert str(Path.cwd()) not in json.dumps(found)
    assert hyperparameters(changed(config, "dataset", root="C:\\data")).keys() & lacking == lacking - {"dataset.root"}
    assert found["training.optimizer.learning_rate"] == 0.01
    assert found["training.patch_size"] == "[12, 16, 12]"
    assert found["training.minutes"] == "null"
    assert found["network.position_embedding"] is False
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_a_logger_is_named_once_and_known(config_file):
    assert load_config(config_file, ["training.loggers=[wandb, mlflow]"]).training.loggers == ("wandb", "mlflow")
    assert load_config(config_file).training.loggers == ()
    with pytest.raises(InputError, match=r"training\.loggers.*wandb is named twice"):
        load_config(config_file, ["training.loggers=[wandb, mlflow, wandb]"])
    with pytest.raises(InputError, match=r"training\.loggers.*tensorboard"):
        load_config(config_file, ["training.loggers=[tensorbord]"])
