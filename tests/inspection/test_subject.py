"""What `dlka info` may be asked about."""

import pytest

from dlka_med.errors import InputError
from dlka_med.inspection.subject import find_subject

CONFIG = """\
name: brain
dataset: {{root: nowhere{names}}}
network: {{name: dlka_net_3d}}
training: {{patch_size: [32, 64, 64]}}
"""
NAMES = ", channels: [MRI, CT], labels: {background: 0, tumour: 1}"


def config(tmp_path, names):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(names=names))
    return path


def test_a_network_by_name():
    subject = find_subject("unet", patch=(48, 40), channels=3, classes=5)
    assert (subject.kind, subject.channels, subject.config.dataset.scheme.outputs) == ("network", 3, 5)
    assert (subject.config.network.spatial_dims, subject.config.training.patch_size) == (2, (48, 40))
    assert find_subject("unet").config.training.patch_size == (64, 64, 64)
    assert find_subject("dlka_net_2d").config.training.patch_size == (224, 224)
    with pytest.raises(InputError, match="patch_size has 2 axes"):
        find_subject("dlka_net_3d", patch=(64, 64))


def test_a_config_without_its_dataset(tmp_path):
    subject = find_subject(config(tmp_path, NAMES), patch=(32, 32, 64))
    assert (subject.channels, subject.dataset, subject.config.training.patch_size) == (2, None, (32, 32, 64))
    with pytest.raises(InputError, match="knows its channels, MRI, CT: leave --channels away"):
        find_subject(config(tmp_path, NAMES), channels=2)
    with pytest.raises(InputError, match=r"channels and labels are null.*give --channels and --classes N"):
        find_subject(config(tmp_path, ""))
    subject = find_subject(config(tmp_path, ""), channels=4, classes=3)
    assert (subject.channels, subject.config.dataset.scheme.outputs) == (4, 3)


def test_nothing_of_that_name(tmp_path):
    with pytest.raises(InputError, match="there is no run, config or network"):
        find_subject(tmp_path / "x.yaml")
