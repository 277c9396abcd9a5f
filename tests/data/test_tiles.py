import pickle

import numpy as np
import pytest

from dlka_med.data import tiles as tiles_module
from dlka_med.data.tiles import Tiles, write_tiles
from dlka_med.errors import InputError


def stored(path, array, across=None):
    write_tiles(path, array, across)
    return Tiles.open(path, array.shape, array.dtype.type)


@pytest.mark.parametrize("shape", [(1, 35, 50, 36), (2, 16, 17, 3), (1, 1, 1, 1), (3, 70, 129), (1, 64, 1)])
@pytest.mark.parametrize("across", [None, 0, -1])
def test_boxes_are_those_of_the_array(tmp_path, shape, across):
    random = np.random.default_rng(0)
    array = random.normal(size=shape).astype(np.float32)
    across = None if across is None or len(shape) == 3 else across % (len(shape) - 1)
    found = stored(tmp_path / "a.npy", array, across)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found[(slice(None),) * len(shape)], array)
    for _ in range(30):
        ends = [sorted(random.integers(0, size + 1, 2)) for size in shape]
        box = tuple(slice(int(low), int(high)) for low, high in ends)
        np.testing.assert_array_equal(found[box], array[box])
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again[box], array[box])


@pytest.mark.parametrize(
    ("across", "size", "most"),
    [(2, (96, 96, 1), 3.3), (0, (1, 96, 96), 3.3), (None, (48, 48, 48), 2.6)],
)
def test_a_patch_is_read_near_its_own_size(tmp_path, monkeypatch, across, size, most):
    """The bound is that of a patch that touches one more tile along each axis than it has to."""
    array = np.random.default_rng(0).random((1, 128, 128, 128), dtype=np.float32)
    found, read = stored(tmp_path / "a.npy", array, across), []
    load = Tiles._tiles

    def counted(self, low, high):
        block = load(self, low, high)
        read.append(block.nbytes)
        return block

    monkeypatch.setattr(tiles_module.Tiles, "_tiles", counted)
    random = np.random.default_rng(1)
    for _ in range(20):
        start = [int(random.integers(0, 129 - length)) for length in size]
        box = (slice(None), *(slice(at, at + length) for at, length in zip(start, size, strict=True)))
        assert found[box].nbytes * most >= read[-1]
    assert array.nbytes > 15 * max(read) or across is None


def test_small_arrays_are_hardly_padded(tmp_path):
    array = np.zeros((1, 35, 50, 36), np.float32)
    stored(tmp_path / "a.npy", array)
    assert (tmp_path / "a.npy").stat().st_size < 1.15 * array.nbytes


def test_other_files_are_refused(tmp_path):
    array = np.zeros((1, 20, 20, 20), np.float32)
    stored(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match="not the tiles of"):
        Tiles.open(tmp_path / "a.npy", (1, 40, 20, 20), np.float32)
    with pytest.raises(ValueError, match="float32, expected uint8"):
        Tiles.open(tmp_path / "a.npy", array.shape, np.uint8)


@pytest.mark.parametrize("damage", ["removed", "cut short"])
def test_what_vanishes_in_use_is_named(tmp_path, damage):
    found = stored(tmp_path / "a.npy", np.ones((1, 20, 20, 20), np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").unlink()
    if damage == "cut short":
        (tmp_path / "a.npy").write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"a\.npy cannot be read .* --resume"):
        found[:, :, :, :]
