"""The parts of PNG that Pillow does not read: color space, first frame of an animation, pixels beside damaged extras.

Source: Portable Network Graphics (PNG) Specification (Third Edition), W3C 2025. Where it leaves a choice, Chromium's is taken.
"""

import functools
import io
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

MAX_PROFILE = 64_000_000  # bytes of an unpacked color profile; the largest in use have a few million

_PIXELS = (b"IHDR", b"PLTE", b"tRNS")
_COLORS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cLLI", b"mDCV")
_OTHERS = (b"eXIf", b"acTL", b"fcTL")

# x and y of white, red, green and blue by number (ITU-T H.273, table 2)
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_SRGB = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_BT2020 = (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
_PRIMARIES = {
    1: _SRGB,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: _BT2020,
    10: (1 / 3, 1 / 3, 1, 0, 0, 1, 0, 0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_PQ, _HLG = 16, 18
_WHITE_NITS = 203.0  # ITU-R BT.2408, reference white of HDR
_PEAK_NITS = 1000.0  # ITU-R BT.2100, nominal peak; of a PQ image that states none

_Curve = Callable[[np.ndarray], np.ndarray]


def _srgb_to_linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1


def _pq_to_linear(v: np.ndarray) -> np.ndarray:  # SMPTE ST 2084
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = v ** (1 / m2)
    return 10_000 / _WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg_to_linear(v: np.ndarray) -> np.ndarray:  # ITU-R BT.2100, table 5, of the scene in [0, 1]
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12)


# Curves from code value to light by number (ITU-T H.273, table 3). Those of cameras (1, 6, 11, 14, 15) are shown by the curve
# of the display, ITU-R BT.1886.
_CURVES: dict[int, _Curve] = {
    **dict.fromkeys((1, 6, 11, 14, 15), lambda v: v**2.4),
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    7: lambda v: np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45)),
    8: lambda v: v,
    13: _srgb_to_linear,
    _PQ: _pq_to_linear,
    17: lambda v: 52.37 / 48 * v**2.6,
    _HLG: _hlg_to_linear,
}


def plain_png(stream: BinaryIO) -> tuple[io.BytesIO, dict[str, Any]]:
    """Copy the chunks that the pixels of a PNG need, and read the chunks that say how the pixels look.

    Chunks that an image can do without are ignored if their checksum is wrong. If the first frame of an animation is not the
    still image, the frame is copied in place of the still image.

    Args:
        stream: The file.

    Returns:
        A PNG that holds nothing but pixels, and in the form of ``Image.info``: ``cicp`` (four numbers, or None),
        ``icc_profile``, ``srgb``, ``gamma``, ``chromaticity``, ``peak`` (the brightest light in candela per square meter),
        ``exif``, and for a frame ``canvas`` (width and height of the canvas, left and top of the frame on it).

    Raises:
        SyntaxError: If the file is no PNG, or the checksum of IHDR or PLTE is wrong.
        OverflowError: If the color profile unpacks to more than ``MAX_PROFILE`` bytes.
    """
    stream.seek(8)
    chunks: dict[bytes, bytes] = {}  # the first of each kind
    still: list[bytes] = []
    frame: list[bytes] = []
    place = None  # width, height, left, top of the first frame, where it is not the still image
    sequence = -1  # number of the last part of the animation; -1 as long as there is none
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or (still and not re.fullmatch(rb"[A-Za-z]{4}", kind)):
            break
        if not re.fullmatch(rb"[A-Za-z]{4}", kind):
            raise SyntaxError(f"broken PNG file (chunk {kind!r})")
        if kind == b"IDAT":
            still.append(stream.read(length))
            stream.seek(4, io.SEEK_CUR)
        elif kind == b"fdAT" and place is not None:
            data = stream.read(length)
            stream.seek(4, io.SEEK_CUR)
            if data[:4] == struct.pack(">I", sequence + 1):
                sequence += 1
                frame.append(data[4:])
        elif kind in (*_PIXELS, *_COLORS, *_OTHERS):
            data = stream.read(length)
            if stream.read(4) != struct.pack(">I", zlib.crc32(kind + data)):
                if kind in (b"IHDR", b"PLTE"):
                    raise SyntaxError(f"broken PNG file (bad checksum in {kind!r})")
                continue
            if kind == b"tRNS" and not _is_transparency(data, chunks):
                continue
            if kind == b"fcTL" and kind not in chunks and still and any(chunks.get(b"acTL", b"")[:4]):
                place = _frame_place(data, chunks.get(b"IHDR", b""))
                sequence = 0
            elif kind == b"fcTL":
                place = None  # the next frame begins
            if kind == b"eXIf" or kind == b"fcTL" or not still:
                chunks.setdefault(kind, data)
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    return _joined(chunks, still, frame), _image_info(chunks, bool(frame))


def _is_transparency(data: bytes, chunks: Mapping[bytes, bytes]) -> bool:
    """Tell whether a chunk tRNS has the length that its kind of image takes."""
    color_type = chunks.get(b"IHDR", b"")[9:10]
    if color_type == b"\3":
        return 3 * len(data) <= len(chunks.get(b"PLTE", b""))
    return len(data) == {b"\0": 2, b"\2": 6}.get(color_type)


def _frame_place(control: bytes, header: bytes) -> tuple[int, int, int, int] | None:
    """Return width, height, left and top of a frame; None if it is not the first, or does not lie on the canvas."""
    if len(control) != 26 or len(header) != 13:
        return None
    number, width, height, left, top = struct.unpack(">5I", control[:20])
    across, down = struct.unpack(">2I", header[:8])
    fits = width > 0 and height > 0 and left + width <= across and top + height <= down
    return (width, height, left, top) if fits and number == 0 else None


def _joined(chunks: Mapping[bytes, bytes], still: list[bytes], frame: list[bytes]) -> io.BytesIO:
    """Return a PNG of the chunks that pixels need, with the frame if there is one, else with the still image."""
    result = io.BytesIO()
    result.write(b"\x89PNG\r\n\x1a\n")
    for kind in _PIXELS:
        data = chunks.get(kind)
        if data is None:
            continue
        if kind == b"IHDR" and frame:
            data = chunks[b"fcTL"][4:12] + data[8:]
        _write_chunk(result, kind, data)
    for data in frame or still:
        _write_chunk(result, b"IDAT", data)
    _write_chunk(result, b"IEND", b"")
    result.seek(0)
    return result


def _write_chunk(stream: BinaryIO, kind: bytes, data: bytes) -> None:
    stream.write(struct.pack(">I4s", len(data), kind))
    stream.write(data)
    stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _image_info(chunks: Mapping[bytes, bytes], framed: bool) -> dict[str, Any]:
    """Return the info of ``plain_png`` from the chunks; chunks of a wrong length are ignored."""
    info: dict[str, Any] = {"cicp": None}
    sizes = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cLLI": 8, b"mDCV": 24}
    sound = {kind: data for kind, data in chunks.items() if len(data) == sizes.get(kind, len(data))}
    if b"cICP" in sound:
        info["cicp"] = tuple(sound[b"cICP"])
    if b"iCCP" in sound and (profile := _unpacked_profile(sound[b"iCCP"])):
        info["icc_profile"] = profile
    if sound.get(b"sRGB", b"\xff")[0] < 4:
        info["srgb"] = sound[b"sRGB"][0]
    if b"gAMA" in sound:
        info["gamma"] = struct.unpack(">I", sound[b"gAMA"])[0] / 100_000
    if b"cHRM" in sound:
        info["chromaticity"] = tuple(value / 100_000 for value in struct.unpack(">8I", sound[b"cHRM"]))
    light = sound[b"cLLI"][:4] if b"cLLI" in sound else sound.get(b"mDCV", bytes(24))[16:20]
    if any(light):
        info["peak"] = struct.unpack(">I", light)[0] / 10_000
    if b"eXIf" in sound:
        info["exif"] = b"Exif\0\0" + sound[b"eXIf"]
    if framed:
        info["canvas"] = struct.unpack(">2I", chunks[b"IHDR"][:8]) + struct.unpack(">2I", chunks[b"fcTL"][12:20])
    return info


def _unpacked_profile(data: bytes) -> bytes | None:
    _, _, rest = data.partition(b"\0")
    if rest[:1] != b"\0":  # the only method of compression there is
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], MAX_PROFILE + 1)
    except zlib.error:
        return None
    if len(profile) > MAX_PROFILE:
        raise OverflowError(f"has a color profile of more than {MAX_PROFILE:,} bytes; remove the profile")
    return profile


class ToSrgb:
    """Conversion of 8-bit pixels to sRGB, in the form of ``ImageCmsTransform``.

    Args:
        curve: Function from code values in [0, 1] to light.
        primaries: x and y of white, red, green and blue.
        tone: None, or the transfer characteristics of an HDR image, ``_PQ`` or ``_HLG``.
        peak: Brightest light of an HDR image in candela per square meter.
    """

    def __init__(self, curve: _Curve, primaries: tuple[float, ...], tone: int | None = None, peak: float = _PEAK_NITS) -> None:
        self.light = curve(np.arange(256) / 255).astype(np.float32)
        self.to_srgb = _matrix(primaries, _SRGB)
        self.tone, self.peak = tone, peak
        if tone is not None:
            self.luminance = _to_xyz(primaries)[1].astype(np.float32)
            self.to_srgb, self.to_bt2020 = _matrix(_BT2020, _SRGB), _matrix(primaries, _BT2020)

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert an image of mode RGB to sRGB; colors outside of sRGB are clipped."""
        light = self.light[np.asarray(image)]
        if self.tone == _HLG:  # ITU-R BT.2100, table 5, with the system gamma of a display of 1000 candela per square meter
            light *= _PEAK_NITS / _WHITE_NITS * (light @ self.luminance)[..., None] ** np.float32(0.2)
        if self.tone is not None:
            light = light @ self.to_bt2020.T
            most = light.max(axis=2, keepdims=True)
            light *= _tone_mapped(most, self.peak) / np.maximum(most, np.float32(1e-6))
        linear = (light @ self.to_srgb.T).clip(0, 1)
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)  # IEC 61966-2-1
        return Image.fromarray(np.rint(255 * srgb).astype(np.uint8))


def _tone_mapped(light: np.ndarray, peak: float) -> np.ndarray:
    """Map light of an HDR image, 1 at reference white, to light of an SDR display, at most 1, by SMPTE ST 2094-50, annex C.

    The curve is a line up to reference white, and above it a quadratic Bezier curve that reaches 1 at ``peak``.
    """
    top = peak / _WHITE_NITS
    if top <= 1:
        return light
    white = 1 - 0.5 * min(np.log(top) / np.log(_PEAK_NITS / _WHITE_NITS), 1)
    bend = 0.65  # how far the middle point lies from reference white towards where the line would reach 1
    x_middle, y_middle = 1 - bend + bend / white, (1 - bend) * white + bend
    a, b = 1 - 2 * x_middle + top, 2 * (x_middle - 1)
    c = 1 - np.clip(light, 1, top)
    t = -2 * c / (b + np.sqrt(b * b - 4 * a * c))
    curve = white * (1 - t) ** 2 + 2 * y_middle * t * (1 - t) + t**2
    return np.where(light <= 1, white * light, curve).astype(np.float32)


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    """Return the matrix from linear RGB to CIE XYZ, shape (3, 3).

    Raises:
        ValueError: If there are no such primaries.
    """
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    columns = np.stack([x, y, 1 - x - y])
    if y[0] <= 0 or abs(np.linalg.det(columns[:, 1:])) < 1e-6:
        raise ValueError(f"no color space has the primaries {primaries}")
    return columns[:, 1:] * np.linalg.solve(columns[:, 1:], columns[:, 0] / y[0])


@functools.cache
def _matrix(source: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    """Return the matrix between linear RGB of two sets of primaries, white adapted by Bradford, shape (3, 3), float32."""
    start, end = _to_xyz(source), _to_xyz(target)
    ratio = (_BRADFORD @ end.sum(axis=1)) / (_BRADFORD @ start.sum(axis=1))
    adapted = np.linalg.inv(_BRADFORD) @ (ratio[:, None] * _BRADFORD)
    return (np.linalg.inv(end) @ adapted @ start).astype(np.float32)


@functools.lru_cache(maxsize=16)
def from_cicp(cicp: tuple[int, ...], peak: float) -> ToSrgb | None:
    """Return the conversion from the color space that cICP numbers (ITU-T H.273).

    Args:
        cicp: Primaries, transfer characteristics, matrix (0 for RGB), and 1 for the full range.
        peak: Brightest light of an HDR image in candela per square meter; 0 if not stated.

    Returns:
        None for sRGB.

    Raises:
        KeyError: If the color space is none that Chromium knows.
    """
    primaries, transfer, matrix, full_range = cicp
    if matrix != 0 or full_range != 1:
        raise KeyError(cicp)
    curve, places = _CURVES[transfer], _PRIMARIES[primaries]
    if (primaries, transfer) == (1, 13):
        return None
    return ToSrgb(curve, places, transfer if transfer in (_PQ, _HLG) else None, peak or _PEAK_NITS)


@functools.lru_cache(maxsize=16)
def from_gamma(gamma: float, chromaticity: tuple[float, ...] | None) -> ToSrgb | None:
    """Return the conversion from the color space of gAMA and cHRM; None where Chromium takes the pixels as sRGB.

    Args:
        gamma: Value of gAMA; 0.45455 stands for a display of 2.2.
        chromaticity: Values of cHRM, x and y of white, red, green and blue; None for those of sRGB.
    """
    if gamma <= 0 or (chromaticity is None and abs(gamma * 2.2 - 1) < _GAMMA_LIKE_SRGB):
        return None
    try:
        return ToSrgb(lambda v: v ** (1 / gamma), chromaticity or _SRGB)
    except ValueError:
        return None


# Writers of sRGB give gAMA by itself, within this share of 1 / 2.2.
_GAMMA_LIKE_SRGB = 0.05
