"""A network and its variants: alike but for what deforms, compared in one folder, refused by name."""

import json

import pytest

from dlka_med.comparing.ablation import AS_IS, ablation, left_out_of, variants_of
from dlka_med.comparing.compare import ablate
from dlka_med.comparing.folder import ComparisonFolder, RunKey
from dlka_med.config.loading import load_config
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder, build_run_network

from .conftest import SMALL, light

TRAINING = {"epochs": 1, "steps_per_epoch": 3, "workers": 0, "accelerator": "cpu", "patch_size": (16, 16, 16)}


def config_of(root="nowhere", network=None, **training):
    if network is None:
        network = {"name": "dlka_net_3d", **SMALL["dlka_net_3d"], "supervised_scales": 2}
    names = {"channels": ("MRI",), "labels": {"background": 0, "ball": 1}}
    sections = {"dataset": {"root": str(root), "folds": 3, **names}, "training": TRAINING | training}
    return RunConfig.model_validate({"name": "balls", "network": network, **sections})


def deforming(*gates):
    """A config of two stages with these gates."""
    config = config_of()
    return config.model_copy(update={"network": config.network.model_copy(update={"deformation": gates})})


def gates_of(config, **more):
    return {name: variant.network.deformation for name, variant in variants_of(config, **more).items()}


def flat_2d(gate):
    network = {"name": "dlka_net_2d", "encoder": "resnet18", "depths": (1, 1, 1), "deformation": gate}
    return config_of(network=network, patch_size=(64, 64))


@pytest.mark.parametrize("config", [deforming("dense", "dense"), flat_2d("depthwise")], ids=["dense", "depthwise"])
def test_a_wide_network_has_exactly_the_parameters(config):
    counts = {}
    for name, variant in variants_of(config).items():
        parameters = build_run_network(variant, pretrained=False).parameters()
        counts[name] = sum(parameter.numel() for parameter in parameters)
    assert counts["wide"] == counts[AS_IS]
    assert counts[AS_IS] > counts["still"] > counts["absent"]


def test_variants_are_alike_but_for_what_deforms():
    config = deforming("dense", "none")
    variants = variants_of(config, by_stage=True)
    assert variants[AS_IS] == config
    for variant in variants.values():
        network = variant.network.model_copy(update={"deformation": config.network.deformation})
        assert variant.model_copy(update={"network": network}) == config
    assert len({variant.network.deformation for variant in variants.values()}) == len(variants)


def test_what_stands_in_place_of_each_gate():
    assert gates_of(deforming("dense", "dense")) == {
        AS_IS: ("dense", "dense"),
        "still": ("still_dense", "still_dense"),
        "plain": ("none", "none"),
        "wide": ("wide_dense", "wide_dense"),
        "absent": ("absent", "absent"),
    }
    one_name = config_of()
    assert one_name.network.deformation == "dense"
    assert gates_of(one_name)["wide"] == ("wide_dense", "wide_dense")
    depthwise = deforming("depthwise", "none")
    assert {name: gates[0] for name, gates in gates_of(depthwise).items()} == {
        AS_IS: "depthwise",
        "still": "none",
        "wide": "wide_depthwise",
        "absent": "absent",
    }
    assert all(gates[1] == "none" for gates in gates_of(depthwise).values())
    assert left_out_of(depthwise) == {"plain": "it is the same network as still"}
    assert list(gates_of(flat_2d("dcnv3"))) == [AS_IS, "plain", "absent"]
    assert set(left_out_of(flat_2d("dcnv3"))) == {"still", "wide"}


def test_stages_one_by_one():
    gates = gates_of(deforming("dense", "depthwise"), by_stage=True)
    assert gates["plain"] == ("none", "none")
    assert gates["wide_stage_0"] == ("wide_dense", "depthwise")
    assert gates["wide_stage_1"] == ("dense", "wide_depthwise")
    assert gates["absent_stage_1"] == ("dense", "absent")
    assert "plain_stage_1" not in gates
    assert list(gates_of(deforming("none", "dense"), by_stage=True)) == [AS_IS, "still", "plain", "wide", "absent"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (config_of(network={"name": "unet", **SMALL["unet"]}), "balls: network.name is unet, which has no deformable"),
        (
            deforming("none", "wide_dense"),
            "network.deformation is none, wide_dense, so that there is nothing to ablate",
        ),
        (config_of(minutes=3), "training.minutes is 3 and training.epochs 1: give one limit"),
        (config_of(start_from="elsewhere"), "training.start_from gives the network as it is a start"),
        (config_of(devices=2, strategy="ddp"), "set training.devices and training.nodes to 1"),
    ],
)
def test_what_cannot_be_ablated_is_refused(config, told):
    with pytest.raises(InputError, match=told):
        ablation(config)


def test_a_device_replaces_that_of_the_config():
    assert ablation(config_of(accelerator="auto"), device="cpu").ablated.training.accelerator == "cpu"
    assert ablation(config_of(), device="cuda:1").ablated.training.accelerator == "cuda"
    assert ablation(config_of()).ablated.training.accelerator == "cpu"


@pytest.fixture(scope="module")
def made(balls, tmp_path_factory):
    """An ablation with one seed, of a config that keeps a patient for the test; config, folder and result."""
    config = config_of(balls)
    dataset = config.dataset.model_copy(update={"folds": 2, "test_cases": ("ball_0",)})
    config = config.model_copy(update={"dataset": dataset})
    folder = ComparisonFolder(tmp_path_factory.mktemp("ablated") / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlka_med.training.callbacks.plot_curve", lambda rows, path: path.touch())
        patch.setattr("dlka_med.comparing.costs.estimated_peak", light)
        return config, folder, ablate(config, folder.path, seeds=1)


@pytest.mark.slow
def test_all_variants_are_trained_and_compared(made):
    _, folder, result = made
    names = [AS_IS, "still", "plain", "wide", "absent"]
    assert list(result.networks) == names
    content = json.loads(folder.result_file.read_text())
    assert [one["other"] for one in content["comparisons"]] == names[1:]
    assert content["networks"]["wide"]["parameters"] == content["networks"][AS_IS]["parameters"]
    trained = {name: RunFolder.open(folder.run(RunKey(name, 0, 0)).path) for name in names}
    assert len({run.split["train"] for run in trained.values()}) == 1
    first = trained[AS_IS]
    assert not {"ball_0", "ball_1"} & {*first.split["train"], *first.split["validation"]}
    for name, run in trained.items():
        assert run.config.network == load_config(folder.config_file(name)).network
        assert run.config.training == first.config.training
    assert folder.figure_file.stat().st_size > 0


def test_the_same_call_trains_nothing_again_and_others_are_refused(made, trained, monkeypatch):
    config, folder, _ = made
    monkeypatch.setattr("dlka_med.comparing.costs.estimated_peak", light)
    elsewhere = config.model_copy(update={"seed": 5})
    assert ablate(elsewhere, folder.path, seeds=1) is not None
    assert trained == []
    slower = config.training.optimizer.model_copy(update={"learning_rate": 1e-4})
    for update, told in (
        ({"optimizer": slower}, r"training.optimizer.learning_rate is 0.01 there and 0.0001 here"),
        ({"epochs": 2}, "training.epochs is 1 there and 2 here"),
    ):
        changed = config.model_copy(update={"training": config.training.model_copy(update=update)})
        with pytest.raises(InputError, match=told):
            ablate(changed, folder.path, seeds=1)
    with pytest.raises(InputError, match=r"variants is as_is, still, plain, wide, absent there and .*still_stage_0"):
        ablate(config, folder.path, seeds=1, by_stage=True)


def test_networks_and_variants_do_not_meet_in_a_folder(made, made_once, call):
    config, folder, _ = made
    with pytest.raises(InputError, match="ablate is balls there and not given here"):
        call(folder.path)
    with pytest.raises(InputError, match="ablate is not given there and balls here"):
        ablate(config, made_once[0].path)


def test_comparisons_made_before_there_were_ablations_are_read(tmp_path):
    asked = {"dataset": "balls", "networks": ["unet", "dynunet"], "epochs": 7, "folds": [0]}
    (tmp_path / "comparison.json").write_text(json.dumps(asked))
    assert ComparisonFolder(tmp_path).read().ablated is None


def test_a_dataset_that_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        ablate(config_of(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
