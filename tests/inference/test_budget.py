"""What a case is expected to take, against what it takes, and what follows from a limit."""

import logging
import mmap
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.data.prepare import prepare
from dlka_med.errors import InputError
from dlka_med.inference import budget as module
from dlka_med.inference.budget import GIB, Budget, Extent, WindowCost, measure_window
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import Layout, Load

PROCESS = 0.5 * GIB
WINDOW = WindowCost(bytes=0.25 * GIB, seconds=0.5, outputs=9, process=PROCESS)
PROJECT = Path(__file__).resolve().parent.parent.parent


def config(**preprocessing) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "dataset": {"root": "data", "channels": ["CT"], "labels": {"background": 0, "organ": 1}},
            "preprocessing": {"crop_foreground": False, "intensity": [{"kind": "none"}]} | preprocessing,
            "network": {"name": "dlka_net_3d"},
            "training": {"patch_size": [32, 32, 32]},
        }
    )


@pytest.fixture
def budget(monkeypatch):
    """`budget(gib, **preprocessing)`: of a network of which a window is said to take `WINDOW`."""
    monkeypatch.setattr(module, "measure_window", lambda *_: WINDOW)

    def build(gib=None, slices=None, **preprocessing) -> Budget:
        predictor = Predictor(nn.Identity(), patch_size=(32,) * (2 if slices else 3), batch_size=4, slices=slices)
        return Budget(predictor, config(**preprocessing), None if gib is None else gib * GIB)

    return build


def extent(shape=(512, 512, 100), channels=1, resampled=False) -> Extent:
    return Extent(channels, prod(shape), prod(shape), Layout.of(shape, (32, 32, 32), 0.5), resampled)


def test_the_peak_is_the_process_image_band_windows_empty_one_and_label_map(budget):
    one = extent((64, 64, 100))
    voxels, band = 64 * 64 * 100, 4 * 10 * 32 * 64 * 64
    kept = 4 * 9 * 32**3
    expected = PROCESS + 4 * voxels + band + 3 * 0.25 * GIB + kept + voxels
    assert budget(4).peak(one, Load(3)) == pytest.approx(expected * module.MARGIN + module.FALLOW)


def test_every_network_has_a_band_and_what_is_averaged_is_counted(monkeypatch):
    monkeypatch.setattr(module, "measure_window", lambda *_: WINDOW)
    one, bands = extent((64, 64, 100)), 5 * 4 * 10 * 32 * 64 * 64
    predictor = Predictor([nn.Identity() for _ in range(5)], patch_size=(32, 32, 32))
    averaged = 4 * module.COPIES * module.AVERAGED_NUMBERS
    alone = Budget(Predictor(nn.Identity(), patch_size=(32, 32, 32)), config(), 4 * GIB).peak(one, Load())
    found = Budget(predictor, config(), 4 * GIB).peak(one, Load())
    empty = 4 * 4 * WINDOW.outputs * 32**3  # of each further network the logits of the empty window
    assert found - alone == pytest.approx(module.MARGIN * (4 * bands / 5 + averaged + empty))


def test_what_is_written_beside_the_label_map_is_counted(budget):
    one, plain = extent((64, 64, 100)), budget(4)
    rich = Budget(plain._predictor, config(), 4 * GIB, beside=3)
    interpolated = 16 * min(module.SLAB_NUMBERS, 9 * one.native)
    assert rich.peak(one, Load()) - plain.peak(one, Load()) == pytest.approx(
        module.MARGIN * (3 * one.native + interpolated)
    )


def test_changing_and_writing_a_label_map_may_take_the_most(budget):
    one = extent((64, 64, 100))
    usual = budget(4).peak(one, Load())
    assert budget(4).peak(replace(one, writing=20), Load()) == usual, "the bands are gone by then"
    assert budget(4).peak(replace(one, writing=9e3), Load()) == pytest.approx(
        module.MARGIN * (PROCESS + 9e3 * one.native) + module.FALLOW
    )
    with pytest.raises(InputError, match="needs about"):
        budget(4).load(replace(one, writing=9e3))


def test_as_many_windows_pass_at_once_as_fit(budget):
    one = extent()
    least = budget(100).peak(one, Load(1)) / GIB
    step = module.MARGIN * 0.25
    for spare, windows in ((0.01, 1), (1.01, 2), (2.5, 3), (3.01, 4), (9, 4)):
        assert budget(least + spare * step).load(one) == Load(windows)
    assert budget(100).load(extent((32, 32, 40))).windows == 2, "no more than there are"
    with pytest.raises(InputError, match="needs about"):
        budget(least - 0.01).load(one)


def test_what_is_refused_fits_into_the_memory_that_is_named(budget):
    for gib in (0.1, 0.5, 0.9):
        with pytest.raises(InputError) as caught:
            budget(gib).load(extent())
        named = re.fullmatch(
            r"it needs about [\d.]+ GiB of memory, but may take ([\d.]+): give --memory ([\d.]+) .*",
            str(caught.value),
        )
        assert float(named[1]) == gib
        assert budget(float(named[2])).load(extent()) == Load(1)


def test_reading_has_to_fit_too(budget):
    large = extent((512, 512, 800))
    needed = (module.MARGIN * (PROCESS + large.preparing) + module.FALLOW) / GIB
    budget(needed + 0.01).check_preparing(large)
    with pytest.raises(InputError, match="give --memory"):
        budget(needed - 0.01).check_preparing(large)
    with pytest.raises(InputError) as caught:
        budget(0.1).check_preparing(extent())
    (named,) = re.findall(r"--memory ([\d.]+)", str(caught.value))
    assert budget(float(named)).load(extent()) == Load(1), "what is named is enough for what follows"


@pytest.mark.parametrize(("step", "told"), [(9, False), (11, True)])
def test_a_case_that_grows_far_too_much_may_have_a_wrong_unit(budget, tmp_path, step, told):
    case, made = write(tmp_path / "a.nii", (20, 21, 22), np.diag([step] * 3 + [1])), budget(0.1, spacing=(1, 1, 1))
    with pytest.raises(InputError, match="give --memory") as refusal:
        made.check_preparing(made.expected(case))
    hint = f"; resampling makes {step**3} voxels of one: is the unit of its header right?"
    assert str(refusal.value).endswith(hint) == told


def test_cases_are_read_and_written_beside_the_network_where_all_fits(budget, caplog):
    """Writing behind takes less than reading ahead, and is given up last."""
    one, caplog.handler.level = extent(), logging.INFO
    alone, written, read = budget(100).peak(one, Load(4)), 3 * one.native, one.preparing
    for more, fits in (
        (written + read, (True, True)),
        (0.9 * (written + read), (True, False)),
        (0.99 * written, (False, False)),
    ):
        made = budget((alone + module.MARGIN * more) / GIB + 1e-6)
        with caplog.at_level(logging.INFO, "dlka_med"):
            caplog.clear()
            assert made.beside(one, one, one) == made.beside(one, one, one) == fits
        told = {(True, True): [], (True, False): ["read"], (False, False): ["read and written"]}[fits]
        assert caplog.messages == [f"memory is short: the network waits while cases are {what}" for what in told]
    assert budget(alone / GIB + 1e-6).beside(None, one, None) == (True, True)
    assert budget(0.1).beside(one, one, one) == (True, True), "it will be refused"


def test_what_is_written_behind_leaves_room_to_read(budget):
    """The case itself is read while the last one is written."""
    small, large = extent((64, 64, 64)), extent((512, 512, 800), resampled=True)
    enough = (module.MARGIN * (PROCESS + large.preparing + 3 * small.native) + module.FALLOW) / GIB
    assert budget(enough + 1e-6).beside(small, large, None) == (True, True)
    assert budget(enough - 1e-6).beside(small, large, None) == (False, True)


def test_without_a_limit_it_is_what_is_free(budget, monkeypatch):
    monkeypatch.setattr(module.machine, "free_memory", lambda: 7 * GIB)
    assert budget().limit == PROCESS + 7 * GIB


@pytest.mark.parametrize(
    ("gpu", "load"),
    [(8, Load(4)), (0.7, Load(1)), (0.6, Load(2, sums_on_cpu=True)), (0.3, Load(1, sums_on_cpu=True))],
)
def test_on_a_gpu_windows_and_sums_follow_from_its_memory(budget, gpu, load):
    one, made = extent((512, 512, 512)), budget(50)
    made._gpu = gpu * GIB
    assert made.load(one) == load
    band = one.layout.band_bytes(9)
    without = made.peak(one, replace(load, sums_on_cpu=False))
    assert made.peak(one, Load(4, sums_on_cpu=True)) == pytest.approx(without + module.MARGIN * band)
    made._gpu = 0.2 * GIB
    with pytest.raises(InputError, match=r"needs about 0\.26 GiB .* may take 0\.20"):
        made.load(one)


def write(path, shape, affine) -> Case:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine), path)
    return Case("a", (path,), None)


@pytest.mark.parametrize("spacing", [None, (1.5, 0.7, 2.0), (0.8, None, 1.1)])
@pytest.mark.parametrize("orientation", [None, "RAS", "SPL"])
@pytest.mark.parametrize("slices", [None, "axial", "coronal"])
def test_the_extent_is_told_by_the_header(budget, tmp_path, spacing, orientation, slices):
    affine = np.array([[0, 0, -1.1, 0], [0.8, 0, 0, 0], [0, 1.3, 0, 0], [0, 0, 0, 1]])
    case = write(tmp_path / "a.nii.gz", (40, 17, 23), affine)
    made = budget(4, slices, spacing=spacing, orientation=orientation)
    expected = made.expected(case)
    settings = config(spacing=spacing, orientation=orientation).preprocessing
    prepared = prepare(case, settings, ["CT"])
    assert made.extent(prepared) == expected
    voxels = np.asarray(nib.load(case.images[0]).dataobj)
    assert expected.resampled is not np.array_equal(np.sort(prepared.image, axis=None), np.sort(voxels, axis=None))
    assert expected.layout.shape == prepared.image.shape[1:]
    assert expected.native == 40 * 17 * 23


def test_of_a_damaged_header_nothing_is_told(budget, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    assert budget(4).expected(Case("a", (tmp_path / "a.nii.gz",), None)) is None


def test_of_a_singular_affine_nothing_is_told(budget, tmp_path):
    case = write(tmp_path / "a.nii", (4, 5, 6), np.eye(4))
    data = bytearray(case.images[0].read_bytes())
    data[280:296] = bytes(16)  # srow_x
    case.images[0].write_bytes(data)
    assert budget(4, spacing=(1, 1, 1)).expected(case) is None


def test_the_outlook_tells_seconds_and_bytes(budget):
    small, large = extent((32, 32, 32)), extent()
    seconds = large.layout.count * 0.5
    said = re.fullmatch(
        r"expected per case: 0\.5 to (\d+) s of the network and ([\d.]+) to ([\d.]+) GiB of memory, with 4 windows of "
        r"32 x 32 x 32 voxels at once, summed on cpu",
        budget(4).outlook([small, large]),
    )
    assert float(said[1]) == pytest.approx(seconds, abs=0.5)
    beside = {small: large.preparing, large: 3 * small.native}
    for found, (one, more) in zip(said.groups()[1:], beside.items(), strict=True):
        peak = budget(4).peak(one, budget(4).load(one)) + module.MARGIN * more
        assert float(found) == pytest.approx(peak / GIB, abs=0.051)
    assert "with 1 window of" in budget(4).outlook([small])
    budget(0.1).outlook([large])  # of what will be refused, too


@pytest.mark.parametrize("slices", [None, "axial"])
def test_a_window_is_measured(slices):
    class Holds(nn.Module):
        def forward(self, x):
            with mmap.mmap(-1, 64 * 2**20) as fresh:  # what malloc gives may be held already, freed by others
                fresh.write(b"1" * len(fresh))
            return x[:, :1].expand(-1, 5, *x.shape[2:])

    patch = (16, 16) if slices else (16, 16, 16)
    cost = measure_window(Predictor(Holds(), patch_size=patch, slices=slices), channels=2)
    assert cost.outputs == 5
    assert 50 * 2**20 < cost.bytes < 200 * 2**20
    assert cost.seconds > 0
    assert cost.process > 50 * 2**20


@pytest.mark.parametrize(("compiling", "told"), [(15, 1), (60, 61)])
def test_compiling_in_the_first_pass_is_no_time_of_a_window(monkeypatch, compiling, told):
    """Unless it takes so long that nobody wants to wait for another one."""
    now, waits = [0.0], [compiling, 0]

    class Compiles(nn.Module):
        def forward(self, x):
            now[0] += 1 + waits.pop(0)
            return x

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    assert measure_window(Predictor(Compiles(), patch_size=(4, 4, 4)), channels=2).seconds == told


def test_a_window_passes_every_network():
    seen = []

    class Counts(nn.Module):
        def forward(self, x):
            seen.append(self)
            return x

    networks = [Counts(), Counts(), Counts()]
    measure_window(Predictor(networks, patch_size=(4, 4, 4)), channels=2)
    assert seen[:3] == networks


def test_a_window_without_room_is_refused():
    class Hungry(nn.Module):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(InputError, match=r"a window of 4 x 4 x 4 voxels: there is not enough memory \(CUDA out"):
        measure_window(Predictor(Hungry(), patch_size=(4, 4, 4)), channels=1)


MEASURE = """
import sys, torch, numpy as np
from torch import nn
from dlka_med import machine
from dlka_med.data.prepare import Prepared
from dlka_med.inference.budget import GIB, Budget
from dlka_med.inference.predictor import Predictor
sys.path.insert(0, sys.argv[1])
from test_budget import config
shape, affine = tuple(map(int, sys.argv[3].split(","))), np.eye(4)
native = np.diag([float(sys.argv[2])] * 3 + [1])
predictor = Predictor(nn.Conv3d(1, 20, 3, padding=1), patch_size=(32, 32, 32), batch_size=2)
budget = Budget(predictor, config(spacing=(1, 1, 1) if sys.argv[2] != "1" else None), 50 * GIB)
prepared = Prepared("a", np.ones((1, *shape), np.float32), None, affine, shape, native)
extent = budget.extent(prepared)
predictor.load = budget.load(extent)
_, peak = machine.peak_while(lambda: predictor.segment(prepared))
print(budget.peak(extent, predictor.load) / peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["256,256,96", "96,256,288"])
@pytest.mark.parametrize("scale", ["1", "0.9"])
def test_the_estimate_is_near_the_peak(scale, shape):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(Path(__file__).parent), scale, shape],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 1.3
