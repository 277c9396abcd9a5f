"""What all sections of a config are made of."""

import pytest

from dlka_med.config.loading import load_config
from dlka_med.errors import InputError


@pytest.mark.parametrize(
    ("network", "override", "told"),
    [
        (
            "dlka_net_3d",
            "network.deformation=dens",
            "network.deformation: Input should be 'none', .*; did you mean 'dense'",
        ),
        ("dlka_net_3d", "network.deformation=[none, dens]", "network.deformation.1: Input .*; did you mean 'dense'"),
        (
            "dlka_net_2d",
            "network.deformation=dens",
            "network.deformation: Input should be 'none', .*; did you mean 'dense'",
        ),
        (
            "dlka_net_3d",
            "preprocessing.intensity=atuo",
            "preprocessing.intensity: Input should be 'auto' .*did you mean",
        ),
        (
            "dlka_net_3d",
            "preprocessing.intensity=[{kind: zscor}]",
            "preprocessing.intensity.0.kind: .*did you mean 'zscore'",
        ),
        (
            "dlka_net_3d",
            "preprocessing.intensity={kind: ct}",
            r"intensity: expected a list in brackets, such as \[a, b\]",
        ),
    ],
)
def test_what_may_be_one_value_or_several_is_told_once(tmp_path, network, override, told):
    patch = [64] * int(network[-2])
    file = tmp_path / "config.yaml"
    file.write_text(f"name: x\ndataset: {{root: x}}\nnetwork: {{name: {network}}}\ntraining: {{patch_size: {patch}}}\n")
    with pytest.raises(InputError, match=told) as caught:
        load_config(file, [override])
    assert "\n" not in str(caught.value)
