"""Listing images, and the pixels of every kind of image file."""

import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from utils import images
from utils.images import ImageReadError, is_gray, list_images, read_rgb, to_rgb_array


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def texture(height: int = 48, width: int = 64, seed: int = 0) -> Image.Image:
    """Smooth colors, so that JPEG keeps them to a few levels."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def read(tmp_path):
    """Write bytes to a file, read it, and check what holds for every image."""

    def write_and_read(data: bytes, name: str = "image.jpg") -> np.ndarray:
        path = tmp_path / name
        path.write_bytes(data)
        rgb = read_rgb(path)
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        assert rgb.shape[2] == 3
        assert rgb.flags.c_contiguous
        assert rgb.flags.writeable
        with Image.open(path) as image:
            np.testing.assert_array_equal(to_rgb_array(image), rgb)
        return rgb

    return write_and_read


def error_of(path: Path) -> str:
    with pytest.raises(ImageReadError) as caught:
        read_rgb(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Files built by hand, from the specifications, for what Pillow cannot write.


def tiff(size: tuple[int, int], bits: tuple[int, ...], photometric: int, data: bytes, sample_format: int = 1) -> bytes:
    """Uncompressed little-endian TIFF of one strip, with its directory before the pixels (TIFF 6.0)."""
    width, height = size
    short, long = 3, 4
    entries = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, list(bits)),
        (259, short, [1]),
        (262, short, [photometric]),
        (273, long, None),  # where the pixels start, known once the directory is laid out
        (277, short, [len(bits)]),
        (278, long, [height]),
        (279, long, [len(data)]),
        (339, short, [sample_format] * len(bits)),
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    extra = b""
    directory = struct.pack("<H", len(entries))
    pixels = after + sum(2 * len(values) for _, kind, values in entries if kind == short and len(values) > 2)
    for tag, kind, values in entries:
        values = [pixels] if values is None else values
        packed = struct.pack(f"<{len(values)}{'H' if kind == short else 'I'}", *values)
        if len(packed) > 4:
            directory += struct.pack("<HHII", tag, kind, len(values), after + len(extra))
            extra += packed
        else:
            directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + extra
    assert len(head) == pixels
    return head + data


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """PNG that promises a size and holds one row at most."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


def png_of_16_bits(color_type: int, pixels: list[int], key: list[int] | None = None) -> bytes:
    """PNG of one row, gray (0) or color (2), with a transparent value."""
    width = len(pixels) // (1 if color_type == 0 else 3)
    data = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 16, color_type, 0, 0, 0))
    data += png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    data += png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(f">{len(pixels)}H", *pixels)))
    return b"\x89PNG\r\n\x1a\n" + data + png_chunk(b"IEND", b"")


def float_tiff(*values: float) -> bytes:
    return tiff((len(values), 1), (32,), 1, np.array(values, "<f4").tobytes(), sample_format=3)


def levels_tiff(*values: int, photometric: int = 1) -> bytes:
    return tiff((len(values), 1), (16,), photometric, np.array(values, "<u2").tobytes())


def icc_profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Profile of version 2 (ICC.1:2001-04): header, tag table, tags."""
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02400000, device, space, connection)
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(x * 65536) for x in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + table + body


def xyz_tag(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma_tag(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


ADOBE_GAMMA = 563 / 256  # Adobe RGB (1998), 4.3.4.2
# Columns red, green, blue in XYZ under D50, by Bruce Lindbloom, "RGB/XYZ matrices"; and sRGB from there.
ADOBE_TO_XYZ = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
XYZ_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)  # IEC 61966-2-1


ADOBE_RGB = icc_profile(
    b"mntr",
    b"RGB ",
    b"XYZ ",
    {
        b"wtpt": xyz_tag(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz_tag(*ADOBE_TO_XYZ[:, 0]),
        b"gXYZ": xyz_tag(*ADOBE_TO_XYZ[:, 1]),
        b"bXYZ": xyz_tag(*ADOBE_TO_XYZ[:, 2]),
        b"rTRC": gamma_tag(ADOBE_GAMMA),
        b"gTRC": gamma_tag(ADOBE_GAMMA),
        b"bTRC": gamma_tag(ADOBE_GAMMA),
    },
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB whose red is blue and whose blue is red
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
LINEAR_GRAY = icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": xyz_tag(0.9642, 1.0, 0.8249), b"kTRC": gamma_tag(1.0)})


def cmyk_profile() -> bytes:
    """CMYK whose paper is white, whose full cyan is the red of sRGB, and whose every other corner is black."""
    identity = struct.pack(">9i", *(65536 * x for x in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    red = bytes([round(54.29 * 2.55), 128 + 81, 128 + 70])  # CIELAB of sRGB red under D50: (54.29, 80.81, 69.89)
    corners = [bytes([0, 128, 128])] * 16
    corners[0b0000], corners[0b1000] = bytes([255, 128, 128]), red
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + b"".join(corners) + ramp * 3
    return icc_profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": xyz_tag(0.9642, 1.0, 0.8249), b"A2B0": table})


# Pixels of each kind of file


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_a_lossless_file_gives_the_pixels_it_was_made_of(read, kind, options):
    pixels = np.random.default_rng(1).integers(0, 256, (37, 53, 3), np.uint8)
    np.testing.assert_array_equal(read(encode(Image.fromarray(pixels), kind, **options)), pixels)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {})])
def test_a_lossy_file_gives_nearly_the_pixels_it_was_made_of(read, kind, options):
    image = texture()
    rgb = read(encode(image, kind, quality=95, **options))
    assert np.abs(rgb.astype(int) - np.asarray(image)).mean() < 2


GRAYS = [0, 32896, 65535, 257, 128, 129]  # 128 / 257 is just below one half, 129 / 257 just above
RAMP = (0, 0.2, 0.6, 1, 1 + 1 / 520, -1 / 520)  # a little beyond its range: less than half an 8-bit level


@pytest.mark.parametrize(
    ("data", "row"),
    {
        "one pixel": (encode(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), [[9, 99, 199]]),
        "gray of 16 bits": (png_of_16_bits(0, GRAYS), [0, 128, 255, 1, 0, 1]),
        "gray of 16 bits, TIFF": (levels_tiff(*GRAYS), [0, 128, 255, 1, 0, 1]),
        "where zero is white": (levels_tiff(0, 65535, 32896, photometric=0), [255, 0, 127]),
        # two pixels in three bytes: 0xFFF and 0x000, then 0x808 and 0xFFF
        "gray of 12 bits": (tiff((4, 1), (12,), 1, bytes.fromhex("fff000808fff")), [255, 0, 128, 255]),
        "floats to 1": (float_tiff(*RAMP), [0, 51, 153, 255, 255, 0]),
        "floats to 255": (float_tiff(*(255 * value for value in RAMP)), [0, 51, 153, 255, 255, 0]),
        "color of 16 bits": (png_of_16_bits(2, [0, 32896, 65535]), [[0, 128, 255]]),
        "color of 16 bits, TIFF": (
            tiff((1, 1), (16, 16, 16), 2, np.array([0, 32896, 65535], "<u2").tobytes()), [[0, 128, 255]]),
        "gray and alpha": (encode(Image.frombytes("LA", (3, 1), bytes([0, 128, 0, 255, 100, 0])), "PNG"), [127, 0, 255]),
        "a transparent gray": (png_of_16_bits(0, [771, 32896], [771]), [255, 128]),
        "a transparent color": (
            png_of_16_bits(2, [256, 600, 1000, 32896, 257, 0], [256, 600, 1000]), [[255] * 3, [128, 1, 0]]),
    }.values(),
)  # fmt: skip
def test_the_pixels_of_a_file_are_those_of_its_format(read, data, row):
    assert read(data)[0].tolist() == [[value] * 3 if isinstance(value, int) else value for value in row]


@pytest.mark.parametrize(
    ("image", "row"),
    [
        (Image.frombytes("I;16B", (6, 1), np.array(GRAYS, ">u2").tobytes()), [0, 128, 255, 1, 0, 1]),
        (Image.fromarray(np.array([GRAYS], np.int32)), [0, 128, 255, 1, 0, 1]),
        (Image.fromarray(np.array([[0, 128, 255]], np.int32)), [0, 128, 255]),  # integers up to 255 are 8-bit values
        (Image.new("YCbCr", (1, 1), (76, 85, 255)), [[254, 0, 0]]),  # JFIF, section 7
        (Image.frombytes("RGBa", (2, 1), bytes([128, 0, 0, 128, 0, 0, 0, 0])), [[255, 127, 127], [255] * 3]),
    ],
)
def test_the_pixels_of_an_open_image_are_those_of_its_mode(image, row):
    assert to_rgb_array(image)[0].tolist() == [[value] * 3 if isinstance(value, int) else value for value in row]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.array([[0, -1]], np.int32)), "expected [0, 255] or [0, 65535]"),
        (Image.fromarray(np.array([[0, 65536]], np.int32)), "expected [0, 255] or [0, 65535]"),
        (Image.new("RGB", (10, 10)), "image: has 100 pixels (10 x 10); expected at most 99"),
        (Image.new("RGB", (0, 5)), "image: has no pixels (0 x 5)"),
    ],
)
def test_an_open_image_out_of_bounds_is_refused_with_what_it_has(monkeypatch, image, words):
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageReadError) as caught:
        to_rgb_array(image)
    assert words in str(caught.value)


def test_an_image_of_many_strips_has_no_seam(read, monkeypatch):
    pixels = np.random.default_rng(2).integers(0, 256, (50, 30, 4), np.uint8)
    data = encode(Image.fromarray(pixels), "PNG", icc_profile=ADOBE_RGB)
    whole = read(data)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 7 * 30)
    np.testing.assert_array_equal(read(data), whole)


def test_a_format_is_known_by_its_content_and_not_by_its_extension(read):
    assert read(encode(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG"), "wrong.jpg")[0, 0].tolist() == [1, 2, 3]
    assert read(encode(Image.new("RGB", (2, 2), (1, 2, 3)), "BMP"), "none")[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("1", "TIFF"), ("L", "PNG"), ("L", "JPEG"), ("L", "BMP")])
def test_gray_has_three_equal_channels(read, mode, kind):
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (8, 0, 16, 8))
    rgb = read(encode(image.convert(mode), kind))
    assert rgb[3, 2].tolist() == [0, 0, 0]
    assert rgb[3, 12].tolist() == [255, 255, 255]


def test_a_palette_gives_its_colors(read):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert read(encode(image, kind)).tolist() == [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


def test_cmyk_becomes_its_complement_darkened_by_black(read):
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert read(encode(image, "TIFF"))[0, 0].tolist() == [0, 255, 255]
    np.testing.assert_allclose(read(encode(image, "JPEG", quality=100))[8, 8], [0, 255, 255], atol=2)
    half = Image.new("CMYK", (16, 16), (0, 51, 102, 128))
    assert read(encode(half, "TIFF"))[0, 0].tolist() == [127, 102, 76]  # 127 (1 - 51 / 255), 127 (1 - 102 / 255)


def test_ycck_of_adobe_is_undone(read):
    # A CMYK file marked as YCCK: its stored (inverted) 200, 128, 128 are then Y, Cb, Cr of a neutral ink of 200.
    data = encode(Image.new("CMYK", (16, 16), (55, 127, 127, 0)), "JPEG", quality=100)
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data = data[: marker + 11] + b"\2" + data[marker + 12 :]
    np.testing.assert_allclose(read(data)[8, 8], [55, 55, 55], atol=2)


def test_cmyk_with_a_profile_follows_the_profile(read):
    profile = cmyk_profile()
    for kind, tolerance in (("TIFF", 2), ("JPEG", 4)):
        cyan = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), kind, icc_profile=profile)
        paper = encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), kind, icc_profile=profile)
        np.testing.assert_allclose(read(cyan)[8, 8], [255, 0, 0], atol=tolerance)
        np.testing.assert_allclose(read(paper)[8, 8], [255, 255, 255], atol=tolerance)


def test_cielab_is_taken_under_d50(read):
    lab = np.array([[100, 0, 0], [50, 0, 0], [60, 30, -20], [40, -20, 25], [70, 5, 50]])
    pixels = np.stack([np.rint(lab[:, 0] * 2.55), lab[:, 1], lab[:, 2]], axis=1).astype(np.int16)  # TIFF 6.0, section 23
    # CIE 15:2004, where every f is above the linear part
    f = (lab[:, :1] + 16) / 116 + np.stack([lab[:, 1] / 500, 0 * lab[:, 1], -lab[:, 2] / 200], axis=1)
    linear = (f**3 * (0.9642, 1.0, 0.8249)) @ XYZ_TO_SRGB.T
    rgb = read(tiff((5, 1), (8, 8, 8), 8, pixels.astype(np.uint8).tobytes()))
    np.testing.assert_allclose(rgb[0], 255 * srgb_encode(linear).clip(0, 1), atol=1.5)
    np.testing.assert_allclose(rgb[0, :2], [[255] * 3, [119] * 3], atol=1)


# Alpha


def test_alpha_is_composited_on_white(read):
    pixels = np.array([[[255, 0, 0, 128], [255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[255, 127, 127], [255, 0, 0], [255, 255, 255], [255, 255, 255], [204, 204, 204]]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert read(encode(Image.fromarray(pixels), kind, **options))[0].tolist() == expected


def test_a_transparent_palette_entry_is_white(read):
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    solid = [[200, 0, 0], [255, 255, 255], [0, 0, 200]]
    assert read(encode(image, "GIF", transparency=1))[0].tolist() == solid
    assert read(encode(image, "PNG", transparency=1))[0].tolist() == solid
    graded = read(encode(image, "PNG", transparency=bytes([255, 0, 51])))[0].tolist()
    assert graded == [[200, 0, 0], [255, 255, 255], [204, 204, 244]]


def test_a_transparent_color_is_white(read):
    image = Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8))
    assert read(encode(image, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [1, 2, 4]]
    gray = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert read(encode(gray, "PNG", transparency=7))[0].tolist() == [[255] * 3, [8] * 3]


# Orientation


def test_orientation_6_turns_the_image_clockwise(read):
    stored = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[1, 1, 1], [2, 2, 2], [3, 3, 3]]], np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    upright = [[[1, 1, 1], [255, 0, 0]], [[2, 2, 2], [0, 255, 0]], [[3, 3, 3], [0, 0, 255]]]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        assert read(encode(Image.fromarray(stored), kind, exif=exif, **options)).tolist() == upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillow(read, monkeypatch, orientation):
    monkeypatch.setattr(images, "_STRIP_PIXELS", 5 * 13)
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(texture(23, 13), "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read(data), expected)
    assert expected.shape[:2] == ((23, 13) if orientation < 5 else (13, 23))


def test_orientation_after_the_pixels_of_a_png_is_found(read):
    plain = encode(Image.fromarray(np.array([[[1, 1, 1], [2, 2, 2]]], np.uint8)), "PNG")
    exif = Image.Exif()
    exif[274] = 3
    end = plain.index(b"IEND") - 4
    assert read(plain[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + plain[end:])[0, :, 0].tolist() == [2, 1]


XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100}),
        ("TIFF", {"tiffinfo": {700: XMP}}),
        ("TIFF", {"tiffinfo": {700: XMP}, "compression": "tiff_lzw"}),
    ],
)
def test_an_orientation_in_xmp_turns_nothing(read, kind, options):
    image = Image.new("RGB", (32, 16), (250, 0, 0))
    image.paste((0, 0, 250), (16, 0, 32, 16))
    exif = Image.Exif()
    exif[274] = 3
    turning = {"exif": exif, "xmp": XMP}
    if kind == "TIFF":
        turning = {"tiffinfo": options["tiffinfo"] | {274: 3}}
    else:
        options = options | {"xmp": XMP}
    np.testing.assert_allclose(read(encode(image, kind, **options))[8, [4, 28]], [[250, 0, 0], [0, 0, 250]], atol=4)
    turned = read(encode(image, kind, **options | turning))
    np.testing.assert_allclose(turned[8, [4, 28]], [[0, 0, 250], [250, 0, 0]], atol=4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_metadata_does_not_cost_the_image(read, exif):
    assert read(encode(texture(), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_a_senseless_orientation_is_upright(read):
    exif = Image.Exif()
    exif[274] = 99
    assert read(encode(texture(48, 64), "PNG", exif=exif)).shape == (48, 64, 3)


# Color profiles


def test_adobe_rgb_is_converted_to_srgb(read):
    pixels = np.random.default_rng(3).integers(60, 196, (20, 20, 3), np.uint8)
    linear = (pixels / 255) ** ADOBE_GAMMA @ ADOBE_TO_XYZ.T @ XYZ_TO_SRGB.T
    inside = ((linear > 0.001) & (linear < 1)).all(axis=2)  # colors that sRGB holds
    rgb = read(encode(Image.fromarray(pixels), "PNG", icc_profile=ADOBE_RGB))
    assert inside.mean() > 0.8
    np.testing.assert_allclose(rgb[inside], 255 * srgb_encode(linear)[inside], atol=1.5)
    assert np.abs(rgb.astype(int) - pixels).max() > 10


@pytest.mark.parametrize("profile", [ADOBE_RGB, SWAPPED])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_changes_the_pixels_as_littlecms_says(read, kind, profile):
    data = encode(texture(), kind, icc_profile=profile)
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    expected = ImageCms.profileToProfile(plain, io.BytesIO(profile), ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL)
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(plain)).mean() > 2
    np.testing.assert_array_equal(read(data), np.asarray(expected))


def test_swapped_primaries_swap_red_and_blue(read):
    rgb = read(encode(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG", icc_profile=SWAPPED))
    np.testing.assert_allclose(rgb[0, 0], [0, 0, 255], atol=1)


def test_a_profile_that_is_srgb_changes_nothing(read):
    pixels = np.random.default_rng(4).integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_array_equal(read(encode(Image.fromarray(pixels), "PNG", icc_profile=SRGB)), pixels)
    assert images._srgb_transform(SRGB, "RGB") is None
    assert images._srgb_transform(ADOBE_RGB, "RGB") is not None


def test_the_colors_of_a_palette_follow_its_profile(read):
    image = Image.new("P", (1, 1))
    image.putpalette([255, 0, 0])
    np.testing.assert_allclose(read(encode(image, "PNG", icc_profile=SWAPPED))[0, 0], [0, 0, 255], atol=1)


def test_alpha_is_applied_after_the_profile(read):
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    np.testing.assert_allclose(read(encode(image, "PNG", icc_profile=SWAPPED))[0, 0], [127, 127, 255], atol=1)


def test_a_gray_profile_sets_the_tone(read):
    for mode in ("L", "LA"):
        image = Image.new("L", (1, 1), 128).convert(mode)
        rgb = read(encode(image, "PNG", icc_profile=LINEAR_GRAY))
        np.testing.assert_allclose(rgb[0, 0], [188] * 3, atol=1)  # sRGB of the linear value 128 / 255


@pytest.mark.parametrize("profile", [b"no profile", SRGB[:200], b"\0" * 128, SRGB[:128] + b"\xff" * 400, LINEAR_GRAY])
def test_a_broken_or_unfitting_profile_counts_as_srgb(read, profile):
    image = Image.new("RGB", (2, 2), (200, 100, 50))
    assert read(encode(image, "PNG", icc_profile=profile))[0, 0].tolist() == [200, 100, 50]


def test_the_profile_of_a_photograph_outlives_its_conversion_to_gray():
    image = Image.new("RGB", (1, 1), (128, 128, 128))
    image.info["icc_profile"] = ADOBE_RGB
    np.testing.assert_allclose(to_rgb_array(image.convert("L"))[0, 0], to_rgb_array(image)[0, 0], atol=1)


def test_a_profile_of_more_than_a_megabyte_is_followed(read):
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    for kind in ("JPEG", "WEBP", "TIFF"):
        np.testing.assert_allclose(read(encode(red, kind, icc_profile=SWAPPED + bytes(2_000_000)))[8, 8], [0, 0, 255], atol=3)


@pytest.mark.parametrize(
    ("numbers", "painted"),
    [  # primaries and curve; what Chromium 150 paints, to the two levels that AVIF loses
        ((1, 13), (200, 61, 40)),
        ((1, 1), (200, 61, 40)),
        ((2, 2), (200, 61, 40)),
        ((12, 13), (217, 43, 23)),
        ((9, 14), (247, 0, 23)),
        ((1, 8), (229, 134, 110)),
        ((9, 18), (230, 0, 8)),
    ],
)
def test_avif_follows_the_numbers_of_its_color_space(read, numbers, painted):
    data = bytearray(encode(Image.new("RGB", (16, 16), (200, 60, 40)), "AVIF", quality=100, subsampling="4:4:4"))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", *numbers)
    np.testing.assert_allclose(read(bytes(data))[8, 8], painted, atol=2)


def test_the_profile_of_avif_and_of_jpeg_2000_is_followed(read):
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    np.testing.assert_allclose(read(encode(red, "AVIF", quality=100, icc_profile=SWAPPED))[8, 8], [0, 0, 255], atol=4)
    data = encode(red, "JPEG2000")
    at = data.index(b"colr") - 4  # a box of 15 bytes, in the box jp2h
    box = b"colr\2\0\0" + SWAPPED
    data = data[:at] + struct.pack(">I", len(box) + 4) + box + data[at + 15 :]
    header = data.index(b"jp2h") - 4
    size = int.from_bytes(data[header : header + 4], "big") + len(box) + 4 - 15
    data = data[:header] + struct.pack(">I", size) + data[header + 4 :]
    np.testing.assert_allclose(read(data)[8, 8], [0, 0, 255], atol=1)


# Several frames


def gif_of(width: int, frames: list[tuple[int, list[int], int | None, int]], background: int = 0) -> bytes:
    """GIF one pixel high, whose palette entry i is (i, 100, 200).

    Args:
        width: Of its canvas.
        frames: The left edge, color numbers, transparent number and disposal of each.
        background: Color number of the canvas.
    """
    data = b"GIF89a" + struct.pack("<HHBBB", width, 1, 0xF7, background, 0)
    data += b"".join(bytes([i, 100, 200]) for i in range(256))
    for left, numbers, clear, disposal in frames:
        data += b"!\xf9\x04" + bytes([disposal << 2 | (clear is not None), 0, 0, clear or 0, 0])
        bits = sum(code << 9 * i for i, code in enumerate([256, *numbers, 257]))  # nine bits a code: none is compressed
        codes = bits.to_bytes(-(-9 * (len(numbers) + 2) // 8), "little")
        data += b"," + struct.pack("<HHHHB", left, 0, len(numbers), 1, 0) + b"\x08" + bytes([len(codes)]) + codes + b"\0"
    return data + b";"


@pytest.mark.parametrize(
    ("data", "reds"),
    [
        (gif_of(4, [(0, [5, 6, 7, 8], None, 0)]), [5, 6, 7, 8]),
        (gif_of(4, [(1, [5, 6], None, 0)]), [255, 5, 6, 255]),
        (gif_of(4, [(1, [5, 6], None, 2)], background=9), [255, 5, 6, 255]),
        (gif_of(4, [(1, [5, 6], 6, 0)]), [255, 5, 255, 255]),
        (gif_of(4, [(1, [5, 6], None, 0), (0, [1, 2, 3, 4], None, 0)]), [255, 5, 6, 255]),
        (gif_of(2, [(1, [5, 6], None, 0)]), [255, 5, 6]),  # a frame beyond the canvas makes it larger
        (gif_of(4, [(0, [5], None, 0)]), [5, 255, 255, 255]),
    ],
)
def test_what_the_first_frame_of_a_gif_leaves_open_is_white(read, data, reds):
    painted = [[red, 100, 200] if red < 255 else [255] * 3 for red in reds]
    assert read(data)[0].tolist() == painted


def test_the_first_frame_of_several_is_read(read):
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert read(data)[0, 0].tolist() == [250, 0, 0]


def test_the_first_image_of_a_phone_that_stores_several_is_read(read):
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_allclose(read(data)[8, 8], [250, 0, 0], atol=3)


def test_an_open_image_gives_the_frame_it_is_at():
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    with Image.open(io.BytesIO(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]))) as image:
        image.seek(1)
        assert to_rgb_array(image)[0, 0].tolist() == [0, 250, 0]


# Files that are no images


NO_IMAGE = "is no image by its content; expected JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000"
SIDE = struct.pack("<I", 16_383)[:3]
RANGES = [(-1, 1), (-0.5, 0.5), (-0.04, 1), (0, 1.04), (0, 2), (0, 15), (-1, 200), (0, 256), (-128, 127), (0, 1000), (0, 65535)]


def of_brand(brand: bytes) -> bytes:
    """The head of a file in the container of AVIF."""
    return struct.pack(">I", 20) + b"ftyp" + brand + bytes(4) + b"heic"


def huge_webp() -> bytes:
    data = b"WEBPVP8X" + struct.pack("<II", 10, 0) + SIDE + SIDE
    return b"RIFF" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("gone.jpg", None, ["gone.jpg: no such file"]),
        ("red\x1b[31m\u202etxt.jpg", None, [r"red\x1b[31m\u202etxt.jpg: no such file"]),
        (".", None, ["is a folder; expected an image file"]),
        ("empty.jpg", b"", ["empty.jpg: is empty (0 bytes)"]),
        ("page.jpg", b"<html>not found</html>", [f"page.jpg: {NO_IMAGE}", "b'<html>no'"]),
        ("song.webp", b"RIFF\x24\0\0\0WAVEfmt ", [NO_IMAGE]),
        *(("a.avif", of_brand(brand), [NO_IMAGE]) for brand in (b"heic", b"mif1", b"qt  ")),
        ("cut.jpg", encode(texture(), "JPEG")[:-200], ["cut.jpg: is truncated, damaged or of an unsupported kind of JPEG"]),
        ("cut.png", png_of_size(10_000, 10_000), ["is truncated"]),  # as many pixels as there may be
        *(
            ("huge.png", png_of_size(*size), [f"huge.png: has {size[0] * size[1]:,} pixels", "expected at most 100,000,000"])
            for size in ((12_000, 10_000), (50_000, 50_000), (100_000_001, 1))
        ),
        ("huge.webp", huge_webp(), ["huge.webp: is too large; expected at most 100,000,000 pixels"]),
        *(
            ("map.tif", float_tiff(low, high), [f"map.tif: has values from {low} to {high}; expected [0, 1] or [0, 255]"])
            for low, high in RANGES
        ),
        *(("z.tif", float_tiff(0.5, x, 1), ["has pixels that are NaN or infinite"]) for x in (np.nan, np.inf, -np.inf)),
    ],
)
def test_what_is_no_readable_image_is_named_with_the_reason_and_without_a_warning(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = error_of(tmp_path / name)
    assert all(word in message for word in words)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is a pipe or a device" in error_of(tmp_path / "pipe.jpg")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8\xff")

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images, "open", refuse, raising=False)  # chmod would not stop an administrator
    assert error_of(tmp_path / "secret.jpg").endswith("secret.jpg: no permission to read it")


def test_an_error_is_one_printable_line_and_survives_pickling(tmp_path):
    path = tmp_path / "two\nlines \udcff.jpg"
    message = error_of(path)
    assert message.encode().endswith(b"two lines \\udcff.jpg: no such file")
    error = pickle.loads(pickle.dumps(ImageReadError(message)))
    assert (type(error), str(error)) == (ImageReadError, message)


def test_a_path_that_no_system_accepts_is_an_unreadable_image():
    assert "cannot be opened" in error_of(Path("nul\0byte.jpg"))
    assert "cannot be opened" in error_of(Path("x" * 5000 + ".jpg"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about cut tags of TIFF
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_truncated_file_is_refused_or_whole(tmp_path, kind, options):
    data = encode(texture(), kind, **options)
    path = tmp_path / "cut"
    path.write_bytes(data)
    whole = read_rgb(path)
    messages = []
    lengths = [*range(1, len(data), max(1, len(data) // 40)), len(data) - 2, len(data) - 1]
    for length in lengths:
        path.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_rgb(path), whole)  # only bytes behind the pixels were cut
        except ImageReadError as error:
            messages.append(str(error))
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert len(messages) >= len(lengths) - 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_another_error(tmp_path):
    rng = np.random.default_rng(5)
    path = tmp_path / "damaged"
    messages = []
    for data in [encode(texture(), kind, icc_profile=ADOBE_RGB) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]:
        for _ in range(40):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 1500), 8):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_rgb(path).shape[2] == 3
            except ImageReadError as error:
                messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


# Size


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "BMP", "GIF"])
def test_the_limit_of_pillow_neither_warns_nor_changes(tmp_path, monkeypatch, kind):
    paths = [tmp_path / f"{index}" for index in range(8)]
    for path in paths:
        path.write_bytes(encode(texture(), kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            assert {rgb.shape for rgb in pool.map(read_rgb, paths)} == {(48, 64, 3)}
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert images._limit_users == 0


# Threads


def test_threads_read_what_one_thread_reads(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    paths = []
    for index in range(48):
        kind, options = [
            ("JPEG", {"icc_profile": ADOBE_RGB}),
            ("JPEG", {"exif": exif}),
            ("PNG", {"icc_profile": SWAPPED}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("WEBP", {}),
            ("BMP", {}),
        ][index % 6]
        paths.append(tmp_path / f"{index}")
        paths[-1].write_bytes(encode(texture(90, 120, seed=index), kind, **options))
    expected = [read_rgb(path) for path in paths]
    images._srgb_transform.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(read_rgb, paths * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_pillow_image_is_left_as_it_was():
    image = Image.new("LA", (3, 2), (10, 128))
    image.info["icc_profile"] = LINEAR_GRAY
    before = image.copy()
    to_rgb_array(image)
    assert image == before
    assert image.info == before.info


# Gray


def test_an_image_without_color_is_gray():
    gray = np.random.default_rng(6).integers(0, 256, (50, 70, 1), np.uint8).repeat(3, axis=2)
    assert is_gray(gray)
    assert not is_gray(np.asarray(texture()))


def test_a_spread_of_3_is_noise_and_of_4_is_color():
    assert is_gray(np.full((10, 10, 3), (100, 103, 101), np.uint8))
    assert not is_gray(np.full((10, 10, 3), (104, 102, 100), np.uint8))
    assert not is_gray(np.full((10, 10, 3), (0, 0, 255), np.uint8))


def test_colored_specks_on_half_a_percent_of_the_pixels_leave_an_image_gray():
    rgb = np.full((1000, 1000, 3), 128, np.uint8)
    rgb.reshape(-1, 3)[-4900:] = (200, 0, 0)
    assert is_gray(rgb)
    rgb.reshape(-1, 3)[-5100:] = (200, 0, 0)
    assert not is_gray(rgb)


def test_a_gray_photograph_in_a_color_jpeg_stays_gray(read):
    gray = texture(200, 300).convert("L").convert("RGB")
    assert is_gray(read(encode(gray, "JPEG", quality=60)))


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_is_gray_refuses_other_arrays(array):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(H, W, 3\), got"):
        is_gray(array)


# Lists


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_lists_its_images_and_those_below_in_order(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "a.png", "deep/er/c.WebP", "deep/d.Tiff", "notes.txt", "e.jpg.part", "f.gif")
    found = list_images(tmp_path)
    assert found.root == tmp_path
    assert found.names == ["a.jpg", "a.png", "b.PNG", "deep/d.Tiff", "deep/er/c.WebP", "f.gif"]
    assert found.path("deep/d.Tiff") == tmp_path / "deep" / "d.Tiff"
    assert list_images(str(tmp_path)) == found


def test_every_other_file_of_a_folder_is_counted_by_suffix(tmp_path):
    touch(tmp_path, "a.jfif", "b.JPE", "c.avif", "d.jp2", "e.apng", "x.heic", "deep/y.HEIC", "z.svg", "README", "x.heic.part")
    found = list_images(tmp_path)
    assert found.names == ["a.jfif", "b.JPE", "c.avif", "d.jp2", "e.apng"]
    assert found.left_out == "2 .heic, 1 without suffix, 1 .part, 1 .svg"
    assert list_images(tmp_path / "a.jfif").left_out == ""
    with pytest.raises(ValueError, match=r"no image found in .*, found 1 \.heic$"):
        list_images(tmp_path / "deep")


def test_a_name_that_is_not_utf_8_is_listed_with_escapes(tmp_path):
    odd = os.fsdecode(b"d\xe9ep/odd\xff.png")
    try:
        touch(tmp_path, "a.png", odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = list_images(tmp_path)
    assert found.names == ["a.png", r"d\udce9ep/odd\udcff.png"]
    assert found.path(found.names[1]) == tmp_path / odd


def test_unicode_and_spaces_are_kept(tmp_path):
    names = ["ein Bild.jpg", "grün/ö ß.png", "写真/色 1.jpg", "🌈.webp"]
    touch(tmp_path, *names)
    assert list_images(tmp_path).names == sorted(names)
    Image.new("RGB", (2, 1)).save(tmp_path / "写真/色 1.jpg")
    assert read_rgb(list_images(tmp_path).path("写真/色 1.jpg")).shape == (1, 2, 3)


LISTED = ["# chosen by hand", "", "b.jpg", "  sub/ü 1.png  ", "{root}/a.jpg", "./b.jpg", "sub/../gone.jpg"]


@pytest.mark.parametrize(
    ("files", "source", "text", "root", "names"),
    [
        (["._a.jpg", ".hidden.png", ".cache/b.jpg", "__MACOSX/._c.jpg", "c.jpg"], ".", None, ".", ["c.jpg"]),
        (["x.jpg/y.jpg"], ".", None, ".", ["x.jpg/y.jpg"]),  # a folder named like an image
        (["one.JPG", "two.jpg"], "one.JPG", None, ".", ["one.JPG"]),
        ([], "list.TXT", "\ufeff" + "\r\n".join(LISTED), ".", ["a.jpg", "b.jpg", "gone.jpg", "sub/ü 1.png"]),
        ([], "list.txt", "\ufeffa.jpg", ".", ["a.jpg"]),
        # images outside the folder of the list start from their common folder
        ([], "lists/x.txt", "../photos/a/1.jpg\n../photos/b/2.jpg\n", "photos", ["a/1.jpg", "b/2.jpg"]),
        ([], "lists/x.txt", "../photos/a/1.jpg\nhere.jpg\n", ".", ["lists/here.jpg", "photos/a/1.jpg"]),
    ],
)
def test_a_folder_an_image_or_a_list_says_which_images_there_are(tmp_path, files, source, text, root, names):
    touch(tmp_path, *files)
    if text is not None:
        touch(tmp_path, source)
        (tmp_path / source).write_bytes(text.replace("{root}", str(tmp_path)).encode())
    found = list_images(tmp_path / source)
    assert (found.root, found.names) == (tmp_path / root, names)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("nowhere", None, FileNotFoundError, r"nowhere does not exist; expected a folder, an image or a \.txt"),
        ("deep", None, ValueError, r"no image found in .*; looked for \.jpg \.jpeg \.png \.webp \.bmp \.tif"),
        ("scores.csv", b"", ValueError, r"scores\.csv is no image by its extension; .* \.jpg \.jpeg"),
        ("list.txt", b"# nothing yet\n\n", ValueError, r"list\.txt lists no image; expected one path a line .* \.jpg"),
        ("list.txt", "a.jpg\n".encode("utf-16"), ValueError, r"list\.txt is not UTF-8 text .*; save it as UTF-8"),
    ],
)
def test_what_lists_no_images_is_refused_with_what_would(tmp_path, name, content, error, words):
    touch(tmp_path, "deep/notes.txt")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words):
        list_images(tmp_path / name)


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "root/a/x.jpg", "elsewhere/y.jpg")
    root = tmp_path / "root"
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "here").symlink_to(root / "a", target_is_directory=True)
    (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    (root / "z.jpg").symlink_to(root / "a" / "x.jpg")
    assert list_images(root).names == ["a/x.jpg", "linked/y.jpg", "z.jpg"]


def test_a_dangling_link_is_listed_and_fails_to_be_read(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = list_images(tmp_path)
    assert found.names == ["gone.jpg"]
    assert error_of(found.path("gone.jpg")).endswith("gone.jpg: no such file")


def test_a_relative_source_keeps_a_relative_root(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.jpg")
    (tmp_path / "list.txt").write_text("in/a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert list_images("in").root == Path("in")
    assert list_images("list.txt").root == Path()
    assert list_images("list.txt").names == ["in/a.jpg"]


def test_an_image_list_cannot_be_changed_by_accident(tmp_path):
    touch(tmp_path, "a.jpg")
    found = list_images(tmp_path)
    with pytest.raises(AttributeError):
        found.names = []
