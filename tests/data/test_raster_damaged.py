"""PNG, TIFF and JPEG files of random bytes."""

from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from dlka_med.data.raster import read_raster, read_raster_label
from dlka_med.errors import InputError

RGB = ("R", "G", "B")
COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif", "random.png"])
@pytest.mark.parametrize("files", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_bytes_are_read_or_refused_by_name(tmp_path, name, files):
    random, path, read = np.random.default_rng(0), tmp_path / name, 0
    Image.fromarray(COLOURS).save(path, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    raw = random.bytes(300) if name == "random.png" else path.read_bytes()
    for number in range(files):
        damaged = bytearray(raw)
        for place in random.integers(0, len(raw), random.integers(0, 6)):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(raw))] if number % 3 == 0 else damaged)
        for reader in (lambda: read_raster(path, RGB), lambda: read_raster_label(path)):
            with suppress(InputError):
                reader()
                read += 1
    assert (read == 0) == (name == "random.png")
    assert read < 2 * files
