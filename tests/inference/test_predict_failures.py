"""What happens to the other cases when memory or the disk runs out under one."""

import gzip
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from dlka_med import cli
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError, WriteError
from dlka_med.inference import predict as predict_module
from dlka_med.inference import predictor as predictor_module
from dlka_med.inference.budget import Budget
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import RunFolder

TOO_LARGE = 50
FAR_TOO_MUCH = 10**15
SHAPE = (6, 7, 8)


class Hungry(nn.Module):
    """Positive voxels are class 1; bright ones ask for more memory than there is."""

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.max() > TOO_LARGE:
            self.failure()
        return torch.cat([torch.zeros_like(x), x], dim=1)


def torch_lacks_memory():
    torch.empty(FAR_TOO_MUCH)


def numpy_lacks_memory():
    np.empty(FAR_TOO_MUCH)


def cuda_lacks_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run, and images of which the second is bright, in the working folder."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate(
        {
            "name": "run",
            "dataset": {"root": "data", "channels": ["T1"], "labels": {"background": 0, "tumour": 1}},
            "preprocessing": {"crop_foreground": False, "intensity": [{"kind": "none"}]},
            "network": {"name": "dlka_net_3d", "channels": [4, 8], "depths": [1, 1], "strides": [[2, 2, 2]] * 2}
            | {"supervised_scales": 1},
            "training": {"patch_size": [8, 8, 8]},
        }
    )
    folder = RunFolder.create(tmp_path / "run", config, {"train": [], "validation": [], "test": []})
    folder.weights_file.touch()
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Hungry(torch_lacks_memory))
    (tmp_path / "images").mkdir()
    for number in range(4):
        array = np.random.default_rng(number).normal(0, 2, SHAPE).astype(np.float32)
        array[0, 0, 0] = 2 * TOO_LARGE if number == 1 else 1
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "images" / f"scan{number}.nii.gz")
    return folder.path


def written():
    """What lies in the folder, without hidden locks and what is remembered of cases."""
    return sorted(path.name for path in Path("out").iterdir() if path.name not in (".locks", "cases.json"))


ALL_BUT_ONE = ["failed.json", "labels.json", "scan0.nii.gz", "scan2.nii.gz", "scan3.nii.gz"]


@pytest.mark.parametrize("failure", [torch_lacks_memory, numpy_lacks_memory, cuda_lacks_memory])
def test_a_case_that_runs_out_of_memory_is_reported_and_the_others_are_predicted(run, monkeypatch, caplog, failure):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Hungry(failure))
    with pytest.raises(InputError, match=r"1 of 4 cases could not be predicted.*\nscan1: there is not enough memory"):
        predict_images(run, "images", "out")
    assert written() == ALL_BUT_ONE
    image = nib.load("images/scan3.nii.gz").get_fdata()
    np.testing.assert_array_equal(np.asarray(nib.load("out/scan3.nii.gz").dataobj), image > 0)
    assert "case scan1 is left out: there is not enough memory" in caplog.text


def test_what_it_will_take_is_told_before_and_what_it_took_after(run, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"), pytest.raises(InputError):
        predict_images(run, "images", "out", memory=30)
    before, *_, after = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    told = re.fullmatch(
        r"expected per case: 0\.\d s of the network and ([\d.]+) GiB of memory, with 1 window of 8 x 8 x 8 voxels at "
        "once, summed on cpu",
        before,
    )
    measured = re.fullmatch(r"memory of the process at its peak: ([\d.]+) GiB", after)
    assert float(told[1]) > 0.1
    assert float(measured[1]) > 0.1


def test_a_limit_that_is_too_small_leaves_cases_out_with_what_they_need(run, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"4 of 4 cases .*\nscan0: it needs about [\d.]+ GiB .*: give --memory [\d.]+"):
        predict_images(run, "images", "out", memory=0.01)
    assert written() == ["failed.json", "labels.json"]
    assert cli.main(["predict", str(run), "images", "-o", "out", "--device", "cpu", "--memory", "0.01"]) == 2
    assert "give --memory" in capsys.readouterr().err


def test_a_large_case_is_left_out_before_it_is_read_and_the_others_are_predicted(run, monkeypatch):
    """Its header claims what nobody could hold."""
    huge = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    nib.save(huge, "images/scan1.nii.gz")
    raw = bytearray(gzip.decompress(Path("images/scan1.nii.gz").read_bytes()))
    raw[42:48] = np.array([30000] * 3, "<i2").tobytes()
    Path("images/scan1.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(InputError, match=r"1 of 4 cases could not.*\nscan1: it needs about 2\d{5}\.\d\d GiB of memory"):
        predict_images(run, "images", "out")
    assert written() == ALL_BUT_ONE


@pytest.mark.parametrize("room", [False, True])
def test_cases_are_read_and_written_beside_the_network_only_where_that_fits(run, monkeypatch, room):
    """Without room every step waits for the one before; with room the network has the second case while the first is
    still being written."""
    events, second = [], threading.Event()
    prepare, write, segment = predictor_module.prepare, predict_module.write_label_map, Predictor.segment
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Hungry(lambda: None))

    def noting(what, function):
        def call(*given, **options):
            if what == "predicted" and events.count("predicted") == 1:
                second.set()
            if what == "written" and room:
                assert second.wait(20)
            answer = function(*given, **options)
            events.append(what)
            return answer

        return call

    monkeypatch.setattr(predictor_module, "prepare", noting("prepared", prepare))
    monkeypatch.setattr(Predictor, "segment", noting("predicted", segment))
    monkeypatch.setattr(predict_module, "write_label_map", noting("written", write))
    monkeypatch.setattr(predict_module.Budget, "beside", lambda *_: (room, room))
    predict_images(run, "images", "out")
    in_turn = ["prepared", "predicted", "written"] * 4
    assert (events == in_turn) is not room
    assert sorted(events) == sorted(in_turn)


def test_why_cases_failed_stands_in_a_file_until_they_are_predicted(run, monkeypatch):
    with pytest.raises(InputError, match=r"1 of 4 cases .* the reasons in failed\.json there"):
        predict_images(run, "images", "out")
    (reason,) = json.loads(Path("out/failed.json").read_text()).items()
    assert reason[0] == "scan1"
    assert reason[1].startswith("there is not enough memory")
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Hungry(lambda: None))
    assert predict_images(run, "images", "out", skip_existing=True) == [Path("out/scan1.nii.gz")]
    assert written() == sorted({*ALL_BUT_ONE, "scan1.nii.gz"} - {"failed.json"})


@pytest.mark.parametrize("target", ["scan2.nii.gz", "nowhere.nii.gz"])
def test_a_link_that_leads_to_no_file_does_not_lose_the_others(run, target):
    Path("images/scan2.nii.gz").unlink()
    os.symlink(target, "images/scan2.nii.gz")
    Path("images/scan1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of 3 cases could not be predicted .the others are in out"):
        predict_images(run, "images", "out")
    assert {"scan0.nii.gz", "scan3.nii.gz", "failed.json"} <= set(os.listdir("out"))
    reason = "scan2.nii.gz is a link that leads to no file: mend or remove it"
    assert reason in json.loads(Path("out/failed.json").read_text())["scan2"]


def test_where_all_cases_fail_there_are_no_others(run):
    with pytest.raises(InputError, match=r"1 of 1 cases could not be predicted .the reasons are in out/failed\.json."):
        predict_images(run, "images/scan1.nii.gz", "out")


def test_what_nobody_foresaw_while_a_file_is_read_does_not_lose_the_others(run, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Hungry(lambda: None))
    prepare = predictor_module.prepare

    def stumbles(case, *others):
        if case.id == "scan1":
            raise ZeroDivisionError("strange header")
        return prepare(case, *others)

    monkeypatch.setattr(predictor_module, "prepare", stumbles)
    with pytest.raises(InputError, match=r"scan1: .*scan1\.nii\.gz cannot be read \(ZeroDivisionError: strange header"):
        predict_images(run, "images", "out")
    assert written() == ALL_BUT_ONE


def test_what_no_header_tells_is_refused_once_it_is_prepared(run, monkeypatch):
    monkeypatch.setattr(Budget, "expected", lambda self, case: None)
    with pytest.raises(InputError, match=r"4 of 4 cases .*\nscan0: it needs about [\d.]+ GiB .*: give --memory [\d.]+"):
        predict_images(run, "images", "out", memory=0.01)
    assert not list(Path("out").glob("*.nii.gz"))


def test_a_lack_of_memory_for_many_windows_is_answered_with_fewer(run, monkeypatch, caplog):
    class Small(Hungry):
        def forward(self, x):
            if len(x) > 1:
                cuda_lacks_memory()
            return super().forward(x)

    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Small(lambda: None))
    config = RunFolder.open(run).config
    training = config.training.model_copy(update={"patch_size": (4, 4, 4)})
    inference = config.inference.model_copy(update={"batch_size": 4})
    changed = config.model_copy(update={"training": training, "inference": inference})
    other = RunFolder.create(run.parent / "other", changed, {"train": [], "validation": [], "test": []})
    other.weights_file.touch()
    predict_images(other.path, "images", "out")
    for number in range(4):
        image = nib.load(f"images/scan{number}.nii.gz").get_fdata()
        np.testing.assert_array_equal(np.asarray(nib.load(f"out/scan{number}.nii.gz").dataobj), image > 0)
    assert "fewer windows pass the network at once (1) from here on" in caplog.text


def test_so_is_one_that_runs_out_of_memory_while_it_is_prepared_ahead(run, monkeypatch):
    prepare = predictor_module.prepare

    def prepare_or_fail(case, *others):
        if case.id == "scan1":
            np.empty(FAR_TOO_MUCH)
        return prepare(case, *others)

    monkeypatch.setattr(predictor_module, "prepare", prepare_or_fail)
    with pytest.raises(InputError, match=r"scan1: there is not enough memory \(Unable to allocate"):
        predict_images(run, "images", "out")
    assert written() == ALL_BUT_ONE


def test_the_command_ends_with_code_2(run, capsys):
    assert cli.main(["predict", str(run), "images", "-o", "out", "--device", "cpu"]) == 2
    assert "scan1: there is not enough memory" in capsys.readouterr().err
    assert written() == ALL_BUT_ONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: this system has no /dev/full")
def test_a_full_disk_ends_the_work_at_once_and_leaves_nothing_half_written(run, monkeypatch, capsys):
    asked = []
    mkstemp = tempfile.mkstemp

    def on_full_disk(prefix, suffix, dir):
        handle, name = mkstemp(prefix=prefix, suffix=suffix, dir=dir)
        if suffix.endswith(".nii.gz"):
            asked.append(suffix)
            os.unlink(name)
            os.symlink("/dev/full", name)
        return handle, name

    monkeypatch.setattr("dlka_med.files.tempfile.mkstemp", on_full_disk)
    with pytest.raises(WriteError, match=r"scan0\.nii\.gz cannot be written, no space is left on its disk"):
        predict_images(run, "images", "out")
    assert asked == ["-scan0.nii.gz"]
    assert written() == ["labels.json"]
    assert cli.main(["predict", str(run), "images", "-o", "out", "--device", "cpu"]) == 2
    assert "scan0.nii.gz cannot be written" in capsys.readouterr().err
    assert written() == ["labels.json"]


def test_a_folder_that_closes_ends_the_work_at_once(run, monkeypatch):
    write, calls = predict_module.write_label_map, []

    def close_first(path, *others, **options):
        calls.append(path)
        shutil.move(Path(path).parent, "elsewhere")
        Path("out").touch()
        write(path, *others, **options)

    monkeypatch.setattr(predict_module, "write_label_map", close_first)
    with pytest.raises(WriteError, match="cannot write to the folder out"):
        predict_images(run, "images", "out")
    assert len(calls) == 1
