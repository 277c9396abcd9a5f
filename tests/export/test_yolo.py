"""C3_DCNv3_DLKA in model files of Ultralytics, and versions of it that read them in another way."""

import os
import runpy
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.blocks import C3_DCNv3_DLKA
from dlka_med.errors import InputError
from dlka_med.export.yolo import register_ultralytics

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "yolo"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The module of Ultralytics that reads model files; what its import changes elsewhere is put back."""
    settings = {"YOLO_CONFIG_DIR": str(tmp_path_factory.mktemp("ultralytics")), "YOLO_OFFLINE": "true"}
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, settings), np.printoptions():
        patch.setattr(torch, "save", torch.save)
        tasks = pytest.importorskip("ultralytics.nn.tasks", reason='NOT TESTED: pip install "dlka_med[yolo]"')
        register_ultralytics()
        yield tasks


def read(tasks, *rows, depth=1.0, width=1.0):
    model = {"nc": 1, "depth_multiple": depth, "width_multiple": width, "backbone": list(rows), "head": []}
    return tasks.parse_model(deepcopy(model), ch=3, verbose=False)[0]


def test_a_row_is_read_as_one_of_c3(tasks):
    plain, ours = read(
        tasks,
        [-1, 6, "C3", [64, False, 2, 1.0]],
        [-1, 6, "C3_DCNv3_DLKA", [64, False, 2, 1.0]],
        depth=0.33,
        width=0.25,
    )
    assert type(plain).__name__ == "C3"
    assert type(ours) is C3_DCNv3_DLKA
    for block, inputs in ((plain, 3), (ours, 16)):
        first, last = (next(m for m in part.modules() if isinstance(m, nn.Conv2d)) for part in (block.cv1, block.cv3))
        assert (first.in_channels, first.out_channels, last.out_channels, len(block.m)) == (inputs, 16, 16, 2)
    assert [bottleneck.shortcut for bottleneck in ours.m] == [False, False]
    assert ours.m[0].deform[0].geometry.offset_groups == 2
    assert (ours.i, ours.f, ours.np) == (1, -1, sum(p.numel() for p in ours.parameters()))


def test_registering_draws_no_random_numbers(tasks):
    del tasks.C3_DCNv3_DLKA, tasks.frozenset
    state = torch.get_rng_state()
    register_ultralytics()
    assert torch.equal(torch.get_rng_state(), state)


def test_other_layers_are_read_as_ever_and_a_second_call_changes_nothing(tasks):
    names = {name: value for name, value in vars(tasks).items() if not name.startswith("__")}
    register_ultralytics()
    assert {name: value for name, value in vars(tasks).items() if not name.startswith("__")} == names
    rows = [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 2, "C3", [32]],
        [-1, 2, "Bottleneck", [32]],
        [-1, 1, "nn.Upsample", [None, 2]],
    ]
    layers = read(tasks, *rows)
    with mock.patch.dict(vars(tasks), frozenset=frozenset):
        assert str(read(tasks, *rows)) == str(layers)


def test_the_neck_of_the_example(tasks):
    model = tasks.DetectionModel(tasks.yaml_model_load(EXAMPLE / "yolo_dlka.yaml"), verbose=False).eval()
    rows = {row.i: row for row in model.model if isinstance(row, C3_DCNv3_DLKA)}
    channels = {i: (row.cv1[0].in_channels, row.cv3[0].out_channels) for i, row in rows.items()}
    assert channels == {13: (256, 128), 17: (128, 64), 20: (128, 128), 23: (256, 256)}
    assert model.stride.tolist() == [8, 16, 32]
    twin, x = deepcopy(model), torch.rand(1, 3, 96, 64)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(x)[0], model(x)[0])


def test_the_example_trains(tasks, capsys):
    runpy.run_path(str(EXAMPLE / "yolo_dlka.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].endswith("C3_DCNv3_DLKA in rows [13, 17, 20, 23]")
    losses = [float(loss) for loss in lines[-1].split()[1:]]
    assert 0 < losses[-1] < 0.9 * losses[0]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(InputError, match=r"ultralytics is not installed: pip install \"dlka_med\[yolo\]\""):
        register_ultralytics()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.Conv2d(3, 16, 1), "expected a C3_DCNv3_DLKA, got a Conv2d"),
        (lambda: C3_DCNv3_DLKA(3, 32, 4, False, 2), r"expected 3 and 16 channels, .* got \(3, 32, 4, False\)"),
        (lambda: C3_DCNv3_DLKA(32, False), "c2 must be at least 1, got False"),
    ],
)
def test_a_version_that_reads_files_in_another_way_is_refused_and_left_as_it_was(monkeypatch, layer, reason):
    package, nn_package, tasks = map(ModuleType, ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"))
    package.__version__, nn_package.tasks = "7.5.3", tasks
    tasks.parse_model = lambda d, ch, verbose=True: (nn.Sequential(layer()), [])
    monkeypatch.setitem(sys.modules, "ultralytics", package)
    monkeypatch.setitem(sys.modules, "ultralytics.nn", nn_package)
    before = dict(vars(tasks))
    with pytest.raises(RuntimeError, match=rf"ultralytics 7\.5\.3 does not read model files as expected .*{reason}"):
        register_ultralytics()
    assert vars(tasks) == before
