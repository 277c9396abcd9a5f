"""Configs of the networks that the D-LKA nets can be compared with."""

import inspect

import pytest

from dlka_med.cli.plan import NETWORKS as PLANNED
from dlka_med.config.loading import NETWORKS as RECORDS
from dlka_med.config.loading import load_config, save_config
from dlka_med.errors import InputError
from dlka_med.networks import NETWORKS
from dlka_med.planning.rules_grid import DOWNSAMPLING
from dlka_med.run_folder import build_run_network

ANY_DIMS = ("dlka_unet", "unet", "dynunet", "segresnet", "swin_unetr", "mednext")
EVERY = [(name, dims) for name in ANY_DIMS for dims in (2, 3)] + [("timm_unet", 2)]
GIVEN = {"in_channels", "out_channels", "img_size"}


@pytest.fixture
def load(tmp_path):
    def _load(name, dims, *overrides, patch=64):
        path = tmp_path / "x.yaml"
        chosen = "" if name == "timm_unet" else f", spatial_dims: {dims}"
        path.write_text(
            "name: x\n"
            "dataset: {root: data, channels: [MRI], labels: {background: 0, organ: 1}}\n"
            f"network: {{name: {name}{chosen}}}\n"
            f"training: {{patch_size: {[patch] * dims}}}\n"
        )
        return load_config(path, overrides)

    return _load


def test_every_network_has_a_record_and_can_be_planned():
    assert set(RECORDS) == set(NETWORKS) == set(DOWNSAMPLING) == set(PLANNED)


@pytest.mark.parametrize("name", [*ANY_DIMS, "timm_unet"])
def test_records_and_constructors_agree(name):
    fields = RECORDS[name].model_fields
    parameters = inspect.signature(NETWORKS[name].__init__).parameters
    assert set(fields) - {"name"} == set(parameters) - {"self", *GIVEN}
    for key, field in fields.items():
        if key not in ("name", "strides"):
            assert field.default == parameters[key].default, key
        assert key == "name" or field.description


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_a_name_is_enough(load, tmp_path, name, dims):
    config = load(name, dims)
    assert config.network.spatial_dims == dims
    assert config.image_dims == dims
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    network = build_run_network(config)
    assert len(network.scale_strides) == config.network.supervised_scales
    assert len(network.size_unit) == dims


@pytest.mark.parametrize("name", ANY_DIMS)
def test_slices_of_volumes_need_two_dims(load, name):
    config = load(name, 2, "dataset.slices=axial")
    assert (config.network.spatial_dims, config.image_dims) == (2, 3)
    with pytest.raises(InputError, match=r"sees whole volumes: set it to null, or network\.spatial_dims to 2"):
        load(name, 3, "dataset.slices=axial")


@pytest.mark.parametrize("name", ANY_DIMS)
def test_axes_follow_spatial_dims(load, name):
    with pytest.raises(InputError, match=r"patch_size has 3 axes, but network\.spatial_dims is 2: give 2 numbers"):
        load(name, 2, "training.patch_size=[64, 64, 64]")
    with pytest.raises(InputError, match=r"mirror_axes is \[2\], but network\.spatial_dims is 2"):
        load(name, 2, "inference.mirror_axes=[2]")
    with pytest.raises(InputError, match=r"network\.spatial_dims: Input should be 2 or 3 \(found 4\)"):
        load(name, 3, "network.spatial_dims=4")


@pytest.mark.parametrize("dims", [2, 3])
def test_one_stride_is_that_of_all_axes(load, dims):
    assert load("unet", dims).network.strides == ((2,) * dims,) * 3
    mixed = load("dynunet", 3, "network.strides=[1, [2, 2, 1], 2, 2, 2]").network.strides
    assert mixed == ((1, 1, 1), (2, 2, 1), *[(2, 2, 2)] * 3)


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("unet", "network.strides=[2, 2]", "strides need one entry fewer than channels, got 2 strides and 4 channels"),
        ("unet", "network.strides=[2, [2, 2], 2]", "network.spatial_dims is 3: give 3 numbers per stage, got [2, 2]"),
        ("unet", "network.strides=[2, x, 2]", "network.strides.1"),
        ("unet", "network.strides=2", "network.strides: expected a list in brackets, such as [a, b]"),
        ("unet", "network.kernel_size=4", "network.kernel_size: expected an odd number, such as 5 (found 4)"),
        ("unet", "network.channels=[4]", "network.channels"),
        ("unet", "network.supervised_scales=2", "unknown key 'network.supervised_scales'"),
        ("unet", "network.deformation=none", "unknown key 'network.deformation'"),
        ("unet", "training.loss.scale_weights=[1, 1]", "network.supervised_scales is 1"),
        ("unet", "network.name=unets", "did you mean 'unet'"),
        ("dynunet", "network.strides=[2, 2, 2, 2, 2]", "the first of strides has to be 1, got [2, 2, 2]"),
        ("dynunet", "network.strides=[1, 2, 2]", "one entry per stage each, got 5 channels and 3 strides"),
        ("dynunet", "network.strides=[1, 5, 2, 2, 2]", "strides may be 4 at most for a kernel_size of 3"),
        ("dynunet", "network.supervised_scales=5", "a network of 5 stages has 4"),
        ("segresnet", "network.channels=12", "network.norm group needs a multiple of 8"),
        ("segresnet", "network.decoder_depths=[1]", "one entry fewer than depths, got 1 and 4"),
        ("swin_unetr", "network.channels=16", "multiple of 12"),
        ("swin_unetr", "network.heads=[5, 1, 1, 1]", "5 heads cannot share the 12 channels of stage 1"),
        ("swin_unetr", "network.depths=[1, 1]", "network.depths"),
        ("mednext", "network.expansions=[2, 2]", "for the bottleneck, got 5 and 2"),
        ("mednext", "network.supervised_scales=6", "supervised_scales is 6, but depths has 5 entries"),
    ],
)
def test_a_mistake_is_named(load, name, override, words):
    with pytest.raises(InputError) as caught:
        load(name, 3, override)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dims", "unit", "word"),
    [
        ("unet", 2, 8, "network.strides multiply to [8, 8]"),
        ("dynunet", 3, 16, "network.strides multiply to [16, 16, 16]"),
        ("swin_unetr", 3, 32, "take [32, 32, 32]"),
        ("mednext", 2, 16, "network.depths"),
        ("timm_unet", 2, 32, "network.encoder"),
    ],
)
def test_a_patch_of_one_deep_voxel_is_refused(load, name, dims, unit, word):
    for patch in (unit, unit - 1):
        with pytest.raises(InputError, match=rf"training\.patch_size \[{patch}.* leaves one voxel") as caught:
            load(name, dims, "training.batch_size=1", patch=patch)
        assert word in str(caught.value)
    assert load(name, dims, "training.batch_size=1", patch=unit + 1)


def test_norms_over_the_batch_or_groups_take_one_deep_voxel(load):
    assert load("segresnet", 3, "training.batch_size=1", patch=8)
    assert load("unet", 3, "training.batch_size=2", "network.norm=batch", patch=8)
    for network, norm in (("unet", "batch"), ("segresnet", "instance")):
        with pytest.raises(InputError, match=rf"too few for network\.norm {norm} and training\.batch_size 1"):
            load(network, 3, "training.batch_size=1", f"network.norm={norm}", patch=8)
