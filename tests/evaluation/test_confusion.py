import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.config.labels import LabelScheme
from dlka_med.evaluation.confusion import confusion


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("ignore", [None, 9])
def test_voxels_are_counted_as_a_loop_counts_them(tmp_path, dims, ignore):
    labels = {"background": 0, "a": 2, "b": 5} | ({} if ignore is None else {"ignore": ignore})
    random, ending = np.random.default_rng(dims), ".png" if dims == 2 else ".nii.gz"
    shape, values = (7, 5, 3)[:dims], (0, 2, 5)
    expected, pairs = np.zeros((3, 3), int), []
    for case in range(3):
        found = random.choice(values, shape).astype(np.uint8)
        truth = random.choice([*values, *([] if ignore is None else [ignore])], shape).astype(np.uint8)
        for one, other in zip(truth.flat, found.flat, strict=True):
            if one != ignore:
                expected[values.index(one), values.index(other)] += 1
        paths = [tmp_path / f"{kind}{case}{ending}" for kind in ("found", "truth")]
        for path, array in zip(paths, (found, truth), strict=True):
            if dims == 2:
                Image.fromarray(array).save(path)
            else:
                nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        pairs.append(tuple(paths))
    assert (confusion(pairs, LabelScheme.of(labels)) == expected).all()
