"""PNG, JPEG and TIFF files: pixels in rows and columns."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlka_med.data.formats import LOSSY_ENDINGS, check_file, ending
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.machine import is_lack_of_memory, lack_of_memory

FORMATS = ("PNG", "TIFF", "JPEG")
MAX_PIXELS = 89_478_485  # Pillow's own: beyond it a small file may be made to fill the memory
ORIENTATION = 0x0112  # the tag of EXIF
GREY_16 = ("I", "I;16", "I;16B", "I;16L")
MODES = (*GREY_16, "1", "L", "LA", "P", "PA", "RGB", "RGBA", "F")
INVERTED = ("L;I", "1;I")  # Pillow's names of the layouts on disk
OTHER_SIGNS = {("uint8", 2): np.int8, ("int32", 1): np.uint32}  # by the SampleFormat of TIFF, which Pillow passes over
STRETCHED = {"L;2": 85, "L;4": 17}
PLANES = ({"L"}, {"P"}, {*"RGB"}, {*"RGBA"})
COLOURS = ({"r", "red"}, {"g", "green"}, {"b", "blue"})
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Warning,
)


def read_raster(path: Path, channels: Sequence[str]) -> np.ndarray:
    """An image (C, rows, columns) as stored: 8, 16 or 32 bit, or float32.

    Turned upright where its EXIF data say so. A palette is looked up. Colours that are equal everywhere count as
    one channel, and a grey image as three where the channels are called red, green and blue. Grey of 2 or 4 bit is
    stretched to 8, and MinIsWhite of up to 8 bit inverted.

    Raises:
        InputError: the file is damaged, has another number of channels, several pages, transparent pixels,
            colours of 16 bit, bands or planes that Pillow cannot read, or too many pixels.
        MemoryError: there is no room for it; it names the file.
    """
    pixels = read_bands(path, channels)
    if pixels.shape[-1] != len(channels):
        raise InputError(
            f"{path} has {pixels.shape[-1]} channels, expected {len(channels)}, {list(channels)}: convert it, or save "
            "one file per channel, named _0000, _0001 and so on"
        )
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def read_bands(path: Path, channels: Sequence[str]) -> np.ndarray:
    """An image (rows, columns, bands), as near to `channels` as `read_raster` says; errors as there, but for bands."""
    pixels = read_pixels(path, is_label=False)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[-1] in (2, 4):
        if (pixels[..., -1] != 255).any():
            raise _transparent(path)
        pixels = pixels[..., :-1]
    wanted = len(channels)
    if wanted == 1 and pixels.shape[-1] == 3 and is_grey(pixels):
        pixels = pixels[..., :1]
    if wanted == 3 and pixels.shape[-1] == 1 and _are_colours(channels):
        pixels = pixels.repeat(3, axis=-1)
    return pixels


def read_raster_label(path: Path) -> np.ndarray:
    """Label values (rows, columns) as stored; of a palette its numbers, not its colours.

    Raises:
        InputError: see `read_raster`; or the file is JPEG, its pixels are colours, grey of 2 or 4 bit, or inverted.
    """
    if ending(path).lower() in LOSSY_ENDINGS:
        raise InputError(f"{path} is JPEG, which changes label values when it is saved: export the label as PNG")
    values = read_pixels(path, is_label=True)
    if values.ndim == 3 and values.shape[-1] > 2 and not is_grey(values[..., :3]):
        raise InputError(
            f"{path} is a colour image, but a label map has one value per pixel: replace each colour by the number "
            "of its label and save it as grey PNG"
        )
    return values if values.ndim == 2 else np.ascontiguousarray(values[..., 0])


def write_grey(path: Path, values: np.ndarray) -> None:
    """Write whole numbers (rows, columns) from 0 to 65535 as grey PNG, 8 bit where they fit, else 16.

    Raises:
        InputError: a value is larger.
    """
    if values.max(initial=0) > np.iinfo(np.uint16).max:
        raise InputError(f"{path}: PNG holds label values up to 65535, got {values.max()}: declare smaller ones")
    dtype = np.uint8 if values.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    with whole_file(path) as temporary:
        Image.fromarray(values.astype(dtype)).save(temporary, format="PNG")


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write an image (1 or 3, rows, columns) in the format that the name ends with; JPEG at its best quality.

    Raises:
        InputError: the format does not hold such numbers.
    """
    image = np.moveaxis(pixels, 0, -1)
    image = image[..., 0] if len(pixels) == 1 else image
    quality = {"quality": 100, "subsampling": 0} if ending(path).lower() in LOSSY_ENDINGS else {}
    try:
        with whole_file(path) as temporary:
            Image.fromarray(np.ascontiguousarray(image)).save(temporary, **quality)
    except (OSError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot hold {len(pixels)} channels of {pixels.dtype} ({error})") from error


def webp_of(pixels: np.ndarray, quality: int | None = None) -> bytes:
    """A picture (rows, columns) or (rows, columns, 3) of uint8 as a WebP file, of at most 16383 rows and columns.

    Args:
        quality: 0 to 100; None: nothing is lost.
    """
    written = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality, "method": 4}
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, format="WEBP", **options)
    return written.getvalue()


def look_at_raster(path: Path) -> tuple[str, int]:
    """Pillow's mode of a file that can be read, and its EXIF orientation, 1 for upright."""
    with Image.open(path, formats=FORMATS) as image:
        return image.mode, int(image.getexif().get(ORIENTATION, 1))


def raster_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a file, upright, by its header alone.

    Raises:
        InputError: it is no image file.
    """
    check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Of a TIFF file Pillow turns the size itself.
            turned = image.format != "TIFF" and int(image.getexif().get(ORIENTATION, 1)) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except (*UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} is no PNG, TIFF or JPEG file or has a broken header ({error})") from error


def read_pixels(path: Path, is_label: bool) -> np.ndarray:
    """Pixels (rows, columns), or (rows, columns, bands) of colours and alpha; errors as in `read_raster`."""
    check_file(path)
    try:
        # Of a path Pillow would map an uncompressed TIFF into memory, by the size that it has once it stands upright.
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            _check_header(path, image)
            layouts = _layouts(image)
            if is_label and any(layout.startswith((*STRETCHED, *INVERTED)) for layout in layouts):
                raise InputError(
                    f"{path} stores its labels in fewer than 8 bit, or inverted (MinIsWhite): save it as 8-bit grey PNG"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("P", "PA") and not is_label:
                transparent = upright.mode == "PA" or "transparency" in upright.info
                upright = upright.convert("RGBA" if transparent else "RGB")
            pixels = np.asarray(upright)
            if image.format == "TIFF":
                pixels = pixels.view(OTHER_SIGNS.get((pixels.dtype.name, image.tag_v2.get(339, (1,))[0]), pixels.dtype))
            if not is_label and image.mode != "P" and "transparency" in image.info:
                factor = max(STRETCHED.get(layout, 1) for layout in layouts)
                key = (np.asarray(image.info["transparency"]) * factor).astype(pixels.dtype)
                if (pixels.reshape(image.width * image.height, -1) == key).all(axis=1).any():
                    raise _transparent(path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): change its rights") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is no PNG, TIFF or JPEG file, or of a kind that cannot be read (of TIFF: bands that are "
            "neither grey, colours nor alpha; 64 bit): convert or copy it again"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from error
    except (MemoryError, *UNREADABLE) as error:
        if is_lack_of_memory(error):
            raise lack_of_memory(path, error) from error
        raise InputError(f"{path} is truncated or damaged ({error}): copy or export it again") from error
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _check_header(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"its header claims {image.width * image.height}")
    # The second picture of an MPO, which many cameras write as .jpg, is a preview.
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"{path} has {pages} pages, but a case is one image: save each page as a file of its own")
    if image.format == "TIFF":
        _check_tiff(path, image)
    # Pillow would drop the lower half of such numbers without a word.
    if image.mode not in GREY_16 and any(";16" in layout for layout in _layouts(image)):
        if "LA;16B" in _layouts(image):
            raise InputError(f"{path} has grey of 16 bit with alpha: save it without alpha, as 16-bit grey PNG")
        raise _deep_colours(path, 16)
    if image.mode not in MODES:
        raise InputError(f"{path} has pixels of the kind {image.mode}: save it as grey or RGB image")


def _check_tiff(path: Path, image: Image.Image) -> None:
    """Bands, bits and planes by the tags, of which Pillow may lose some without a word."""
    tags = image.tag_v2
    bands, readable = tags.get(277, 1), len(image.getbands())
    if bands > readable:
        raise InputError(f"{path} has {bands} bands, of which only {readable} can be read: save one file per channel")
    bits = max(tags.get(258, (1,)))
    if bands > 1 and bits > 8:
        raise _deep_colours(path, bits)
    # Pillow names the layout of each uncompressed plane by one letter, whatever its bits, their order and sense.
    in_planes = tags.get(284, 1) == 2 and all(tile[0] != "libtiff" for tile in image.tile)
    plain = bits == 8 and tags.get(262, 0) != 0 and tags.get(266, 1) == 1
    if in_planes and image.mode in MODES and not (plain and _layouts(image) in PLANES):
        raise InputError(
            f"{path} is a TIFF in separate planes (PlanarConfiguration 2), of which only complete ones "
            f"of 8-bit grey (no MinIsWhite), RGB or RGBA can be read, here {bands} of {bits} bit: save it with "
            "PlanarConfiguration 1, or as PNG"
        )


def _layouts(image: Image.Image) -> set[str]:
    """Pillow's names of how the pixels lie on disk; none once they are read."""
    return {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile}


def _deep_colours(path: Path, bits: int) -> InputError:
    return InputError(f"{path} has colours of {bits} bit: save it with 8 bit, or as one 16-bit grey file per channel")


def _transparent(path: Path) -> InputError:
    return InputError(f"{path} has transparent pixels: fill them with a colour and save it without alpha")


def _too_large(path: Path, claim: str) -> InputError:
    return InputError(f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels: cut it into tiles ({claim})")


def is_grey(pixels: np.ndarray) -> bool:
    """Whether all bands of (rows, columns, bands) are equal."""
    return bool((pixels == pixels[..., :1]).all())


def _are_colours(channels: Sequence[str]) -> bool:
    return all(name.strip().lower() in names for name, names in zip(channels, COLOURS, strict=True))
