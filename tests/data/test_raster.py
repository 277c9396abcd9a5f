"""PNG, TIFF and JPEG: what is read, what is refused, what is written."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlka_med.data.cases import Case
from dlka_med.data.load import load_case
from dlka_med.data.raster import raster_size, read_raster, read_raster_label, write_grey
from dlka_med.errors import InputError

RGB = ("R", "G", "B")
LABELS = {"background": 0, "nucleus": 1, "vessel": 300}
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)


def png(rows: np.ndarray, kind: int, *, bits: int = 16, key: tuple[int, ...] = ()) -> bytes:
    """A PNG by the letter of its specification; kind: 0 grey, 2 colours, 4 and 6 with alpha; key: what is clear."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = rows.shape[:2]
    pixels = b"".join(b"\0" + (row.astype(">u2").tobytes() if bits == 16 else packed(row, bits)) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    if key:
        parts.insert(1, (b"tRNS", struct.pack(f">{len(key)}H", *key)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def packed(row: np.ndarray, bits: int) -> bytes:
    """Numbers of `bits` bit one after the other, the highest bit first."""
    return np.packbits(row.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).tobytes()


def tiff(pixels: np.ndarray, *, planes=1, sense=1, extra=(), deflate=False, bits=None, order="<") -> bytes:
    """A TIFF of (rows, columns, bands); planes and sense: PlanarConfiguration and PhotometricInterpretation."""
    height, width, bands = pixels.shape
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    parts = [stored] if planes == 1 else [stored[..., band] for band in range(bands)]
    whole = bits or 8 * pixels.itemsize
    strips = [b"".join(packed(row, bits) for row in part) if bits else part.tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [whole] * bands, 259: [8 if deflate else 1], 262: [sense]}
    tags |= {273: starts, 277: [bands], 278: [height], 279: [len(strip) for strip in strips], 284: [planes]}
    tags |= {338: extra} if extra else {}
    tags |= {339: [2] * bands} if pixels.dtype.kind == "i" else {}
    head = 8 + sum(map(len, strips))
    entries, tail = b"", b""
    for tag, values in tags.items():
        value = struct.pack(f"{order}{len(values)}H", *values)
        if len(value) > 4:
            tail, value = tail + value, struct.pack(f"{order}I", head + 6 + 12 * len(tags) + len(tail))
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + value.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, head)
    return start + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + tail


@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("array", [GREY, DEEP, COLOURS], ids=["grey", "16 bit", "colours"])
def test_pixels_are_those_stored(tmp_path, array, ending):
    Image.fromarray(array).save(tmp_path / f"a{ending}")
    channels = RGB if array.ndim == 3 else ("stain",)
    found = read_raster(tmp_path / f"a{ending}", channels)
    np.testing.assert_array_equal(found, np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None])


def test_floats_and_signed_numbers_of_tiff(tmp_path):
    for array in (RANDOM.normal(size=(4, 6)).astype(np.float32), RANDOM.integers(-9, 9, (4, 6), dtype=np.int32)):
        Image.fromarray(array).save(tmp_path / "a.tif")
        np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", ["x"])[0], array)


@pytest.mark.parametrize("dtype", ["i1", ">i1", "i2", ">i2", "i4", ">i4", "u4"])
def test_whole_numbers_of_tiff_keep_their_sign(tmp_path, dtype):
    array = np.frombuffer(RANDOM.bytes(96), dtype[-2:])[:24].reshape(4, 6)
    (tmp_path / "a.tif").write_bytes(tiff(array[..., None], order=">" if dtype[0] == ">" else "<"))
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", ["x"])[0], array)
    np.testing.assert_array_equal(read_raster_label(tmp_path / "a.tif"), array)


def test_jpeg_is_read_as_image(tmp_path):
    smooth = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_raster(tmp_path / "a.jpg", ["x"])[0].astype(int) - smooth).max() < 8
    preview = Image.fromarray(255 - smooth[::2])
    Image.fromarray(smooth).save(tmp_path / "b.jpg", "MPO", quality=100, save_all=True, append_images=[preview])
    assert np.abs(read_raster(tmp_path / "b.jpg", ["x"])[0].astype(int) - smooth).max() < 8


def test_a_palette_is_looked_up_in_images_and_kept_in_labels(tmp_path):
    image = Image.fromarray(GREY % 3)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(read_raster_label(tmp_path / "a.png"), GREY % 3)
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png", RGB), np.moveaxis(palette[GREY % 3], -1, 0))
    image.save(tmp_path / "b.png", transparency=1)
    with pytest.raises(InputError, match=r"b\.png has transparent pixels"):
        read_raster(tmp_path / "b.png", RGB)
    np.testing.assert_array_equal(read_raster_label(tmp_path / "b.png"), GREY % 3)


def test_alpha_counts_only_if_it_hides_something(tmp_path):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png", RGB), np.moveaxis(COLOURS, -1, 0))
    alpha[2, 3] = 254
    for array in (COLOURS, GREY[..., None]):
        Image.fromarray(np.concatenate([array, alpha], -1)).save(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"a\.png has transparent pixels: fill"):
            read_raster(tmp_path / "a.png", RGB)


def test_grey_and_colours_stand_in_for_each_other_only_without_loss(tmp_path):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "grey.png", ["x"]), GREY[None])
    Image.fromarray(GREY).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "one.png", ["Red", "green", "B"]), np.stack([GREY] * 3))
    with pytest.raises(InputError, match=r"one\.png has 1 channels, expected 3, \['DAPI'.*_0000, _0001"):
        read_raster(tmp_path / "one.png", ["DAPI", "GFP", "RFP"])
    Image.fromarray(COLOURS).save(tmp_path / "colours.png")
    with pytest.raises(InputError, match=r"colours\.png has 3 channels, expected 1"):
        read_raster(tmp_path / "colours.png", ["x"])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "compression"), [("a.png", None), ("a.tif", None), ("a.tif", "tiff_lzw"), ("a.jpg", None)]
)
def test_images_stand_upright(tmp_path, orientation, name, compression):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": compression} if compression else {"quality": 100}
    for array in (GREY, COLOURS) if name == "a.png" else (GREY, DEEP, COLOURS) if name == "a.tif" else (GREY,):
        Image.fromarray(array).save(tmp_path / name, exif=exif, **options)
        turned = {
            1: array,
            2: array[:, ::-1],
            3: array[::-1, ::-1],
            4: array[::-1],
            5: array.swapaxes(0, 1),
            6: np.rot90(array, -1),
            7: array[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(array),
        }[orientation]
        found = read_raster(tmp_path / name, RGB if array.ndim == 3 else ["x"])
        expected = np.moveaxis(turned.reshape(*turned.shape[:2], -1), -1, 0)
        np.testing.assert_allclose(found, expected, atol=2 * (name == "a.jpg"))
        assert raster_size(tmp_path / name) == turned.shape[:2]
        if name != "a.jpg" and array.ndim == 2:
            np.testing.assert_array_equal(read_raster_label(tmp_path / name), turned)


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_colours_of_16_bit_are_refused_not_halved(tmp_path, kind):
    bands = {2: 3, 4: 2, 6: 4}[kind]
    path = tmp_path / "a.png"
    path.write_bytes(png(RANDOM.integers(0, 65536, (4, 5, bands)), kind))
    what = "grey of 16 bit with alpha: save it without" if kind == 4 else "colours of 16 bit: save it with 8 bit"
    with pytest.raises(InputError, match=rf"a\.png has {what}"):
        read_raster(path, RGB)
    path.write_bytes(png(DEEP, 0))
    np.testing.assert_array_equal(read_raster(path, ["x"])[0], DEEP)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
def test_planes_of_tiff_are_read_or_refused(tmp_path, planes, deflate, order):
    path = tmp_path / "a.tif"
    layout = {"planes": planes, "deflate": deflate, "order": order}
    path.write_bytes(tiff(GREY[..., None], **layout))
    np.testing.assert_array_equal(read_raster(path, ["x"]), GREY[None])
    opaque = np.concatenate([COLOURS, np.full((5, 7, 1), 255, np.uint8)], -1)
    for array, extra in ((COLOURS, ()), (opaque, (2,))):
        path.write_bytes(tiff(array, sense=2, extra=extra, **layout))
        np.testing.assert_array_equal(read_raster(path, RGB), np.moveaxis(COLOURS, -1, 0))
    deep = RANDOM.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    for array, extra in ((deep[..., :3], ()), (deep, (2,))):
        path.write_bytes(tiff(array, sense=2, extra=extra, **layout))
        with pytest.raises(InputError, match=r"a\.tif has colours of 16 bit: save it with 8 bit"):
            read_raster(path, RGB)
    path.write_bytes(tiff(DEEP[..., None], **layout))
    if planes == 1 or deflate:
        np.testing.assert_array_equal(read_raster(path, ["x"]), DEEP[None])
    else:
        with pytest.raises(InputError, match=r"a\.tif is a TIFF in separate planes .*1 of 16 bit: save it with Planar"):
            read_raster(path, ["x"])


def test_planes_that_pillow_would_mix_up_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    grey = GREY[..., None]
    with_alpha = np.concatenate([grey, np.full_like(grey, 255)], -1)
    for pixels, kind in ((with_alpha, {"extra": (2,)}), (grey, {"sense": 0}), (grey % 16, {"bits": 4})):
        path.write_bytes(tiff(pixels, planes=2, **kind))
        with pytest.raises(InputError, match=r"a\.tif is a TIFF in separate planes .*save it with PlanarConfig"):
            read_raster(path, ["x"])


def test_bands_that_cannot_be_read_are_not_lost(tmp_path):
    path = tmp_path / "a.tif"
    for bands, sense, readable in ((2, 1, 1), (4, 2, 3), (5, 2, 3)):
        pixels = RANDOM.integers(0, 256, (5, 7, bands), dtype=np.uint8)
        path.write_bytes(tiff(pixels, sense=sense, extra=(0,) * (bands - readable)))
        with pytest.raises(InputError, match=rf"a\.tif has {bands} bands, of which only {readable} can .*one file"):
            read_raster(path, RGB[:readable])
    path.write_bytes(tiff(pixels[..., :2]))
    with pytest.raises(InputError, match=r"a\.tif is .*of TIFF: bands that are neither grey, colours nor alpha"):
        read_raster(path, ["x"])


def test_labels_are_those_stored_or_refused(tmp_path):
    for bits, factor in ((2, 85), (4, 17)):
        (tmp_path / "a.png").write_bytes(png(GREY % 2**bits, 0, bits=bits))
        (tmp_path / "b.tif").write_bytes(tiff((GREY % 2**bits)[..., None], bits=bits))
        for name in ("a.png", "b.tif"):
            np.testing.assert_array_equal(read_raster(tmp_path / name, ["x"])[0], GREY % 2**bits * factor)
            with pytest.raises(InputError, match=rf"{name} stores its labels in fewer than 8 bit.* as 8-bit grey PNG"):
                read_raster_label(tmp_path / name)
    binary = (GREY % 2)[..., None]
    for bits in (1, 8):
        (tmp_path / "a.png").write_bytes(png(binary, 0, bits=bits))
        (tmp_path / "b.tif").write_bytes(tiff(binary, bits=bits))
        for name in ("a.png", "b.tif"):
            np.testing.assert_array_equal(read_raster_label(tmp_path / name), binary[..., 0])
        for deflate in (False, True):
            (tmp_path / "c.tif").write_bytes(tiff(binary, sense=0, bits=bits, deflate=deflate))
            with pytest.raises(InputError, match=r"c\.tif stores its labels .*or inverted \(MinIsWhite\)"):
                read_raster_label(tmp_path / "c.tif")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_clear_colour_counts_only_if_it_hides_something(tmp_path, bits):
    path = tmp_path / "a.png"
    grey = DEEP & 2**bits - 1
    grey[grey == 1] = 0
    path.write_bytes(png(grey, 0, bits=bits, key=(1,)))
    assert read_raster(path, ["x"]).shape == (1, 5, 7)
    grey[2, 3] = 1
    path.write_bytes(png(grey, 0, bits=bits, key=(1,)))
    with pytest.raises(InputError, match=r"a\.png has transparent pixels: fill"):
        read_raster(path, ["x"])


def test_a_clear_colour_must_agree_in_all_its_bands(tmp_path):
    path = tmp_path / "a.png"
    colours = COLOURS.copy()
    colours[2, 3], colours[2, 4] = (1, 2, 0), (1, 0, 3)
    path.write_bytes(png(colours, 2, bits=8, key=(1, 2, 3)))
    np.testing.assert_array_equal(read_raster(path, RGB), np.moveaxis(colours, -1, 0))
    path.write_bytes(png(colours, 2, bits=8, key=(1, 2, 0)))
    with pytest.raises(InputError, match=r"a\.png has transparent pixels: fill"):
        read_raster(path, RGB)


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    for name in ("a.tif", "a.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=[Image.fromarray(255 - GREY)])
        with pytest.raises(InputError, match=rf"{name} has 2 pages.*save each page"):
            read_raster(tmp_path / name, ["x"])


def test_other_colour_spaces_are_refused(tmp_path):
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg has pixels of the kind CMYK"):
        read_raster(tmp_path / "a.jpg", RGB)


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
def test_damaged_files(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    Image.fromarray(RANDOM.integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for length in range(0, len(data) - 12, 41):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=rf"a{ending} (is|has)"):
            read_raster(path, ["x"])
    path.write_bytes(b"no image at all" * 40)
    with pytest.raises(InputError, match="is no PNG, TIFF or JPEG file"):
        read_raster(path, ["x"])
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_raster(path, ["x"])


def test_what_is_no_label_is_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg is JPEG, .*export the label as PNG"):
        read_raster_label(tmp_path / "a.jpg")
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png is a colour image.*one value per pixel"):
        read_raster_label(tmp_path / "a.png")
    Image.fromarray(GREY).convert("RGBA").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_raster_label(tmp_path / "grey.png"), GREY)
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_raster_label(tmp_path / "bits.png"), GREY > 100)


@pytest.mark.parametrize(("high", "mode"), [(255, "L"), (256, "I;16"), (65535, "I;16")])
def test_labels_are_written_with_as_few_bits_as_they_need(tmp_path, high, mode):
    values = np.array([[0, 1, high], [high, 0, 7]])
    write_grey(tmp_path / "new" / "a.png", values)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert (image.mode, image.size) == (mode, (3, 2))
    np.testing.assert_array_equal(read_raster_label(tmp_path / "new" / "a.png"), values)
    with pytest.raises(InputError, match=r"up to 65535, got 65536"):
        write_grey(tmp_path / "b.png", values + 65536 - high)
    assert not (tmp_path / "b.png").exists()


def case_of(tmp_path, save, label) -> Case:
    image = save(tmp_path / "images" / "a.png", COLOURS)
    return Case("a", (image,), save(tmp_path / "labels" / "a.png", label))


def test_a_case_of_pixels(tmp_path, save):
    label = np.where(GREY > 200, 300, GREY > 100).astype(np.uint16)
    loaded = load_case(case_of(tmp_path, save, label), RGB, LABELS)
    assert (loaded.image.shape, loaded.image.dtype, loaded.label.dtype) == ((3, 5, 7), np.float32, np.uint8)
    np.testing.assert_array_equal(loaded.label, np.where(label == 300, 2, label))
    np.testing.assert_array_equal(loaded.affine, np.eye(3))
    parts = tuple(save(tmp_path / f"a_000{i}.tif", COLOURS[..., i]) for i in range(3))
    np.testing.assert_array_equal(load_case(Case("a", parts), RGB).image, loaded.image)


def test_mistakes_in_a_case_of_pixels(tmp_path, save):
    with pytest.raises(InputError, match=r"a\.png has the shape \(5, 7\), but .*a\.png has \(5, 6\)"):
        load_case(case_of(tmp_path, save, GREY[:, :6] % 2), RGB, LABELS)
    with pytest.raises(InputError, match=r"values that are not declared: 999 \(1 voxels\); declared are .*declare"):
        load_case(case_of(tmp_path, save, np.where(GREY[0, 0] == GREY, 999, 0).astype(np.uint16)), RGB, LABELS)
    with pytest.raises(InputError, match=r"labels.*a\.png is a colour image"):
        load_case(case_of(tmp_path, save, COLOURS), RGB, LABELS)
    case = case_of(tmp_path, save, GREY % 2)
    volume = save(tmp_path / "a.nii.gz", np.ones((5, 7, 1), np.uint8))
    with pytest.raises(InputError, match="one is a volume, the other a 2D image"):
        load_case(Case("a", case.images, volume), RGB, LABELS)
