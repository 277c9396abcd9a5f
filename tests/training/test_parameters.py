"""Which parameters learn, and how fast."""

import pytest
import torch

from dlka_med.config.loading import save_config
from dlka_med.config.training import Optimizer
from dlka_med.errors import InputError
from dlka_med.layers import offset_parameters
from dlka_med.networks import DLKANet3d
from dlka_med.run_folder import build_run_network
from dlka_med.training.parameters import frozen_modules, make_optimizer
from dlka_med.training.start import first_network
from dlka_med.training.train import train

from .runs import changed


@pytest.fixture
def network():
    return DLKANet3d(
        1,
        2,
        (16, 16, 16),
        channels=(4, 8),
        depths=(1, 1),
        strides=((2, 2, 2),) * 2,
        full_resolution_channels=4,
        supervised_scales=2,
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_parameter_moves_at_its_own_rate(network, name):
    rates = {"encoder": 0.1, "encoder.1": 0.5, "decoder": 3.0}
    settings = Optimizer(name=name, learning_rate=0.02, offset_rate=0.3, weight_decay=0.1, rates=rates)
    groups = make_optimizer(network, settings).param_groups
    offsets = {id(parameter) for parameter in offset_parameters(network)}
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for path, parameter in network.named_parameters():
        first, second = path.split(".")[:2]
        rate = {"encoder": 0.5 if second == "1" else 0.1, "decoder": 3.0}.get(first, 1.0)
        rate *= 0.3 if id(parameter) in offsets else 1
        group = found[id(parameter)]
        assert group["rate"] == pytest.approx(rate)
        assert group["lr"] == pytest.approx(0.02 * rate)
        decays = parameter.ndim > 1 and id(parameter) not in offsets
        assert group["weight_decay"] == (0.1 if decays else 0)


def test_frozen_modules_stay_as_they_are_in_a_training(config, tmp_path):
    frozen = changed(config, freeze=("encoder",), epochs=1, validate_every=1, ema=None)
    run = train(frozen, tmp_path / "run")
    torch.manual_seed(frozen.seed)
    before, after = build_run_network(run.config, pretrained=False).state_dict(), run.load_weights()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    inside = {name for name in before if name.startswith("encoder.")}
    assert inside <= same, "weights and statistics of norms"
    outside = {name for name, tensor in before.items() if tensor.ndim > 1} - inside
    assert len(outside & same) < len(outside) / 4


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["encodr"], r"training.freeze: the network has no module 'encodr'; did you mean .*encoder"),
        (["xyz"], r"no module 'xyz'; did you mean .*encoder"),
        ([""], r"no module ''"),
        (["encoder", "decoder", "full_resolution", "stem", "heads"], None),
    ],
)
def test_names_are_looked_up(network, names, words):
    children = [name for name, _ in network.named_children()]
    if words is None:
        names, words = children, "training.freeze leaves nothing of the network to learn"
    with pytest.raises(InputError, match=words):
        frozen_modules(network, names)


def test_a_rate_of_no_module_is_refused(network):
    with pytest.raises(InputError, match=r"training.optimizer.rates: the network has no module 'encoder.7'"):
        make_optimizer(network, Optimizer(rates={"encoder.7": 0.1}))


def test_random_weights_that_stay_random_are_told(config, tmp_path, finished, caplog):
    one = changed(config, "dataset", channels=("MRI",), labels={"background": 0, "ball": 1})
    frozen = changed(one, freeze=("decoder", "heads"))
    first_network(frozen)
    assert "weights of decoder, heads are random and stay so" in caplog.text
    caplog.clear()
    first_network(changed(frozen, start_from=str(finished.path)))
    assert caplog.text == ""
    more = changed(frozen, "dataset", labels={"background": 0, "ball": 1, "box": 2})
    first_network(changed(more, start_from=str(finished.path), start_partially=True))
    assert "weights of heads are random and stay so" in caplog.text


def test_a_frozen_layer_is_not_told_to_move(config, tmp_path, caplog):
    still = Optimizer(name="adamw", offset_rate=1e-9)
    train(changed(config, freeze=("encoder",), epochs=1, optimizer=still), tmp_path / "run")
    assert "the kernel points of 1 of 1 layers never moved" in caplog.text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer": Optimizer(rates={"encodr": 0.1})}, "rates: the network has no module 'encodr'"),
        (
            {"optimizer": Optimizer(rates={"encoder": 0.1}), "freeze": ("encoder",)},
            "nothing learns in the module encoder",
        ),
        ({"freeze": ("encoder.0.0.drop_path",)}, "freeze: the module .* holds no weights"),
    ],
)
def test_names_without_effect_are_refused_before_the_cases_are_prepared(config, tmp_path, values, words):
    with pytest.raises(InputError, match=words):
        train(changed(config, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"freeze": ("encoder",)}),
        ({"freeze": ("encoder.0",)}, {"freeze": ("encoder.1",)}),
        ({"optimizer": Optimizer(rates={"encoder": 0.1})}, {"optimizer": Optimizer(rates={"encoder": 0.5})}),
    ],
)
def test_a_run_whose_learning_parameters_were_edited_is_not_resumed(config, tmp_path, before, after):
    run = train(changed(config, **before, epochs=1, steps_per_epoch=1), tmp_path / "run")
    edited = changed(run.config, **after, epochs=9)
    save_config(edited, run.config_file)
    with pytest.raises(InputError, match=r"moves other parameters, or at other rates, as where training\.freeze"):
        train(edited, run.path, resume=True)
