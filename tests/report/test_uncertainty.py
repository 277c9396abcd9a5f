import numpy as np
import pytest

from dlka_med.config.labels import LabelScheme
from dlka_med.report.uncertainty import percent, section_of

from .conftest import LABELS, write, write_map


@pytest.mark.parametrize(
    ("share", "told"),
    [(0, "0 %"), (1e-9, "< 1 %"), (0.004, "< 1 %"), (0.006, "1 %"), (0.994, "99 %"), (0.9978, "> 99 %"), (1, "100 %")],
)
def test_all_and_none_are_said_only_where_it_is_so(share, told):
    assert percent(share) == told


def test_a_single_wrong_voxel_that_is_missed_shows(tmp_path):
    """Of 1000 wrong voxels one lies where the network is sure: 0.1 % below, and 99.9 % among a tenth of all."""
    truth = np.zeros((25, 30, 20), np.uint8)
    found, levels = truth.copy(), truth.copy()
    found.flat[:1000], levels.flat[:999] = 1, 200
    for name, array in (("truth", truth), ("found", found)):
        write(tmp_path / f"{name}.nii.gz", array)
    write_map(tmp_path / "map.nii.gz", levels)
    files = {"a": (tmp_path / "found.nii.gz", tmp_path / "truth.nii.gz")}
    section = section_of(files, {"a": tmp_path / "map.nii.gz"}, LabelScheme.of(LABELS))
    assert "< 1 % of the wrong voxels lie below" in section["told"]
    assert section["table"].rows[-1] == ["10 %", "> 99 %"]
