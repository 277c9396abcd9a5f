"""TensorBoard, MLflow and Weights & Biases: read back from where they write, against the run's own table."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dlka_med.data.raster import read_raster
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.loggers import MLflow, open_tool, plain
from dlka_med.training.reporting import Reporter
from dlka_med.training.train import train

from .runs import changed, rows_of

RGB = ("red", "green", "blue")
NOT_TESTED = "NOT TESTED: pip install {} to run this test"
SECRETS = {  # what a machine and a run could give away
    "MLFLOW_TRACKING_URI": None,
    "WANDB_MODE": None,
    "WANDB_API_KEY": "not-a-key",
    "WANDB_PROJECT": None,
}


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    """Nobody has asked for anything to be sent; an API key alone does not."""
    for name, value in SECRETS.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)


@pytest.fixture
def recorded(config, tmp_path):
    """Train with one logger, interrupted after the second of three epochs and resumed; gives the run."""

    def _recorded(name):
        wished = changed(config, loggers=(name,))
        out = tmp_path / "a run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reporter, "on_train_epoch_end", _report_and_stop)
            with pytest.raises(RuntimeError, match="power cut"):
                train(wished, out)
        return train(changed(wished, workers=1), out, resume=True)

    return _recorded


def _report_and_stop(self, trainer, task):
    self.report()
    if trainer.current_epoch + 1 == 2:
        raise RuntimeError("power cut")


def expected(rows):
    """The filled cells of metrics.csv, by what they are called in loggers and by step."""
    names = {"dice ball": "dice per label/ball"}
    return {
        (names.get(column, column), int(row["step"])): float(cell)
        for row in rows
        for column, cell in row.items()
        if cell and not column.startswith(("displacement", "outside", "at limit"))
    }


def validated_steps(rows):
    return [int(row["step"]) for row in rows if row["dice"]]


def dice_of_cases(rows, step):
    """Mean Dice of the table `[case, ball]` must be that of metrics.csv."""
    return float(next(row["dice"] for row in rows if int(row["step"]) == step))


def assert_no_paths(run, folder):
    """No file that could be sent says where the images lie, or the run."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for secret in (run.config.dataset.root, run.config.dataset.cache):
            assert secret is None or secret.encode() not in content, path


@pytest.mark.slow
def test_tensorboard_shows_the_table_of_the_run(recorded):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=NOT_TESTED.format("tensorboard")
    )
    run = recorded("tensorboard")
    rows = rows_of(run)
    read = accumulator.EventAccumulator(str(run.path / "tensorboard"), {"tensors": 0, "images": 0, "scalars": 0})
    read.Reload()
    events = [(name, event.step, event.value) for name in read.Tags()["scalars"] for event in read.Scalars(name)]
    found = {(name, step): value for name, step, value in events}
    assert len(found) == len(events), "no epoch is told twice"
    wanted = expected(rows)
    assert {key for key in found if not key[0].startswith(("displacement/", "outside", "at limit/"))} == set(wanted)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
    moved = [column for column in rows[-1] if column.startswith("displacement ")]
    assert moved
    for column in moved:
        assert found["displacement/" + column[13:], int(rows[-1]["step"])] == pytest.approx(float(rows[-1][column]))

    cases = run.split["validation"][:2]
    assert set(read.Tags()["images"]) == {f"case/{case}" for case in cases}
    for case in cases:
        pictures = read.Images(f"case/{case}")
        assert [picture.step for picture in pictures] == validated_steps(rows)
        assert pictures[0].width == 800
        assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
        assert len(pictures[0].encoded_image_string) < 300_000
    tables = read.Tensors("validation/text_summary")
    assert [table.step for table in tables] == validated_steps(rows)
    header, _, *lines = tables[-1].tensor_proto.string_val[0].decode().splitlines()
    assert header == "| case | ball |"
    assert [line.split("|")[1].strip().replace("\\", "") for line in lines] == list(run.split["validation"])
    mean = np.mean([float(line.split("|")[2]) for line in lines])
    assert mean == pytest.approx(dice_of_cases(rows, tables[-1].step), abs=1e-4)
    session = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"training.optimizer.learning_rate" in session
    assert_no_paths(run, run.path / "tensorboard")


def test_mlflow_keeps_the_table_of_the_run(recorded, tmp_path, config, caplog):
    pytest.importorskip("mlflow", reason=NOT_TESTED.format("mlflow-skinny"))
    from mlflow.tracking import MlflowClient

    run = recorded("mlflow")
    rows = rows_of(run)
    client = MlflowClient((run.path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("balls")
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.run_name == "a run"
    assert only.info.status == "FINISHED"
    found = {
        (name, point.step): point.value
        for name in only.data.metrics
        for point in client.get_metric_history(only.info.run_id, name)
    }
    assert len(client.get_metric_history(only.info.run_id, "loss")) == len(rows)
    for key, value in expected(rows).items():
        assert found[key] == pytest.approx(value, rel=1e-9), key
    assert only.data.params["training.optimizer.learning_rate"] == "0.01"
    assert only.data.params["dataset.fold"] == "0"
    assert "dataset.root" not in only.data.params
    folder = Path(client.download_artifacts(only.info.run_id, "", tmp_path))
    names = [f"step_{step:07d}" for step in validated_steps(rows)]
    assert sorted(path.stem for path in (folder / "validation").iterdir()) == names
    lines = (folder / "validation" / f"{names[-1]}.csv").read_text().splitlines()
    assert lines[0] == "case,ball"
    mean = np.mean([float(line.split(",")[1]) for line in lines[1:]])
    assert mean == pytest.approx(dice_of_cases(rows, validated_steps(rows)[-1]))
    for case in run.split["validation"][:2]:
        assert sorted(path.stem for path in (folder / "case" / case).iterdir()) == names
    assert_no_paths(run, run.path / "mlruns" / experiment.experiment_id / only.info.run_id)
    assert "fails" not in caplog.text

    # A copy goes on in itself, not in the store that it was copied from.
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    before = sorted(run.path.rglob("*"))
    longer = changed(config, loggers=("mlflow",), epochs=4)
    train(longer, copy.path, resume=True, extend=True)
    assert sorted(run.path.rglob("*")) == before
    moved = MlflowClient((copy.path / "mlruns").as_uri())
    (again,) = moved.search_runs([moved.get_experiment_by_name("balls 2").experiment_id])
    assert [point.step for point in moved.get_metric_history(again.info.run_id, "loss")] == [2, 4, 6, 8]


def test_wandb_stays_in_the_folder_of_the_run(recorded):
    wandb = pytest.importorskip("wandb", reason=NOT_TESTED.format("wandb"))
    run = recorded("wandb")
    assert wandb.run is None
    rows = rows_of(run)
    parts = sorted((run.path / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1, "both parts are of one run"
    identity = json.loads(run.loggers_file.read_text())["wandb"]
    assert identity == {"identity": parts[0].name.rpartition("-")[2], "epoch": 3}
    found = {}
    for part in parts:
        for record in _history(part):
            found |= {(name, record["trainer/global_step"]): value for name, value in record.items()}
    wanted = expected(rows)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-9), key
    for case in run.split["validation"][:2]:
        for step in validated_steps(rows):
            assert found[f"case/{case}/_type", step] == "images/separated"
    assert len(list((run.path / "wandb").rglob("*.table.json"))) == len(validated_steps(rows))
    assert_no_paths(run, run.path / "wandb")


def _records(content):
    """Records of LevelDB's log format after a header of 7 bytes: pieces with checksum, length and kind, in blocks."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last piece of one
            yield whole
            whole = b""


def _history(part):
    """What wandb logged, of its file of records."""
    from wandb.proto import wandb_internal_pb2

    (file,) = part.glob("*.wandb")
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_told_before_anything_is_made(config, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf'names {name}, .* pip install "dlka_med\[{name}\]"'):
        train(changed(config, loggers=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_not_there_is_told(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason=NOT_TESTED.format("mlflow-skinny"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(InputError, match="mlflow cannot record this run"):
        open_tool("mlflow", RunFolder(tmp_path), "balls", None)


def test_a_picture_that_one_logger_fails_to_send_is_there_for_the_others(tmp_path):
    picture, tool = tmp_path / "0.png", object.__new__(MLflow)
    picture.write_bytes(b"pixels")
    sent = SimpleNamespace(log_artifact=lambda *_: [][0])
    tool.identity, tool.logger = "run", SimpleNamespace(experiment=sent)
    with pytest.raises(IndexError):
        tool.picture("case/a", picture, 3)
    assert picture.read_bytes() == b"pixels"


def test_names_for_mlflow_are_plain_and_differ():
    assert plain("left lung_2.a-b") == "left lung_2.a-b"
    names = ["左肺", "右肺", "a/b", "a|b", ".", "..", "", " a", "tumour (core)", "x" * 400, "x" * 401]
    plains = [plain(name) for name in names]
    assert len(set(plains)) == len(names)
    for name in plains:
        assert all(letter.isascii() and (letter.isalnum() or letter in "_-. ") for letter in name)
        assert name.strip(". ")
        assert len(name) <= 200


def test_a_table_is_what_it_says_whatever_its_cells_are(tmp_path):
    """In TensorBoard's Markdown neither a bar in a name nor HTML breaks out of its cell."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=NOT_TESTED.format("tensorboard")
    )
    from markdown import markdown

    tool = open_tool("tensorboard", RunFolder(tmp_path), "balls", None)
    tool.table("validation", ["case", "a|b"], [["<img src=x>_1_", None], ["c", 0.5]], 3)
    tool.end("success")
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    text = read.Tensors("validation/text_summary")[0].tensor_proto.string_val[0].decode()
    html = markdown(text, extensions=["markdown.extensions.tables"])
    assert html.count("<th>") == 2
    assert html.count("<td>") == 4
    assert "<th>a|b</th>" in html
    assert "<img" not in html
    assert "<em>" not in html


def test_a_picture_arrives_as_it_was(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=NOT_TESTED.format("tensorboard")
    )
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tool = open_tool("tensorboard", RunFolder(tmp_path), "balls", None)
    tool.picture("case/a", tmp_path / "a.png", 3)
    tool.end("success")
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    (tmp_path / "b.png").write_bytes(read.Images("case/a")[0].encoded_image_string)
    assert np.array_equal(read_raster(tmp_path / "b.png", RGB), np.moveaxis(pixels, -1, 0))
