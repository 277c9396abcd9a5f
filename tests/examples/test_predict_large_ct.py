"""The example predicts a scan and says what that took."""

import json
import re
import runpy
from pathlib import Path

import nibabel as nib
import numpy as np

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "predict_large_ct.py"


def test_a_small_scan_is_predicted_within_the_peak_that_is_printed(capsys, monkeypatch):
    names, seen = runpy.run_path(str(EXAMPLE)), []
    predict = names["predict_images"]

    def spy(run, scan, out, **options):
        (path,) = predict(run, scan, out, **options)
        seen.append((nib.load(scan), np.asarray(nib.load(path).dataobj), options))

    monkeypatch.setitem(names["main"].__globals__, "predict_images", spy)
    shape, options = (40, 33, 20), {"memory": 20, "device": "cpu"}
    words = "--shape 40 33 20 --spacing 0.8 0.9 1.5 --classes 4 --patch 16 16 16 --options"
    names["main"]([*words.split(), json.dumps(options)])
    said = re.fullmatch(
        r"peak ([\d.]+) GiB, (\d+) s, of which (\d+) s in (\d+) forward passes\n", capsys.readouterr().out
    )
    [(scan, found, given)] = seen
    assert scan.shape == found.shape == shape
    np.testing.assert_allclose(scan.header.get_zooms(), (0.8, 0.9, 1.5), rtol=1e-6)
    assert set(np.unique(found)) <= set(range(4))
    assert given == options
    assert 0.2 < float(said[1]) < 20
    assert int(said[4]) - 3 * 3 * 2 in (1, 2), "each window, and one or two to measure"
