"""PNG files that are, or say they are, larger than there is room for."""

import struct
import zlib

import pytest
from PIL import Image

from dlka_med.data.raster import read_raster
from dlka_med.errors import InputError

from .test_raster import DEEP, png


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    data = bytearray(png(DEEP, 0))
    for side in (10_000, 100_000):  # Pillow warns of the first and refuses the second
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=rf"a\.png has more than 89 million pixels: cut it into tiles \(.*{side**2} pixels"
        ):
            read_raster(path, ["x"])
    monkeypatch.setattr("dlka_med.data.raster.MAX_PIXELS", 34)
    path.write_bytes(png(DEEP, 0))
    with pytest.raises(InputError, match=r"cut it into tiles \(its header claims 35\)"):
        read_raster(path, ["x"])


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    def lacking(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    (tmp_path / "a.png").write_bytes(png(DEEP, 0))
    monkeypatch.setattr(Image.Image, "load", lacking)
    with pytest.raises(MemoryError, match=r"a\.png: Unable to allocate 9 TiB"):
        read_raster(tmp_path / "a.png", ["x"])
