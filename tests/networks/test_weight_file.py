import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dlka_med.networks.weight_file import named_tensors, read_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Attack:
    """Runs a command where it is unpickled without care."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3, "optimizer_state_dict": {"state": {0: torch.zeros(9)}, "lr": 0.1}},
        {"model": {"state_dict": TENSORS}},
        {"model_state_dict": TENSORS, "plot_stuff": [np.float64(0.5), np.float32(2)], "best": np.zeros(3)},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_what_torch_saved(tmp_path, content, zipped):
    file = tmp_path / "checkpoint.model"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = read_weights(file)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, writer):
    file, trace = tmp_path / "bad.pth", tmp_path / "ran"
    content = {"state_dict": TENSORS, "extra": Attack(trace)}
    if writer == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ValueError, match=r"bad.pth holds .*could run code, so it is refused: if you trust it"):
        read_weights(file)
    assert not trace.exists()


def test_a_whole_module_is_refused_by_its_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"holds objects of torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "m.pth")


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_that_was_cut_off(tmp_path, kind, share):
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file({"a": torch.zeros(999)}, file)
    else:
        torch.save({"a": torch.zeros(999)}, file, _use_new_zipfile_serialization=kind == "zip")
    cut(file, share)
    with pytest.raises(ValueError, match=r"is no readable file of weights .*copy or download it again"):
        read_weights(file)


@pytest.mark.parametrize("text", ["hello\nworld\n", "<!DOCTYPE html><html></html>", "version https://git-lfs\n"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_text_is_no_file_of_weights(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="is no readable file of weights"):
        read_weights(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.pth"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"epoch": 3}, {"model": {"epoch": 3}}])
def test_without_named_tensors(content):
    with pytest.raises(ValueError, match=r"the file holds .*: expected a state dict, alone or under one of the keys"):
        named_tensors(content, "the file")
