import pytest
import torch

from dlka_med.config.network import DLKANet3dArguments
from dlka_med.networks import NETWORKS, DLKANet3d, build_network


def test_the_published_size_and_the_defaults_of_the_config():
    with torch.device("meta"):
        published = DLKANet3d(in_channels=1, out_channels=14, img_size=(64, 128, 128))
    assert sum(parameter.numel() for parameter in published.parameters()) == 42_353_327
    arguments = DLKANet3dArguments(name="dlka_net_3d").model_dump(exclude={"name"})
    with torch.device("meta"):
        configured = build_network("dlka_net_3d", **arguments)
    assert {name: value.shape for name, value in configured.state_dict().items()} == {
        name: value.shape for name, value in published.state_dict().items()
    }
    limited = arguments["offset_limit"]
    assert limited is not None, "without a limit, kernel points leave the image in training"
    assert str(configured).replace(f"offset_limit={limited}", "offset_limit=None") == str(published)


def test_build_network_knows_its_names():
    with torch.device("meta"):
        assert isinstance(build_network("dlka_net_3d"), NETWORKS["dlka_net_3d"])
    with pytest.raises(ValueError, match="no network called 'dlkanet3d'; did you mean 'dlka_net_3d'"):
        build_network("dlkanet3d")
    with pytest.raises(ValueError, match="'dlka_net_3d'"):
        build_network("zzz")
