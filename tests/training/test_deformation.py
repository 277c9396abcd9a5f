"""Training tells what its deformable layers do: in metrics.csv, in the log, and aloud when one dies or never moves."""

import csv
import logging

import pytest
import torch
from torch import nn

from dlka_med.config.loading import load_config
from dlka_med.config.training import Optimizer
from dlka_med.layers import Deformation, DeformConv, effects_of_layers
from dlka_med.training.deformation import DeformationMonitor, columns, summary, tell_effects
from dlka_med.training.parameters import make_optimizer
from dlka_med.training.train import train

HEALTHY = Deformation(displacement=0.5, largest=3.0, outside=0.12, outside_undeformed=0.09)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_offsets_learn_at_their_own_rate_without_decay(name):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), DeformConv(2, 4, 4), nn.BatchNorm2d(4))
    network[0].bias.requires_grad_(False)
    optimizer = make_optimizer(network, Optimizer(name=name, learning_rate=0.02, offset_rate=0.05, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [
        ({names[id(p)] for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert found == [
        ({"0.weight", "1.weight"}, 0.02, 0.3),
        ({"1.bias", "2.weight", "2.bias"}, 0.02, 0.0),
        ({"1.offset_conv.weight", "1.offset_conv.bias"}, pytest.approx(0.001), 0.0),
    ]


def test_the_rate_holds_while_the_schedule_runs(config_file, tmp_path, monkeypatch):
    """AdamW's first step is the learning rate itself: offsets take a tenth of it."""
    from dlka_med.training.task import SegmentationTask

    steps, step = [], SegmentationTask.on_train_batch_end

    def spy(self, *arguments):
        rates = {group["rate"]: group["lr"] for group in self.optimizers(use_pl_optimizer=False).param_groups}
        steps.append((self.row["learning_rate"], rates))
        step(self, *arguments)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_end", spy)
    train(load_config(config_file, ["training.epochs=1", "training.optimizer.offset_rate=0.1"]), tmp_path / "run")
    assert len({rate for rate, _ in steps}) > 1
    assert all(rates == {1.0: rate, 0.1: pytest.approx(0.1 * rate)} for rate, rates in steps)


def test_layers_are_measured_at_each_validation(config_file, tmp_path):
    run = train(load_config(config_file, ["training.optimizer.offset_rate=1"]), tmp_path / "run")
    with run.metrics_file.open() as file:
        rows = list(csv.DictReader(file))
    layers = [f"{part}.0.attention.gate.dense" for part in ("encoder.0", "encoder.1", "decoder.0")]
    for row in rows:
        for kind in ("displacement", "outside", "outside undeformed"):
            assert [bool(row[f"{kind} {layer}"]) for layer in layers] == [bool(row["dice"])] * 3
    assert all(float(rows[-1][f"displacement {layer}"]) > 0 for layer in layers)
    text = run.log_file.read_text()
    assert text.count("deformation of 3 layers: kernel points move") == 2
    assert text.count("effect on the logits") == 1
    assert all(f"  {layer}: " in text for layer in layers)


def test_a_run_that_does_not_deform_says_nothing_of_it(config_file, tmp_path):
    run = train(load_config(config_file, ["network.deformation=none", "training.epochs=2"]), tmp_path / "run")
    assert "deformation" not in run.log_file.read_text()
    assert "displacement" not in run.metrics_file.read_text()


def test_a_run_whose_layers_never_moved_says_so(config_file, tmp_path):
    overrides = ["training.optimizer.offset_rate=1e-9", "training.epochs=2"]
    run = train(load_config(config_file, overrides), tmp_path / "run")
    assert "the kernel points of 3 of 3 layers never moved" in run.log_file.read_text()


def test_a_layer_that_leaves_the_image_is_named_once(caplog):
    monitor = DeformationMonitor()
    dying = Deformation(displacement=30, largest=90, outside=0.99, outside_undeformed=0.17)
    with caplog.at_level(logging.WARNING, "dlka_med"):
        for _ in range(2):
            monitor._warn({"encoder.0": HEALTHY, "encoder.1": dying}, ())
    (record,) = caplog.records
    assert "99 % of the kernel points of encoder.1 lie outside the image (17 % before they move)" in record.message
    assert "training.optimizer.offset_rate" in record.message


def test_a_layer_stuck_at_its_limit_is_named(caplog):
    stuck = Deformation(displacement=11.6, largest=8, outside=0.03, outside_undeformed=0.09, at_limit=0.8)
    with caplog.at_level(logging.WARNING, "dlka_med"):
        DeformationMonitor()._warn({"encoder.0": HEALTHY, "decoder.0": stuck}, ["encoder.0", "decoder.0"])
    (record,) = caplog.records
    assert "80 % of the kernel points of decoder.0 are at network.offset_limit" in record.message


def test_a_layer_that_does_nothing_is_named(caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        tell_effects({"encoder.0": (0.08, 0.01), "encoder.2": (8e-5, 3e-6)})
    *lines, warning = caplog.records
    assert [line.message.split() for line in lines[1:]] == [
        ["encoder.0:", "0.08", "/", "0.01"],
        ["encoder.2:", "8e-05", "/", "3e-06"],
    ]
    assert warning.levelname == "WARNING"
    assert "1 of 2 layers change the logits by less than 0.1 %" in warning.message
    assert "does without them: encoder.2;" in warning.message
    caplog.clear()
    tell_effects({"encoder.0": (0.08, 0.01)})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_words_and_columns():
    far = Deformation(displacement=2.0, largest=9.0, outside=0.05, outside_undeformed=0.3, at_limit=0.25)
    assert columns({"a": far}) == {
        "displacement a": 2.0,
        "outside a": 0.05,
        "outside undeformed a": 0.3,
        "at limit a": 0.25,
    }
    assert "at most 25 % of a layer's points are at the limit" in summary({"a": far, "b": HEALTHY})
    assert "move 0.5 to 2 voxels" in summary({"a": far, "b": HEALTHY})
    assert "by -25 to +3 percentage points" in summary({"a": far, "b": HEALTHY})


def test_effect_of_a_layer_and_of_its_offsets():
    """The first layer is switched off behind itself; the second moves its only kernel point by two whole pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(DeformConv(2, 3, 3, 1, bias=False), nn.Conv2d(3, 3, 1), DeformConv(2, 3, 3, 1, bias=False))
    nn.init.zeros_(network[1].weight)
    nn.init.eye_(network[2].weight.data[..., 0, 0])
    network[2].offset_conv.bias.data.copy_(torch.tensor([2.0, 0.0]))
    network.insert(0, nn.Identity())

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.dead, self.zero, self.alive = network[1], network[2], network[3]

        def forward(self, x):
            return self.alive(x + 0 * self.zero(self.dead(x)))

    x = torch.randn(1, 3, 12, 9)
    effects = effects_of_layers(Skip(), x)
    assert effects["dead"] == (0, 0)
    moved = torch.zeros_like(x)
    moved[:, :, :-2] = x[:, :, 2:]
    expected = (x - moved).square().mean().sqrt() / moved.std()
    assert effects["alive"][1] == pytest.approx(expected.item(), rel=1e-5)
    assert effects["alive"][0] == pytest.approx((moved.square().mean().sqrt() / moved.std()).item(), rel=1e-5)
