import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.config.labels import LabelScheme
from dlka_med.data.nifti import write_shares
from dlka_med.errors import InputError
from dlka_med.evaluation.uncertainty import LEVELS, Doubts, doubts, largest_entropy, read_uncertainty

PLAIN = {"background": 0, "a": 2, "b": 5}
REGIONS = {"background": 0, "whole": [2, 5, 7], "core": 7}


def written(folder, dims, found, truth, levels):
    """Paths of the three."""
    ending = ".png" if dims == 2 else ".nii.gz"
    paths = [folder / f"{kind}{ending}" for kind in ("found", "truth", "levels")]
    if dims == 2:
        for path, array in zip(paths, (found, truth, levels), strict=True):
            Image.fromarray(array).save(path)
        return paths
    for path, array in zip(paths, (found, truth), strict=False):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    write_shares(paths[2], [levels], 1, np.eye(4))
    return paths


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("labels", [PLAIN, PLAIN | {"ignore": 9}, REGIONS], ids=["plain", "ignore", "regions"])
def test_voxels_are_counted_as_a_loop_counts_them(tmp_path, dims, labels):
    scheme, random = LabelScheme.of(labels), np.random.default_rng(dims)
    shape, ignore = (7, 5, 3)[:dims], labels.get("ignore")
    regions = {value: {name for name, held in scheme.target_values.items() if value in held} for value in scheme.values}
    voxels, wrong, cases = np.zeros(256, int), np.zeros(256, int), []
    for case in range(3):
        found = random.choice(scheme.values, shape).astype(np.uint8)
        truth = random.choice([*scheme.values, *([] if ignore is None else [ignore])], shape).astype(np.uint8)
        levels = random.choice([0, 3, 200, 255], shape).astype(np.uint8)
        for said, true, level in zip(found.flat, truth.flat, levels.flat, strict=True):
            if true != ignore:
                voxels[level] += 1
                wrong[level] += regions[said] != regions[true]
        (tmp_path / str(case)).mkdir()
        cases.append(written(tmp_path / str(case), dims, found, truth, levels))
    counted = doubts(cases, scheme)
    assert (counted.voxels == voxels).all()
    assert (counted.wrong == wrong).all()
    assert 0 < counted.wrong.sum() < counted.voxels.sum()
    assert counted.bits[255] == counted.largest == (1 if labels is REGIONS else pytest.approx(np.log2(3)))


def test_what_is_met_is_counted_on_voxels_that_are_sorted():
    random = np.random.default_rng(0)
    levels = np.sort(random.choice(LEVELS, 200, replace=False))[::-1]  # one voxel each
    wrong = random.random(200) < levels / 300
    found = Doubts(np.bincount(levels, minlength=LEVELS), np.bincount(levels[wrong], minlength=LEVELS), 1.0)
    for count in (0, 1, 7, 50, 199, 200):
        assert found.met(count / 200) == pytest.approx(wrong[:count].sum() / wrong.sum())
    assert found.below(0.5) == pytest.approx((wrong & (levels < 127.5)).sum() / wrong.sum())


def test_within_a_level_the_wrong_ones_are_spread():
    voxels, wrong = np.zeros(LEVELS, int), np.zeros(LEVELS, int)
    voxels[[0, 255]], wrong[[0, 255]] = (80, 20), (5, 15)
    found = Doubts(voxels, wrong, 2.0)
    assert found.met(0.1) == pytest.approx(7.5 / 20)
    assert found.met(0.2) == pytest.approx(15 / 20)
    assert found.met(0.6) == pytest.approx(17.5 / 20)
    assert found.met(1) == 1
    right = Doubts(voxels, np.zeros(LEVELS, int), 2.0)
    assert (right.met(0.1), right.below(0.5)) == (None, None)


def test_the_largest_entropy_is_that_of_labels_as_likely():
    four = LabelScheme.of({"background": 0, "a": 1, "b": 2, "c": 3})
    chances = np.full(4, 0.25)
    assert largest_entropy(four) == pytest.approx(-(chances * np.log2(chances)).sum())
    assert largest_entropy(LabelScheme.of(REGIONS)) == 1


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_is_read_as_it_was_written(tmp_path, dims):
    levels = np.arange(256, dtype=np.uint8).reshape((16, 16, 1)[:dims] if dims == 2 else (8, 8, 4))
    path = written(tmp_path, dims, levels, levels, levels)[2]
    assert (read_uncertainty(path, levels.shape) == levels).all()
    with pytest.raises(InputError, match=r"levels\..*but its label map \(3, 4\): predict this case again"):
        read_uncertainty(path, (3, 4))


def test_what_is_no_map_is_refused(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 7.0, np.float32), np.eye(4)), path)
    with pytest.raises(InputError, match=r"scan\.nii\.gz has values from 7 to 7, which is no map"):
        read_uncertainty(path, (3, 4, 5))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"scan\.nii\.gz"):
        read_uncertainty(path, (3, 4, 5))
