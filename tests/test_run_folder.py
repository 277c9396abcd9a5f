"""The layout of a run: made whole, opened with care, weights that fit."""

import codecs
import json
from pathlib import Path

import pytest
import torch

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder, build_run_network

SPLIT = {"train": ["a", "b"], "validation": ["c"], "test": []}
NETWORK = {"name": "dlka_net_3d", "channels": [4, 8], "depths": [1, 1], "strides": [[2, 2, 2], [2, 2, 2]]}


def config(**network) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "dataset": {"root": "data", "channels": ["T1"], "labels": {"background": 0, "tumour": 7}},
            "network": NETWORK | {"full_resolution_channels": 4, "supervised_scales": 2} | network,
            "training": {"patch_size": [8, 8, 8]},
        }
    )


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", config(), SPLIT)


def test_what_is_created_is_opened_again(run):
    found = RunFolder.open(str(run.path))
    assert found == run
    assert found.config == config()
    assert found.split == {"train": ("a", "b"), "validation": ("c",), "test": ()}
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "split.json"]


def test_a_folder_with_something_in_it_is_refused(run, tmp_path):
    run.save_weights({"a": torch.zeros(1)})
    for path in (run.path, tmp_path):
        with pytest.raises(InputError, match="not empty"):
            RunFolder.create(path, config(), SPLIT)
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", config(), SPLIT)


def test_zscore_of_older_runs_leaves_out_zeros_as_they_were_trained(run):
    kinds = tuple(Intensity(kind=kind) for kind in ("zscore", "none"))
    resolved = config().model_copy(update={"preprocessing": Preprocessing(intensity=kinds)})
    RunFolder.create(run.path, resolved, SPLIT)
    assert RunFolder(run.path).config == resolved
    lines = run.config_file.read_text().splitlines(keepends=True)
    run.config_file.write_text("".join(line for line in lines if "cache_gib" not in line))
    assert [kind.kind for kind in RunFolder(run.path).config.preprocessing.intensity] == ["zscore_nonzero", "none"]


def test_offsets_of_older_runs_have_no_limit_as_they_were_trained(run):
    assert run.config.network.offset_limit == 8
    lines = run.config_file.read_text().splitlines(keepends=True)
    new = ("cache_gib", "offset_limit", "offset_rate")
    run.config_file.write_text("".join(line for line in lines if not line.strip().startswith(new)))
    older = RunFolder(run.path).config
    assert (older.network.offset_limit, older.training.optimizer.offset_rate) == (None, 1.0)


def test_a_run_that_has_learned_nothing_is_filled_anew(run):
    run.reasons_file.write_text('{"seed": "of the config before"}')
    RunFolder.create(run.path, config(deformation="none"), SPLIT | {"test": ["d"]})
    assert not run.reasons_file.exists()
    again = RunFolder.open(run.path)
    assert again.config.network.deformation == "none"
    assert again.split["test"] == ("d",)


def test_unresolved_names_and_a_wrong_split_are_refused_and_leave_nothing(tmp_path):
    unresolved = config().model_copy(update={"dataset": config().dataset.model_copy(update={"labels": None})})
    with pytest.raises(ValueError, match="resolve"):
        RunFolder.create(tmp_path / "run", unresolved, SPLIT)
    with pytest.raises(ValueError, match="validation"):
        RunFolder.create(tmp_path / "run", config(), {"train": [], "val": [], "test": []})
    assert list(tmp_path.iterdir()) == []


def test_opening_what_is_no_run_says_what_it_is(run, tmp_path):
    with pytest.raises(InputError, match=r"no run folder .*ruin; did you mean .*run"):
        RunFolder.open(tmp_path / "ruin")
    with pytest.raises(InputError, match=r"config.yaml and split.json missing; it holds runs: run"):
        RunFolder.open(tmp_path)
    with pytest.raises(InputError, match=r"is a file.*its folder .*run may be meant"):
        RunFolder.open(run.config_file)
    run.split_file.unlink()
    with pytest.raises(InputError, match=r"split.json missing"):
        RunFolder.open(run.path)


def test_a_config_without_names_is_no_run(run):
    text = run.config_file.read_text().replace("[T1]", "null")
    run.config_file.write_text(text)
    with pytest.raises(InputError, match=r"config.yaml: dataset.channels is null"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("content", ["{", "[]", '{"train": []}', json.dumps(SPLIT | {"test": "abc"})])
def test_a_damaged_split_is_refused(run, content):
    run.split_file.write_text(content)
    with pytest.raises(InputError, match=r"split.json.*case ids"):
        _ = RunFolder.open(run.path).split


def test_weights_come_back_with_what_was_said_about_them(run):
    network = build_run_network(run.config)
    run.save_weights(network.state_dict(), {"epoch": 3})
    run.save_weights(network.state_dict(), {"epoch": 4, "dice": 0.5})
    assert run.weights_metadata == {"epoch": "4", "dice": "0.5"}
    loaded = run.load_network()
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in network.state_dict().items())
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network.eval()(image))
    assert loaded(image).shape == (1, 2, 8, 8, 8)
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "split.json", "weights.safetensors"]


def test_tensors_of_any_memory_layout_are_saved(run):
    shared = torch.arange(6.0)
    last = torch.randn(1, 3, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d)
    run.save_weights({"a": shared, "b": shared, "c": shared[::2], "d": last})
    weights = run.load_weights()
    assert torch.equal(weights["d"], last)
    assert torch.equal(weights["b"], shared)
    assert torch.equal(weights["c"], shared[::2])


def test_missing_and_damaged_weights_are_named(run):
    with pytest.raises(InputError, match=r"weights.safetensors is missing"):
        run.load_network()
    run.save_weights(build_run_network(run.config).state_dict())
    content = run.weights_file.read_bytes()
    for broken in (b"", content[: len(content) // 2], b"\x80\x04" + content):
        run.weights_file.write_bytes(broken)
        with pytest.raises(InputError, match=r"weights.safetensors cannot be read"):
            run.load_weights()


def test_weights_of_another_network_name_the_first_differences(run, tmp_path):
    other = RunFolder.create(tmp_path / "other", config(channels=[4, 12]), SPLIT)
    run.save_weights(build_run_network(other.config).state_dict())
    with pytest.raises(InputError, match=r"another network.*tensors differ, the first: .*\(8,.*\(12,") as error:
        run.load_network()
    assert str(error.value).count(" in the file") == 3

    run.save_weights({**build_run_network(run.config).state_dict(), "extra.weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"1 tensors differ.*extra.weight: \(2,\) in the file, absent in"):
        run.load_network()


def test_arguments_that_contradict_each_other_name_the_run():
    run = config()
    unchecked = run.model_copy(update={"network": run.network.model_copy(update={"supervised_scales": 9})})
    with pytest.raises(InputError, match=r"the run tiny cannot be built: .*scales"):
        build_run_network(unchecked)


def test_pretrained_weights_are_for_fresh_networks_only(tmp_path):
    """A finished run needs no download, and a missing file is the mistake of the config."""
    network = {"name": "dlka_net_2d", "encoder": "test_convnext", "depths": [1, 1, 1], "deformation": "none"}
    settings = config().model_dump() | {"network": network, "training": {"patch_size": [32, 32]}}
    run = RunFolder.create(tmp_path / "run", RunConfig.model_validate(settings), SPLIT)
    run.save_weights(build_run_network(run.config).state_dict())
    settings["network"] = network | {"pretrained": str(tmp_path / "nowhere.pth")}
    wishing = RunFolder.create(tmp_path / "wishing", RunConfig.model_validate(settings), SPLIT)
    wishing.save_weights(run.load_weights())
    with pytest.raises(InputError, match=r"the network of the run tiny cannot be built: .*nowhere\.pth"):
        build_run_network(wishing.config)
    assert wishing.load_network()(torch.zeros(1, 1, 20, 40)).shape == (1, 2, 20, 40)


def test_a_run_that_windows_edited_is_read(run):
    expected = RunFolder(run.path)
    config, split = expected.config, expected.split
    for file in (run.config_file, run.split_file):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes().replace(b"\n", b"\r\n"))
    assert (RunFolder(run.path).config, RunFolder(run.path).split) == (config, split)
    run.split_file.write_bytes(json.dumps(SPLIT).encode("utf-16"))
    with pytest.raises(InputError, match=r"split\.json.* is saved as UTF-16"):
        _ = RunFolder(run.path).split


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b"])
def test_a_run_that_cannot_be_is_told_in_few_words(path):
    for look in (RunFolder.open, lambda place: RunFolder(Path(place)).refuse_started()):
        with pytest.raises(InputError) as told:
            look(path)
        assert len(str(told.value)) < 700
