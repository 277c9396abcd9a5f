"""What several devices agree on, and that they train as one."""

import json
import os
import signal
import subprocess
import traceback
from contextlib import suppress

import pytest
import torch
from torch import distributed, nn

from dlka_med.run_folder import RunFolder
from dlka_med.training.devices import agree, merge, share_buffers

from .runs import command, rows_of

TWO = ("training.devices=2", "training.strategy=ddp")


def talk(rank, file, out):
    """What one of two processes says in the end, or the error that it met."""
    try:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
        distributed.broadcast_object_list = None  # it pickles
        norm = nn.BatchNorm1d(3).train()
        norm(torch.arange(12.0).reshape(4, 3) * (1 + rank))
        share_buffers(norm)
        found = {
            "agreed": agree([1.5 + rank, 1e9 + rank + 0.001], torch.device("cpu")),
            "merged": merge({f"case_{rank}": [None, 0.5]}),
            "mean": norm.running_mean.tolist(),
            "batches": int(norm.num_batches_tracked),
        }
    except Exception:
        found = {"error": traceback.format_exc()}
    out.write_text(json.dumps(found))


def trained_alone(config_file, out, *settings):
    """The run of a command in a process of its own, which starts more for more devices; each computes on one thread."""
    words = [word for setting in settings for word in ("-s", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(config_file, out, *words), check=True, timeout=300, env=environment)
    return RunFolder.open(out)


def test_two_processes_agree_on_what_the_first_one_says(tmp_path):
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            signal.alarm(60)
            with suppress(BaseException):
                talk(rank, tmp_path / "meeting", tmp_path / str(rank))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    assert first["agreed"] == [1.5, 1e9 + 0.001]
    assert first["merged"] == {"case_0": [None, 0.5], "case_1": [None, 0.5]}
    assert first["mean"] == pytest.approx([0.45, 0.55, 0.65])


def test_one_process_agrees_with_itself():
    assert agree([1, 2.5], torch.device("cpu")) == [1, 2.5]
    assert merge({"a": [1]}) == {"a": [1]}
    norm = nn.BatchNorm1d(3)
    share_buffers(norm)
    assert norm.running_mean.tolist() == [0, 0, 0]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_batch_of_both(config_file, tmp_path):
    # Without batch statistics, dropout and batch Dice the gradient of both halves is their mean.
    same = ["network.norm=instance", "network.dropout=0", "training.loss.dice_weight=0", "training.epochs=2"]
    same += ["training.steps_per_epoch=3"]
    one = trained_alone(config_file, tmp_path / "one", *same, "training.batch_size=4")
    two = trained_alone(config_file, tmp_path / "two", *same, *TWO)
    assert [int(row["step"]) for row in rows_of(two)] == [3, 6]
    assert json.loads(two.split_file.read_text())["validation"]
    for key in ("loss", "dice"):
        assert float(rows_of(two)[-1][key]) == pytest.approx(float(rows_of(one)[-1][key]), abs=1e-3)
    weights = two.load_weights()
    for name, tensor in one.load_weights().items():
        torch.testing.assert_close(
            weights[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name} {text}"
        )


@pytest.mark.slow
def test_of_two_processes_the_first_alone_tells_the_loggers(config_file, tmp_path, capfd):
    """One file of events, each figure and each picture once, and a table with the cases of both.

    TensorBoard's logger is silent in the second process anyway: who opens one says so on the screen that both share.
    """
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="NOT TESTED: pip install tensorboard to run this test",
    )
    settings = ["training.loggers=[tensorboard]", "training.epochs=2"]
    settings += ["training.validate_every=1", "training.steps_per_epoch=2"]
    run = trained_alone(config_file, tmp_path / "run", *TWO, *settings)
    steps = [int(row["step"]) for row in rows_of(run)]
    assert len(steps) == 2
    assert capfd.readouterr().err.count("tensorboard records this run") == 1
    assert len(list((run.path / "tensorboard").rglob("*tfevents*"))) == 1
    assert list(json.loads(run.loggers_file.read_text())) == ["tensorboard"]
    read = accumulator.EventAccumulator(str(run.path / "tensorboard"), {"tensors": 0, "images": 0, "scalars": 0})
    read.Reload()
    assert [event.step for event in read.Scalars("loss")] == steps
    drawn = read.Tags()["images"]
    assert drawn
    for name in drawn:
        assert name.removeprefix("case/") in run.split["validation"]
        assert [picture.step for picture in read.Images(name)] == steps
    _, _, *lines = read.Tensors("validation/text_summary")[-1].tensor_proto.string_val[0].decode().splitlines()
    told = sorted(line.split("|")[1].strip().replace("\\", "") for line in lines)
    assert told == sorted(run.split["validation"])
    assert len(told) > len(drawn)  # those that the other process validated among them


@pytest.mark.slow
def test_two_processes_end_by_the_clock_at_the_same_step(config_file, tmp_path):
    settings = [
        "training.epochs=null",
        "training.minutes=0.1",
        "training.validate_every=1",
        "training.steps_per_epoch=5",
    ]
    run = trained_alone(config_file, tmp_path / "run", *TWO, *settings)
    assert rows_of(run)[-1]["dice"]
    assert run.load_weights()
