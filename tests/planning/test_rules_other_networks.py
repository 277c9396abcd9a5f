"""Plans of the networks that the D-LKA nets can be compared with."""

from math import prod

import pytest

from dlka_med.config.loading import NETWORKS, load_config
from dlka_med.config.schema import RunConfig
from dlka_med.planning.draft import drafted, fitted
from dlka_med.planning.memory import estimated_peak
from dlka_med.planning.plan import plan
from dlka_med.planning.rules_grid import own_dims
from dlka_med.planning.rules_network import sizes
from dlka_med.run_folder import build_run_network
from dlka_med.training.train import train

from .sets import write_set
from .test_draft import SETS, SPEED, data_of, keys, nothing
from .test_plan import Machine, weighed

OTHERS = [name for name in NETWORKS if not name.startswith("dlka_net")]
BOTH = [(name, dims) for name in OTHERS for dims in (2, 3) if own_dims(name) in (None, dims)]
SHORT = ["training.minutes=null", "training.epochs=1", "training.steps_per_epoch=1", "training.workers=0"]


@pytest.mark.parametrize("budget", ["cpu", "gpu"])
@pytest.mark.parametrize("of", SETS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_key_has_a_value_and_a_reason(summary, request, name, of, budget):
    draft = fitted(data_of(summary(**SETS[of]), name), request.getfixturevalue(budget), SPEED, nothing)
    config = draft.config
    assert set(draft.choices) == keys(config)
    assert all(choice.reason and "\n" not in choice.reason for choice in draft.choices.values())
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.network.name == name
    assert len(config.training.patch_size) == config.network.spatial_dims == draft.data.dims
    deforms = name == "dlka_unet"
    assert ("none" in draft.choices["training.optimizer.offset_rate"].reason) != deforms


@pytest.mark.parametrize("of", SETS)
@pytest.mark.parametrize("name", OTHERS)
def test_windows_are_what_the_network_pads_to(summary, cpu, name, of):
    config = fitted(data_of(summary(**SETS[of]), name), cpu, SPEED, nothing).resolved
    units = [n / unit for n, unit in zip(config.training.patch_size, build_run_network(config).size_unit, strict=True)]
    assert all(unit == int(unit) for unit in units)
    assert prod(units) > 1


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("name", "dims"), BOTH)
def test_sizes_need_less_and_less(summary, cpu, name, dims, large):
    data = data_of(summary(**SETS["nuclei" if dims == 2 else "hippocampus"]), name)
    assert data.dims == dims
    needs = [
        estimated_peak(drafted(data, cpu, size, large, 64**dims, SPEED).resolved, "cpu")
        for size in sizes(name, dims, large)
    ]
    assert needs == sorted(set(needs), reverse=True)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["tiny volumes", "thick slices", "microscopy"])
def test_plans_load_as_they_were_probed(tmp_path, name, kind):
    machine, out = Machine(), tmp_path / "plan.yaml"
    made = plan(
        write_set(tmp_path / "set", kind),
        out,
        network=name,
        memory=4,
        device="cpu",
        probe=machine,
        estimate=weighed,
    )
    config = load_config(out)
    assert config == made.config
    assert config.network == machine.asked[-1].network
    flat = kind != "tiny volumes" or own_dims(name) == 2
    assert config.network.spatial_dims == (2 if flat else 3)
    assert config.dataset.slices == (None if kind == "microscopy" or not flat else "axial")
    lines = [line for line in out.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if "  # " not in line and not line.endswith(":")] == []


@pytest.mark.slow
def test_a_plan_is_probed_and_trains(tmp_path):
    out = tmp_path / "p.yaml"
    made = plan(
        write_set(tmp_path / "set", "tiny volumes"), out, network="unet", minutes=1, memory=3, device="cpu", workers=1
    )
    assert 0 < made.trials[-1].measured.peak < 3 * 2**30
    assert train(load_config(out, SHORT), tmp_path / "run").weights_file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny volumes", "thick slices", "microscopy"])
@pytest.mark.parametrize("name", OTHERS)
def test_all_plans_are_probed_and_train(tmp_path, name, kind):
    root, out = write_set(tmp_path / "set", kind), tmp_path / "p.yaml"
    made = plan(root, out, network=name, minutes=20, memory=6, device="cpu", workers=1)
    last = made.trials[-1]
    # Without the kernels of the D-LKA nets a process holds less than is reckoned with.
    assert last.estimate == pytest.approx(last.measured.peak, rel=0.2, abs=0.25 * 2**30)
    assert train(load_config(out, SHORT), tmp_path / "run").weights_file.is_file()
