"""What Pillow does not read of PNG. The pixels wanted are those that Chromium 150 painted for these files, in sRGB on white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from utils import png
from utils.images import ImageReadError, read_rgb, to_rgb_array

COLORS = ((200, 60, 40), (128, 128, 128), (10, 20, 30), (180, 150, 140))
STILL = (9, 99, 199)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB whose red is blue and whose blue is red
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def damaged(data: bytes) -> bytes:
    """A chunk whose checksum is wrong."""
    return data[:-1] + bytes([data[-1] ^ 1])


def packed(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def file_of(*chunks: bytes, pixels: object = (COLORS,), after: bytes = b"", dtype: str = "u1") -> bytes:
    """A PNG of 8 or 16 bits with chunks before its pixels and after."""
    values = np.array(pixels, dtype)
    color_type = 2 if values.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8 * values.itemsize, color_type, 0, 0, 0)
    body = b"".join(chunks) + chunk(b"IDAT", packed(values)) + after
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def palette_file(*chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, 3, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0, 1, 2, 3])))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(*places: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(place * 100_000) for place in places)))


def cicp(primaries: int, curve: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, curve, matrix, full_range]))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))


def rgb_of(tmp_path, data: bytes) -> list[list[int]]:
    """The first row of the pixels of a file."""
    (tmp_path / "image.png").write_bytes(data)
    return read_rgb(tmp_path / "image.png")[0].tolist()


SRGB_CHUNK = chunk(b"sRGB", b"\0")
PLACES = {  # of white, red, green and blue
    "sRGB": (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    "blue for red": (0.3127, 0.3290, 0.15, 0.06, 0.30, 0.60, 0.64, 0.33),
    "P3": (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    "Adobe": (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    "ProPhoto": (0.34567, 0.35850, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001),
    "NTSC": (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
}
LINEAR = ((229, 133, 110), (188, 188, 188), (56, 79, 96), (219, 202, 196))
RED_AND_BLUE = ((40, 60, 200), (128, 128, 128), (30, 20, 10), (140, 150, 180))
BY_CHRM = ((35, 57, 201), (129, 129, 129), (24, 12, 3), (141, 151, 181))

PAINTED = {
    "no chunk": (b"", COLORS),
    # gAMA and cHRM
    "gAMA of light itself": (gama(1), LINEAR),
    "gAMA 2": (gama(2), ((242, 185, 169), (219, 219, 219), (123, 144, 158), (236, 227, 223))),
    "gAMA 0.25": (gama(0.25), ((165, 10, 2), (71, 71, 71), (0, 0, 1), (137, 97, 85))),
    "gAMA 0.5": (gama(0.5), ((206, 67, 43), (137, 137, 137), (5, 18, 31), (187, 159, 149))),
    "gAMA of 2.2": (gama(0.45455), COLORS),
    "gAMA near 2.2": (gama(0.432), COLORS),
    "gAMA 0": (gama(0), COLORS),
    "cHRM alone": (chrm(*PLACES["P3"]), COLORS),
    "cHRM of sRGB": (gama(0.45455) + chrm(*PLACES["sRGB"]), ((201, 57, 35), (129, 129, 129), (3, 12, 24), (181, 151, 141))),
    "cHRM of P3": (gama(0.45455) + chrm(*PLACES["P3"]), ((219, 37, 13), (129, 129, 129), (1, 12, 25), (187, 150, 139))),
    "cHRM of Adobe": (chrm(*PLACES["Adobe"]) + gama(1), ((255, 133, 109), (188, 188, 188), (42, 79, 97), (225, 202, 195))),
    "white of D50": (gama(1) + chrm(*PLACES["ProPhoto"]), ((255, 93, 104), (188, 188, 188), (0, 83, 99), (236, 198, 194))),
    "white C": (gama(0.45455) + chrm(*PLACES["NTSC"]), ((238, 45, 1), (129, 129, 129), (0, 13, 25), (195, 150, 139))),
    "cHRM of no colors": (gama(1) + chrm(*(0,) * 8), COLORS),
    "cHRM of one color": (gama(1) + chrm(0.3127, 0.329, *(0.3,) * 6), COLORS),
    # what decides
    "sRGB before gAMA": (gama(1) + SRGB_CHUNK, COLORS),
    "iCCP before gAMA": (gama(1) + iccp(SWAPPED), RED_AND_BLUE),
    "iCCP before sRGB": (SRGB_CHUNK + iccp(SWAPPED), RED_AND_BLUE),
    "cICP before iCCP": (iccp(SWAPPED) + cicp(1, 13), COLORS),
    "cICP before gAMA": (cicp(1, 13) + gama(1), COLORS),
    "sRGB of no intent": (chunk(b"sRGB", b"\x09") + gama(1), LINEAR),
    "a broken profile": (iccp(b"no profile") + gama(1), LINEAR),
    "a profile that is not packed": (chunk(b"iCCP", b"a\0\0garbage") + gama(1), LINEAR),
    "a profile packed in another way": (chunk(b"iCCP", b"a\0\1" + zlib.compress(SWAPPED)) + gama(1), LINEAR),
    "no profile at all": (chunk(b"iCCP", b"") + gama(1), LINEAR),
    "a broken profile before cHRM": (iccp(b"x") + gama(0.45455) + chrm(*PLACES["blue for red"]), BY_CHRM),
    "cICP that is not stated": (cicp(2, 2) + gama(1), LINEAR),
    "cICP of half of it": (cicp(1, 2) + gama(1), LINEAR),
    "cICP of no color space": (cicp(99, 99) + gama(1), LINEAR),
    "cICP of a narrow range": (cicp(12, 13, 0, 0) + gama(1), LINEAR),
    "the first of two": (gama(1) + gama(0.5), LINEAR),
    "gAMA that is too long": (chunk(b"gAMA", struct.pack(">IB", 100_000, 0)), COLORS),
    # cICP
    "Display P3": (cicp(12, 13), ((217, 42, 23), (128, 128, 128), (7, 20, 31), (186, 149, 138))),
    "P3 of cinemas": (cicp(11, 13), ((212, 42, 24), (128, 128, 128), (8, 20, 31), (184, 149, 138))),
    "BT.2020": (cicp(9, 13), ((247, 0, 23), (128, 128, 128), (0, 21, 31), (197, 146, 138))),
    "BT.2020, its curve": (cicp(9, 14), ((244, 0, 0), (121, 121, 121), (0, 8, 19), (194, 140, 132))),
    "BT.2020, linear": (cicp(9, 8), ((255, 114, 104), (188, 188, 188), (26, 81, 98), (229, 199, 194))),
    "BT.470 M": (cicp(4, 13), ((236, 49, 16), (128, 128, 128), (2, 21, 31), (193, 148, 138))),
    "BT.470 BG": (cicp(5, 13), ((204, 60, 40), (128, 128, 128), (9, 20, 30), (181, 150, 140))),
    "SMPTE 170M": (cicp(6, 13), ((195, 66, 39), (128, 128, 128), (11, 20, 30), (178, 150, 140))),
    "film": (cicp(8, 13), ((226, 39, 21), (128, 128, 128), (5, 20, 31), (189, 149, 138))),
    "XYZ": (cicp(10, 13), ((255, 0, 64), (128, 128, 128), (0, 27, 31), (231, 109, 141))),
    "EBU": (cicp(22, 13), ((202, 66, 39), (128, 128, 128), (10, 20, 30), (181, 150, 140))),
    "curve of BT.709": (cicp(1, 1), ((197, 49, 28), (121, 121, 121), (1, 7, 18), (176, 144, 134))),
    "curve 2.2": (cicp(1, 4), ((201, 57, 35), (129, 129, 129), (3, 12, 24), (181, 151, 141))),
    "curve 2.8": (cicp(1, 5), ((189, 36, 17), (106, 106, 106), (0, 3, 8), (165, 131, 120))),
    "curve of SMPTE 240M": (cicp(1, 7), ((206, 77, 58), (141, 141, 141), (25, 38, 48), (188, 161, 152))),
    "curve of SMPTE ST 428": (cicp(1, 17), ((200, 44, 23), (118, 118, 118), (1, 5, 13), (177, 143, 132))),
    "PQ": (cicp(9, 16), ((255, 0, 0), (132, 132, 132), (0, 2, 4), (255, 129, 117))),
    "PQ of sRGB": (cicp(1, 16), ((255, 15, 4), (132, 132, 132), (0, 1, 4), (255, 161, 135))),
    "HLG": (cicp(9, 18), ((230, 0, 8), (99, 99, 99), (0, 5, 11), (180, 119, 113))),
    "HLG of P3": (cicp(12, 18), ((200, 24, 7), (99, 99, 99), (0, 5, 11), (167, 122, 113))),
    # a checksum that is wrong
    "damaged text": (damaged(chunk(b"tEXt", b"a\0b")), COLORS),
    "damaged gAMA": (damaged(gama(1)), COLORS),
    "damaged profile": (damaged(iccp(SWAPPED)), COLORS),
    "damaged sRGB": (damaged(SRGB_CHUNK) + gama(1), LINEAR),
    "damaged cHRM": (damaged(chrm(*PLACES["P3"])) + gama(1), LINEAR),
    "damaged EXIF": (damaged(chunk(b"eXIf", b"x")), COLORS),
    "a chunk of nobody": (damaged(chunk(b"abCd", b"x")), COLORS),
}


@pytest.mark.parametrize("case", PAINTED)
def test_colors_are_those_that_chromium_paints(tmp_path, case):
    chunks, painted = PAINTED[case]
    np.testing.assert_allclose(rgb_of(tmp_path, file_of(chunks)), painted, atol=1)


@pytest.mark.parametrize("case", [name for name in PAINTED if PAINTED[name][1] == COLORS])
def test_pixels_that_are_srgb_stay_as_they_are(tmp_path, case):
    assert rgb_of(tmp_path, file_of(PAINTED[case][0])) == [list(color) for color in COLORS]


@pytest.mark.parametrize("after", [gama(1), iccp(SWAPPED), damaged(chunk(b"tEXt", b"a\0b")), b"\0\0\0\1\xff\xff\xff\xffxabcd"])
def test_what_comes_after_the_pixels_changes_none(tmp_path, after):
    assert rgb_of(tmp_path, file_of(after=after)) == [list(color) for color in COLORS]


def test_gray_palettes_alpha_and_16_bits_follow_the_chunks_too(tmp_path):
    gray = file_of(gama(1), pixels=[[200, 128, 60, 10]])
    np.testing.assert_allclose(rgb_of(tmp_path, gray), [[v] * 3 for v in (229, 188, 133, 56)], atol=1)
    gray = file_of(cicp(9, 16), pixels=[[128, 60, 180, 40]])
    np.testing.assert_allclose(rgb_of(tmp_path, gray), [[v] * 3 for v in (132, 26, 242, 9)], atol=1)
    palette = chunk(b"PLTE", np.array(COLORS, np.uint8).tobytes())
    np.testing.assert_allclose(rgb_of(tmp_path, palette_file(gama(1), palette)), LINEAR, atol=1)
    np.testing.assert_allclose(rgb_of(tmp_path, palette_file(palette, gama(1))), LINEAR, atol=1)
    clear = rgb_of(tmp_path, file_of(gama(1), chunk(b"tRNS", struct.pack(">3H", *COLORS[0]))))
    np.testing.assert_allclose(clear, [(255, 255, 255), *LINEAR[1:]], atol=1)
    deep = file_of(gama(1), pixels=257 * np.array([COLORS], ">u2"), dtype=">u2")
    np.testing.assert_allclose(rgb_of(tmp_path, deep), LINEAR, atol=1)


@pytest.mark.parametrize(
    ("chunks", "gray"),
    [
        (cicp(9, 16), 132),
        (cicp(9, 16) + chunk(b"cLLI", struct.pack(">II", 400 * 10_000, 100 * 10_000)), 163),
        (cicp(9, 16) + chunk(b"mDCV", bytes(16) + struct.pack(">II", 600 * 10_000, 10)), 150),
        (cicp(9, 16) + chunk(b"mDCV", bytes(16) + struct.pack(">II", 4000 * 10_000, 10)), 132),
    ],
)
def test_hdr_is_mapped_by_the_brightest_light_it_states(tmp_path, chunks, gray):
    np.testing.assert_allclose(rgb_of(tmp_path, file_of(chunks, pixels=[[128, 255]])), [[gray] * 3, [255] * 3], atol=1)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_gray_stays_gray_and_in_order(tmp_path, curve):
    rgb = np.array(rgb_of(tmp_path, file_of(cicp(9, curve), pixels=[range(256)])))
    assert (np.ptp(rgb, axis=1) <= 1).all()
    assert (np.diff(rgb[:, 1]) >= 0).all()
    assert (rgb[0, 1], rgb[-1, 1]) == (0, 255)


def test_a_transparency_that_does_not_fit_is_none(tmp_path):
    palette = chunk(b"PLTE", np.array(COLORS, np.uint8).tobytes())
    clear = chunk(b"tRNS", b"\0")
    assert rgb_of(tmp_path, palette_file(palette, clear))[0] == [255, 255, 255]
    for chunks in ((palette, damaged(clear)), (clear, palette), (palette, chunk(b"tRNS", bytes(300)))):
        assert rgb_of(tmp_path, palette_file(*chunks)) == [list(color) for color in COLORS]
    assert rgb_of(tmp_path, file_of(chunk(b"tRNS", b"\0"))) == [list(color) for color in COLORS]


def test_a_checksum_that_matters_is_an_error(tmp_path):
    palette = chunk(b"PLTE", np.array(COLORS, np.uint8).tobytes())
    with pytest.raises(
        ImageReadError, match=r"image\.png: is truncated, damaged .* \(broken PNG file \(bad checksum in b'PLTE'\)"
    ):
        rgb_of(tmp_path, palette_file(damaged(palette)))
    with pytest.raises(ImageReadError, match="bad checksum in b'IHDR'"):
        rgb_of(tmp_path, file_of()[:32] + b"?" + file_of()[33:])


# Size


def test_profiles_and_texts_of_many_megabytes_are_read(tmp_path):
    assert rgb_of(tmp_path, file_of(iccp(SRGB + bytes(2_000_000)))) == [list(color) for color in COLORS]
    swapped = rgb_of(tmp_path, file_of(iccp(SWAPPED + bytes(2_000_000))))
    np.testing.assert_allclose(swapped, RED_AND_BLUE, atol=1)
    bomb = zlib.compress(bytes(90_000_000), 1)
    texts = (
        chunk(b"zTXt", b"a\0\0" + bomb) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb) + chunk(b"tEXt", b"a\0" + bomb)
    )
    assert rgb_of(tmp_path, file_of(texts, after=texts)) == [list(color) for color in COLORS]


def test_a_profile_that_is_a_bomb_is_named_as_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(png, "MAX_PROFILE", 1_000_000)
    with pytest.raises(
        ImageReadError, match=r"image\.png: has a color profile of more than 1,000,000 bytes; remove the profile$"
    ):
        rgb_of(tmp_path, file_of(iccp(bytes(1_000_001))))


# Animations


def actl(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def fctl(number: int, width: int = 4, left: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, 1, left, 0, 1, 1, 0, 0))


def fdat(number: int, data: bytes) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", number) + data)


FRAME, PART = packed(np.array([COLORS], np.uint8)), packed(np.array([COLORS[:2]], np.uint8))
LATER = fctl(2) + fdat(3, packed(np.zeros((1, 4, 3), np.uint8)))
WHITE = (255, 255, 255)
FIRST_FRAMES = {
    "outside the animation": (actl(2), fctl(0) + fdat(1, FRAME) + LATER, COLORS),
    "of one": (actl(1), fctl(0) + fdat(1, FRAME), COLORS),
    "in two parts": (actl(1), fctl(0) + fdat(1, FRAME[:9]) + fdat(2, FRAME[9:]), COLORS),
    "between texts": (actl(2), chunk(b"tEXt", b"a\0b") + fctl(0) + chunk(b"tEXt", b"a\0b") + fdat(1, FRAME) + LATER, COLORS),
    "a part of the canvas": (actl(2), fctl(0, 2, 1) + fdat(1, PART) + LATER, (WHITE, *COLORS[:2], WHITE)),
    "linear": (gama(1) + actl(2), fctl(0) + fdat(1, FRAME) + LATER, LINEAR),
    "the still image": (actl(2) + fctl(0), fctl(1) + fdat(2, FRAME), (STILL,) * 4),
    "of none": (actl(0), fctl(0) + fdat(1, FRAME), (STILL,) * 4),
    "not announced": (b"", actl(2) + fctl(0) + fdat(1, FRAME), (STILL,) * 4),
    "not there": (actl(2), b"", (STILL,) * 4),
    "beyond the canvas": (actl(2), fctl(0, 4, 1) + fdat(1, FRAME) + LATER, (STILL,) * 4),
    "out of order": (actl(2), fctl(5) + fdat(6, FRAME), (STILL,) * 4),
    "damaged": (actl(2), damaged(fctl(0)) + fdat(1, FRAME) + LATER, (STILL,) * 4),
}


@pytest.mark.parametrize("case", FIRST_FRAMES)
def test_an_animation_shows_its_first_frame(tmp_path, case):
    before, after, painted = FIRST_FRAMES[case]
    data = file_of(before, pixels=[[STILL] * 4], after=after)
    np.testing.assert_allclose(rgb_of(tmp_path, data), painted, atol=1)


def test_a_frame_of_a_canvas_that_is_too_large_is_refused(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + actl(1) + chunk(b"IDAT", FRAME) + fctl(0) + fdat(1, FRAME) + chunk(b"IEND", b"")
    with pytest.raises(ImageReadError, match="has 400,000,000 pixels"):
        rgb_of(tmp_path, data)


# Orientation


def test_the_orientation_of_exif_turns_the_frame_on_its_canvas(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    turned = chunk(b"eXIf", exif.tobytes()[6:])
    assert rgb_of(tmp_path, file_of(turned)) == [list(color) for color in COLORS[::-1]]
    data = file_of(turned + actl(2), pixels=[[STILL] * 4], after=fctl(0, 2, 0) + fdat(1, PART) + LATER)
    assert rgb_of(tmp_path, data) == [list(color) for color in (WHITE, WHITE, COLORS[1], COLORS[0])]


def test_an_orientation_in_a_text_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    text = f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n".encode()
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    for data in (
        file_of(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))),
        file_of(chunk(b"tEXt", b"Raw profile type exif\0" + text)),
        file_of(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
    ):
        assert rgb_of(tmp_path, data) == [list(color) for color in COLORS]
        with Image.open(io.BytesIO(data)) as image:
            assert to_rgb_array(image)[0].tolist() == [list(color) for color in COLORS]


# Images that Pillow opened


@pytest.mark.parametrize("case", ["no chunk", "gAMA of light itself", "Display P3", "PQ", "iCCP before sRGB", "cHRM of P3"])
def test_an_image_that_pillow_opened_gives_what_its_file_does(tmp_path, case):
    data = file_of(PAINTED[case][0])
    rgb = rgb_of(tmp_path, data)
    for source in (io.BytesIO(data), tmp_path / "image.png"):
        with Image.open(source) as image:
            assert to_rgb_array(image)[0].tolist() == rgb
    with Image.open(tmp_path / "image.png") as image:
        image.load()
        assert to_rgb_array(image)[0].tolist() == rgb
        assert image.info.get("cicp") is None
