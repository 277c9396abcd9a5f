"""What stands beside label maps is written while the network is at work, in little memory."""

import gc
import threading
import tracemalloc
import weakref
from math import prod

import nibabel as nib
import numpy as np
import pytest
from torch import nn

from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.inference import extras as module
from dlka_med.inference.extras import Extras
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.writing import MAP
from dlka_med.run_folder import RunFolder

from .test_predict import make_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The path of one with three classes."""
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": nn.Conv3d(1, 3, 1))
    return make_run(tmp_path / "run").path


def write_image(path, seed, shape=(13, 10, 11)):
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return path


@pytest.mark.parametrize("kind", ["write_probabilities", "write_share_map"])
def test_the_network_is_at_the_next_case_while_one_is_written(run, tmp_path, monkeypatch, kind):
    """Compressing the first case waits until the windows of the second have passed."""
    for number in range(2):
        write_image(tmp_path / "images" / f"scan{number}.nii.gz", number)
    passed, waited, plain, segment = threading.Event(), [], getattr(module, kind), Predictor.segment

    def write(file, *rest):
        if "scan0" in str(file):
            waited.append(passed.wait(20))
        plain(file, *rest)

    def segmented(self, prepared, *rest, **options):
        classes = segment(self, prepared, *rest, **options)
        if prepared.case_id == "scan1":
            passed.set()
        return classes

    monkeypatch.setattr(module, kind, write)
    monkeypatch.setattr(Predictor, "segment", segmented)
    written = predict_images(run, tmp_path / "images", tmp_path / "out", probabilities="uint8", uncertainty=True)
    assert (len(written), waited) == (2, [True])
    assert len(list((tmp_path / "out").glob("*/scan?.nii.gz"))) == 4


def test_what_waits_to_be_written_holds_nothing_of_the_image(run, tmp_path):
    predictor, scan = Predictor.of_run(run), write_image(tmp_path / "scan.nii.gz", 0)
    prepared = predictor.prepared(Case("scan", (scan,)))
    image = weakref.ref(prepared.image)
    ways = Extras("uint8", uncertainty=True), predictor, prepared, lambda *_: None
    _, collected = Extras.segment(*ways, tmp_path / "out" / "scan.nii.gz", scan)
    del prepared, ways
    gc.collect()
    assert image() is None
    collected.write()
    assert len(list(tmp_path.glob("out/*/scan.nii.gz"))) == 2


def test_nothing_of_an_earlier_label_map_stays_beside_a_new_one(run, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    for number in range(2):
        write_image(images / f"scan{number}.nii.gz", number)
    predict_images(run, images, out, probabilities="uint8", uncertainty=True)
    predict_images(run, images, out, probabilities="float16", overwrite=True, only=["scan0"])
    found = sorted(path.relative_to(out).as_posix() for path in out.glob("*/scan*"))
    assert found == ["probabilities/scan0.npz", "probabilities/scan1.nii.gz", "uncertainty/scan1.nii.gz"]
    (out / "scan1.nii.gz").unlink()  # where another run will be at work
    predict_images(run, images, out, overwrite=True)
    assert not list(out.glob("*/scan*"))


@pytest.mark.slow
@pytest.mark.parametrize(("numbers", "uncertainty"), [(None, True), ("uint8", False), ("float16", True)])
def test_writing_holds_no_more_than_is_told(run, numbers, uncertainty, tmp_path):
    """By numpy's own count, of a case of three classes."""
    shape, extras = (96, 80, 64), Extras(numbers, uncertainty)
    told, held = extras.bytes_to_write(MAP), 1 + 2 * uncertainty
    image = np.random.default_rng(0).normal(0, 1, (1, *shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(image[0], np.eye(4)), tmp_path / "scan.nii.gz")
    prepared = Prepared("scan", image, None, np.eye(4), shape, np.eye(4))
    predictor, scan = Predictor.of_run(run), tmp_path / "scan.nii.gz"
    _, collected = extras.segment(predictor, prepared, lambda *_: None, tmp_path / "out" / "scan.nii.gz", scan)
    tracemalloc.start()
    collected.write()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (told - held) * prod(shape) + 2**20, "the label map and the shares were there before"
    assert told == {None: MAP, "uint8": 3, "float16": 5}[numbers] + 2 * uncertainty
