"""Another network on the grid of a plan."""

from math import prod

import pytest

from dlka_med.config.loading import NETWORKS, load_config
from dlka_med.errors import InputError
from dlka_med.planning.plan import plan
from dlka_med.planning.probe import Measured
from dlka_med.planning.rival import rival
from dlka_med.planning.rules_grid import own_dims

from .sets import write_set

GIB = 2**30


def light(config, device="cpu"):
    return 0.5 * GIB + 1000.0 * prod(config.training.patch_size) * config.training.batch_size


def quick(config, device):
    return Measured(light(config), 0.1)


def planned(folder, kind, network=None, **more):
    given = {"device": "cpu", "memory": 4, "probe": quick, "estimate": light, "minutes": 20}
    return plan(write_set(folder / "set", kind), folder / "plan.yaml", network=network, **given | more)


@pytest.mark.parametrize(("kind", "dims"), [("four channels", 3), ("microscopy", 2), ("thick slices", 2)])
def test_only_the_network_differs_and_the_file_says_so(tmp_path, kind, dims):
    made = planned(tmp_path, kind)
    for name in NETWORKS:
        if own_dims(name) not in (None, dims) or (name == "swin_unetr" and dims == 3):
            continue
        other = rival(made, name, light)
        assert other.config.network.name == name
        assert other.config.name == made.config.name.removesuffix(made.config.network.name) + name
        of_first = {"network": made.config.network, "name": made.config.name}
        assert other.config.model_copy(update=of_first) == made.config
        file = tmp_path / f"{name}.yaml"
        other.save(file)
        assert load_config(file) == other.config
        assert "Probes" not in file.read_text()
        assert f"name: {name}  # to be compared with" in file.read_text()


def test_reasons_are_those_of_the_other_network(tmp_path):
    made = planned(tmp_path, "four channels", "dynunet")
    other = rival(made, "dlka_unet", light)
    assert "none of" in made.reasons["training.optimizer.offset_rate"]
    assert "what predicts offsets" in other.reasons["training.optimizer.offset_rate"]
    assert other.reasons["training.patch_size"] == "that of dynunet"
    assert set(other.reasons) - {f"network.{key}" for key in type(other.config.network).model_fields} == {
        key for key in made.reasons if not key.startswith("network.")
    }


def test_the_section_is_that_of_its_own_plan_on_the_same_patch(tmp_path):
    made = planned(tmp_path, "four channels", "dynunet")
    assert rival(planned(tmp_path / "other", "four channels", "unet"), "dynunet", light).config.network == (
        made.config.network
    )


def test_a_network_that_cannot_take_the_patch_is_named(tmp_path):
    made = planned(tmp_path, "tiny volumes", "unet")
    with pytest.raises(InputError, match=r"swin_unetr cannot be compared on patches of \[.*\] voxels: .*one voxel"):
        rival(made, "swin_unetr", light)
    with pytest.raises(InputError, match=r"timm_unet sees 2D images, but unet is planned in 3D here"):
        rival(made, "timm_unet", light)


def test_where_memory_is_short_it_gets_smaller_until_nothing_fits(tmp_path):
    made = planned(tmp_path, "four channels")

    def wide(config, device):
        return config.network.channels * GIB / 4

    assert rival(made, "mednext", light).config.network.channels > rival(made, "mednext", wide).config.network.channels
    with pytest.raises(InputError, match=r"mednext does not fit into 4 GiB .* it takes about 10 GiB; give more"):
        rival(made, "mednext", lambda config, device: 10 * GIB)
