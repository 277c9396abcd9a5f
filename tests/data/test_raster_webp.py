"""Pictures for pages."""

import io

import numpy as np
import pytest
from PIL import Image

from dlka_med.data.raster import webp_of


@pytest.mark.parametrize("shape", [(7, 12), (7, 12, 3)])
def test_webp_is_what_it_was_made_of(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(webp_of(pixels))))
    assert (read == (pixels if len(shape) == 3 else pixels[..., None])).all()
    assert len(webp_of(pixels, 10)) < len(webp_of(pixels))
