"""All rules together, without a probe: every key has its value and its reason, and the budget is kept."""

from dataclasses import replace
from math import prod

import pytest

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.planning.choice import Budget
from dlka_med.planning.draft import Data, drafted, fitted
from dlka_med.planning.memory import kept_free
from dlka_med.planning.rules_network import sizes
from dlka_med.planning.rules_training import pace
from dlka_med.planning.summary import Structure

GIB = 2**30
SPEED = 180_000.0  # voxels per second


def data_of(summary, wanted=None):
    labels = {"background": 0} | {one.name: n for n, one in enumerate(summary.structures, 1)}
    return Data(summary, "folder", labels, wanted)


def nothing(config):
    return 0.0


def bytes_of(config):
    """A rough stand-in for the estimate: in proportion to window, batch and width."""
    training, network = config.training, config.network
    width = (network.channels[0] if hasattr(network, "channels") else 60) * sum(network.depths)
    share = 0.3 if network.checkpointing else 1
    return 4.0 * 40 * share * width * prod(training.patch_size) * training.batch_size + 0.1 * GIB


def keys(config):
    def walk(tree, before=""):
        for key, value in tree.items():
            if isinstance(value, dict) and key != "rates":
                yield from walk(value, f"{before}{key}.")
            else:
                yield f"{before}{key}"

    return set(walk(config.model_dump()))


SETS = {
    "hippocampus": dict(size=(35, 51, 36)),
    "nuclei": dict(size=(256, 320), spacing=(1.0, 1.0), channels=("R", "G", "B"), labels=1),
    "thick MR": dict(size=(300, 300, 9), spacing=(0.5, 0.5, 7.5)),
    "thick CT": dict(size=(400, 400, 40), spacing=(0.8, 0.8, 5.0), channels=("CT",)),
    "tiny": dict(size=(6, 5, 4), spacing=(2.0, 2.0, 2.0)),
    "four channels": dict(size=(138, 170, 140), channels=("T1", "T1c", "T2", "FLAIR"), labels=3),
    "one CT": dict(size=(122, 101, 30), spacing=(3.0, 3.0, 5.0), channels=("CT",), cases=1, labels=117),
    "photographs": dict(size=(1000, 1000), spacing=(1.0, 1.0), channels=("R", "G", "B"), labels=1),
    "16 bit": dict(size=(520, 696), spacing=(1.0, 1.0), channels=("DAPI",), labels=1),
    "body": dict(size=(512, 512, 600), spacing=(0.8, 0.8, 1.0), channels=("CT",), labels=30),
}


@pytest.mark.parametrize("budget", ["cpu", "gpu"])
@pytest.mark.parametrize("name", SETS)
def test_every_key_has_a_value_and_a_reason(summary, request, name, budget):
    draft = fitted(data_of(summary(**SETS[name])), request.getfixturevalue(budget), SPEED, nothing)
    assert set(draft.choices) == keys(draft.config)
    assert all(choice.reason for choice in draft.choices.values())
    assert not any("\n" in choice.reason for choice in draft.choices.values())
    assert RunConfig.model_validate(draft.config.model_dump(mode="json")) == draft.config


def test_twenty_minutes_of_two_cores_want_what_ships(summary, cpu):
    config = fitted(data_of(summary(**SETS["hippocampus"])), cpu, SPEED, nothing).config
    assert config.network.channels == (32, 64, 128)
    assert config.network.depths == (1, 1, 1)
    assert (config.network.full_resolution, config.network.full_resolution_channels) == ("stem", 16)
    assert config.network.deformation == ("absent", "absent", "dense")
    assert config.network.norm == "instance"
    assert config.training.growing == 0.6
    assert config.training.patch_size == (40, 56, 40)
    assert config.network.layer_scale == 0.01
    assert config.training.ema == 0.99
    assert (config.training.optimizer.name, config.training.optimizer.learning_rate) == ("adamw", 6e-3)
    assert config.preprocessing.spacing == (1.0, 1.0, 1.0)


def test_images_get_the_published_network_for_a_long_run_on_a_gpu_alone(summary, gpu, cpu):
    short = replace(gpu, minutes=20.0, epochs=None)
    for budget, name in ((gpu, "dlka_net_2d"), (short, "dlka_unet"), (cpu, "dlka_unet")):
        assert fitted(data_of(summary(**SETS["nuclei"])), budget, SPEED, nothing).config.network.name == name


def test_a_thousand_epochs_of_a_gpu_want_the_published_network(summary, gpu):
    config = fitted(data_of(summary(**SETS["body"])), gpu, 5e6, nothing).config
    assert config.network.depths == (3, 3, 3, 3)
    assert config.training.precision == "bf16"
    assert config.training.augmentation.low_resolution_probability == 0.25
    assert config.preprocessing.spacing > (0.8, 0.8, 1.0)


def test_labels_of_both_sides_keep_left_and_right_apart(summary, gpu):
    both = (
        Structure("kidney_left", 20, 0.1, (9.0,) * 3, 1.0, 9.0),
        Structure("kidney_right", 20, 0.1, (9.0,) * 3, 1.0, 9.0),
    )
    choices = fitted(data_of(summary(structures=both)), gpu, 5e6, nothing).choices
    assert choices["training.augmentation.flip_axes"].value == [1, 2]
    assert "left and right" in choices["training.augmentation.flip_axes"].reason


def test_slices_are_planned_as_large_as_they_are_seen(summary, gpu):
    brains = summary((140, 170, 140), stored=((240, 240, 155),) * 20)
    slices = fitted(data_of(brains, "dlka_net_2d"), gpu, 5e6, nothing)
    assert slices.choices["dataset.slices"].value == "axial"
    assert not slices.config.preprocessing.crop_foreground
    assert slices.config.training.patch_size == (256, 256)
    assert "the whole of a median case of 240x240" in slices.choices["training.patch_size"].reason
    assert fitted(data_of(brains, "dlka_net_3d"), gpu, 5e6, nothing).config.training.patch_size == (160, 192, 160)


def test_most_slices_meet_no_part_of_what_is_in_few(summary, gpu):
    flat = Structure("disc", 20, 0.01, (200.0, 200.0, 8.0), 1.0, 8.0)
    choices = fitted(data_of(summary((256, 256, 100), structures=(flat,)), "dlka_net_2d"), gpu, 5e6, nothing).choices
    assert choices["dataset.slices"].value == "axial"
    assert "in 8 % of its cases" in choices["training.foreground_oversampling"].reason
    assert choices["training.foreground_oversampling"].value == 0.5


@pytest.mark.parametrize("over", [1.001, 1.01, 1.1, 1.5])
def test_a_window_is_made_smaller_before_a_network(summary, over):
    """However little is lacking: a window of almost a whole case would be the whole one again."""
    data, ample = data_of(summary((64, 64, 64))), Budget("cpu", 64 * GIB, epochs=10)
    whole = fitted(data, ample, SPEED, bytes_of)
    room = bytes_of(whole.config) / over + kept_free(ample, whole.config.training.workers)
    smaller = fitted(data, replace(ample, memory=room), SPEED, bytes_of)
    assert smaller.size == whole.size
    assert bytes_of(smaller.config) < bytes_of(whole.config)


def test_what_was_probed_stays_when_its_time_is_known(summary, cpu):
    draft = fitted(data_of(summary(**SETS["tiny"])), cpu, SPEED, nothing)
    for seconds in (1e-3, 10.0):
        timed = draft.timed(cpu, seconds)
        assert timed.config.network == draft.config.network
        assert timed.config.training.patch_size == draft.config.training.patch_size
        assert timed.seconds == pytest.approx(seconds / pace(3, timed.config.training.growing, ends_by_time=True))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("gib", [1.5, 2, 4, 16])
def test_the_memory_is_kept(summary, name, gib):
    budget = Budget("cpu", gib * GIB, minutes=20)
    draft = fitted(data_of(summary(**SETS[name])), budget, SPEED, bytes_of)
    assert bytes_of(draft.config) <= gib * GIB


def test_more_memory_is_used(summary):
    windows = [
        fitted(data_of(summary(**SETS["body"])), Budget("cpu", gib * GIB, epochs=10), SPEED, bytes_of).window
        for gib in (2, 8, 32)
    ]
    assert windows == sorted(set(windows))


def test_a_budget_in_which_nothing_fits_says_what_would(summary):
    with pytest.raises(InputError, match=r"no network fits into 0.5 GiB.*give --memory 1\.\d or more") as refused:
        fitted(data_of(summary()), Budget("cpu", 0.5 * GIB, minutes=20), SPEED, bytes_of)
    enough = float(str(refused.value).partition("--memory ")[2].split()[0])
    assert fitted(data_of(summary()), Budget("cpu", enough * GIB, minutes=20), SPEED, bytes_of)


@pytest.mark.parametrize(("dims", "is_long"), [(2, False), (2, True), (3, False), (3, True)])
def test_sizes_need_less_and_less(summary, cpu, dims, is_long):
    name, wanted = "nuclei" if dims == 2 else "hippocampus", f"dlka_net_{dims}d"
    needs = [
        bytes_of(drafted(data_of(summary(**SETS[name]), wanted), cpu, size, is_long, 64**dims, SPEED).config)
        for size in sizes(wanted, dims, is_long)
    ]
    assert needs == sorted(set(needs), reverse=True)
