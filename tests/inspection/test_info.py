"""What `dlka info` tells of runs, configs and networks."""

import json

import pytest

from dlka_med.inspection import info, timing
from dlka_med.inspection.info import describe
from dlka_med.inspection.info_table import format_info, short_count
from dlka_med.ops.multiply_adds import multiply_adds
from dlka_med.planning.probe import Measured
from dlka_med.run_folder import build_run_network

from .runs import config_of, make_run


def test_a_run_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "probe", lambda config, device: Measured(peak=3e9, seconds=2.0, waited=0.5))
    training = {"minutes": 20, "epochs": None}
    config = config_of(3, [8, 12, 16], {"offset_limit": 1.5}, training={"patch_size": [8, 12, 16], **training})
    run = make_run(tmp_path / "run", config)
    content = describe(run.path, device="cpu")
    json.dumps(content, allow_nan=False)
    network = build_run_network(config, pretrained=False)
    assert content["parameters"] == sum(p.numel() for p in network.parameters())
    assert content["multiply_adds"] == multiply_adds(network, 1, 1, 8, 12, 16)
    field = content["receptive_field"]
    assert field["weights"] == "trained"
    # Two layers at strides 1, 2, 2 and one at 2, 4, 4, each with 1.5 voxels to both sides.
    more = [3 * (1 + 1 + 2), 3 * (2 + 2 + 4), 3 * (2 + 2 + 4)]
    assert field["with_offsets_at_most"] == [n + m for n, m in zip(field["theoretical"], more, strict=True)]
    assert all(0 < n <= 17 for n in field["measured"])
    assert content["training"]["steps"] == int(20 * 60 * 0.85 / 2)
    assert content["training"]["minutes"] == pytest.approx(20, rel=0.01)
    assert content["prediction"]["seconds_per_window"] > 0
    table = format_info(content)
    for words in ("510 steps in 20 minutes", "other programs took 50 %", "encoder.1.0"):
        assert words in table


def test_the_field_is_measured_whatever_device_the_network_is_timed_on(tmp_path, monkeypatch):
    """Predicting takes its network along to the device; here to one that computes nothing."""
    monkeypatch.setattr(timing, "probe", lambda config, device: Measured(peak=3e9, seconds=2.0))

    def timed(network, *_):
        network.to("meta")
        return {"seconds_per_window": 1.0}

    monkeypatch.setattr(info, "time_prediction", timed)
    config = config_of(3, [8, 8, 8], {"offset_limit": 1.5}, training={"minutes": 20, "epochs": None})
    field = describe(make_run(tmp_path / "run", config).path, device="cpu")["receptive_field"]
    assert all(field["measured"])
    assert all(field["with_offsets_at_most"])


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0"), (999, "999"), (1234, "1.23 k"), (999_499, "999 k"), (999_600, "1 M"), (10**9, "1 G")]
)
def test_counts_of_three_digits(number, told):
    assert short_count(number) == told


@pytest.mark.slow
def test_epochs_and_another_window(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "probe", lambda config, device: Measured(peak=3e9, seconds=2.0))
    training = {"patch_size": [16, 16, 16], "epochs": 3, "steps_per_epoch": 7}
    run = make_run(tmp_path / "run", config_of(3, None, {"position_embedding": True}, training=training))
    content = describe(run.path, patch=(8, 8, 8), device="cpu")
    assert (content["window"], content["training"]["steps"]) == ([8, 8, 8], 21)
    assert content["training"]["minutes"] == pytest.approx(21 * 2 / 60 / 0.85)


@pytest.mark.slow
def test_nothing_is_timed_where_memory_lacks_or_nobody_asks(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", config_of(2, [32, 64]))
    content = describe(run.path, device="cpu", timed=False)
    assert "prediction" not in content
    assert "not timed: not asked for" in format_info(content)
    monkeypatch.setattr(timing, "free_memory", lambda device: 1.0)
    content = describe(run.path, device="cpu")
    assert "not timed: a step needs more memory than is free" in format_info(content)


@pytest.mark.slow
def test_a_network_by_name_with_real_steps():
    content = describe("dlka_net_3d", patch=(16, 32, 32), device="cpu")
    assert content["receptive_field"]["weights"] == "fresh"
    assert content["receptive_field"]["with_offsets_at_most"] == [None] * 3
    assert content["training"]["seconds_per_step"] > 0
    assert "receptive field without offsets: over 512 x over 1024" in format_info(content)
