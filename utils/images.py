"""Which images are there, and what are their pixels.

``list_images`` names the images of a folder, a list file or a single path. ``read_rgb`` and ``to_rgb_array`` give the
pixels a color-managed browser would show on a white page: upright, in sRGB, 8 bits a channel.
"""

import contextlib
import functools
import io
import os
import stat
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from utils import png
from utils.files import fingerprint

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jpe", ".jfif", ".apng", ".avif", ".jp2"),
)
MAX_PIXELS = 100_000_000

# JPEG stores color at half the resolution and coarsely quantized, so a gray photograph comes back with spreads of 1 to
# 3 levels, and a sensor or scanner leaves single colored specks.
GRAY_SPREAD = 3  # levels of 255 between the largest and the smallest channel
GRAY_SHARE = 0.995  # share of the pixels within that spread

# Conversions go strip by strip, so that their intermediate arrays stay at a few megabytes for an image of any size.
_STRIP_PIXELS = 1 << 20

# Floats are in [0, 1], or in [0, 255] if the largest is at least this; what lies between, say [0, 2], is neither.
_FLOAT_LEVELS = 16

# First bytes of a file and what reads it. Not Image.open, for two reasons: its size check warns from 89 megapixels on,
# which can only be changed for the whole process; and it tries dozens of formats more, some through other programs.
_READERS: tuple[tuple[tuple[bytes, ...], type[ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), JpegImageFile),
    ((b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ((b"RIFF",), WebPImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    ((b"BM",), BmpImageFile),
    ((b"GIF8",), GifImageFile),
    ((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), Jpeg2KImageFile),
)
_AVIF_BRANDS = (b"avif", b"avis")  # among those of the first box, ftyp
_COLR_WITHIN = 4_000_000  # bytes from the start of AVIF and JPEG 2000 in which the color space stands, profile and all

_TIFF_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0
_EXIF_ORIENTATION = 274  # CIPA DC-008 (Exif 2.32), table 4
_BESIDE_EXIF = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where Pillow looks for it too, and no browser does


class Packed(Protocol):
    """An image inside of a file that holds many (utils/shards.py). As text it names both."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def read(self) -> bytes: ...


@dataclass(frozen=True)
class ImageList:
    """Images below one folder, or in the shards of one folder.

    Attributes:
        root: The folder that the names start from.
        names: Unique, with forward slashes on every system; sorted, in shards as they are stored. Bytes that are no UTF-8 are
            escaped.
        escaped: The names that hold such bytes, as they are on disk, by the escaped name.
        left_out: The other files of a folder, counted by suffix, such as "3 .heic, 1 .svg".
        samples: Of images in shards, where each lies, by name.
        problems: Of shards that could not be read to their end, what is wrong.
    """

    root: Path
    names: list[str]
    escaped: dict[str, str] = field(default_factory=dict)
    left_out: str = ""
    samples: Mapping[str, Packed] = field(default_factory=dict)
    problems: Sequence[str] = ()

    def path(self, name: str) -> Path:
        """Where the image of that name lies."""
        return self.root / self.escaped.get(name, name)

    def place(self, name: str) -> Path | Packed:
        """What ``read_rgb`` reads the image of that name from."""
        return self.samples[name] if self.samples else self.path(name)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Size and time of change of each image, by name, when this is first asked for; empty for one that is not there."""
        return {name: "" if name in self.escaped else fingerprint(self.place(name)) for name in self.names}


class ImageReadError(ValueError):
    """An image that cannot be read. The message is one printable line that names the file and says why."""

    def __init__(self, message: str) -> None:
        # A file name may hold line breaks, or bytes that are no UTF-8 and that print() and a CSV writer refuse.
        super().__init__(printable(" ".join(message.split())))


def printable(text: str) -> str:
    """Return a text with escapes for what would break a line or a table: control characters and bytes that are no UTF-8."""
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
        for char in text
    )


def list_images(source: str | Path) -> ImageList:
    """Find the images of a folder, of a list file, or a single image.

    - A folder is searched with all folders below it, through symbolic links too. Hidden files and folders are left out,
      among them the ``._photo.jpg`` that macOS puts beside every file it copies. Every other entry with an extension of
      ``IMAGE_EXTENSIONS`` is listed, unless it is a folder; a dangling link is an image that fails to be read. What has
      another extension is counted.
    - A ``.txt`` file holds a path a line, in UTF-8, absolute or relative to the file's own folder. Blank lines, lines
      that start with ``#``, spaces around a path, and repetitions are dropped. Nothing else is: a path that does not
      exist is listed, so that it shows up as an image that fails to be read.
    - A single image must have one of the extensions.

    Args:
        source: A folder, a ``.txt`` file or an image file.

    Returns:
        The names and their root: the folder itself, the folder of the single image, and for a list file its own folder
        where all images lie below it, else their closest common folder.

    Raises:
        FileNotFoundError: If ``source`` does not exist.
        ValueError: If there is no image in it, it is a file of another kind, or a list file is not UTF-8.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected a folder, an image or a .txt list of images")
    if source.is_dir():
        found = list(_walk(source, "", ()))
        stored = {name.encode("utf-8", "backslashreplace").decode(): name for name in found if has_image_extension(name)}
        left_out = count_suffixes(name for name in found if not has_image_extension(name))
        if not stored:
            raise ValueError(
                f"no image found in {source} or the folders below it; looked for {' '.join(IMAGE_EXTENSIONS)}"
                f"{left_out and f', found {left_out}'}"
            )
        escaped = {name: original for name, original in stored.items() if name != original}
        return ImageList(source, sorted(stored), escaped, left_out)
    if source.suffix.lower() == ".txt":
        return _read_list(source)
    if not has_image_extension(source.name):
        raise ValueError(
            f"{source} is no image by its extension; expected a folder, a .txt list of images "
            f"or one of {' '.join(IMAGE_EXTENSIONS)}"
        )
    return ImageList(source.parent, [source.name])


def has_image_extension(name: str) -> bool:
    """Whether the name of a file ends as that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def count_suffixes(names: Iterable[str]) -> str:
    """Return how many files there are of each suffix, such as "3 .heic, 1 .svg"."""
    counts = Counter(os.path.splitext(name)[1].lower() for name in names)
    return ", ".join(
        f"{count} {printable(suffix) or 'without suffix'}"
        for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of the files below ``folder``, each with ``prefix``; ``above`` identifies the folders it lies in."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that we are in: following it would never end
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # not entry.is_dir(), which raises for a link to itself
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
            else:
                yield prefix + entry.name


def _read_list(path: Path) -> ImageList:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Windows editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}); save it as UTF-8") from error
    folder = os.path.abspath(path.parent)
    # Not splitlines(), which also splits at characters that a file name may hold, such as U+2028.
    lines = [line.strip() for line in text.split("\n")]
    paths = {os.path.normpath(os.path.join(folder, line)) for line in lines if line and not line.startswith("#")}
    if not paths:
        raise ValueError(f"{path} lists no image; expected one path a line to files such as {' '.join(IMAGE_EXTENSIONS)}")
    common = os.path.commonpath([os.path.dirname(image) for image in paths])
    if os.path.commonpath([folder, common]) == folder:
        root, start = path.parent, folder
    else:
        root, start = Path(common), common
    return ImageList(root, sorted(Path(os.path.relpath(image, start)).as_posix() for image in paths))


def read_rgb(path: str | Path | Packed) -> np.ndarray:
    """Read an image file as 8-bit sRGB, recognized by its content and not by its extension.

    JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF and JPEG 2000, from 1 to ``MAX_PIXELS`` pixels; of several frames or pages the
    first. See ``to_rgb_array`` for the conversions. Any number of threads may read at once.

    Args:
        path: The image file, or an image inside of a shard.

    Returns:
        sRGB in [0, 255], uint8, shape (H, W, 3), contiguous and writable.

    Raises:
        ImageReadError: If the file is missing, unreadable, empty, too large, truncated, damaged or of another format.
    """
    try:
        if not isinstance(path, str | Path):
            return _convert(_open(io.BytesIO(path.read()), str(path)), str(path))
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageReadError(f"{path}: is a folder; expected an image file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise ImageReadError(f"{path}: is a pipe or a device; expected an image file")
        with open(path, "rb") as stream:
            return _convert(_open(stream, str(path)), str(path))
    except ImageReadError:
        raise
    except FileNotFoundError as error:
        raise ImageReadError(f"{path}: no such file") from error
    except PermissionError as error:
        raise ImageReadError(f"{path}: no permission to read it") from error
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def to_rgb_array(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image as 8-bit sRGB: the same that ``read_rgb`` gives for its file.

    - The EXIF orientation is applied; one in XMP or a text of PNG is not, as in browsers.
    - An embedded ICC profile is converted to sRGB with the perceptual intent, which every profile supports. A profile
      that is broken, or for another color model than the pixels, counts as sRGB, as in browsers.
    - Of PNG, cICP decides before the profile, and sRGB, then gAMA with cHRM, after it. HDR (PQ and HLG) is mapped to the
      range of sRGB (data/README.md).
    - What the first frame of GIF or APNG does not cover is transparent.
    - Alpha, of whatever kind, is composited on white, in sRGB values as in browsers.
    - CMYK without a profile becomes (1 - C)(1 - K), and so on. CIELAB is taken under D50.
    - 16-bit gray is divided by 257, 12-bit gray in TIFF by 4095 / 255. 32-bit integers (mode I) are 8-bit values if
      none exceeds 255, else 16-bit values.
    - Floating point (mode F) is in [0, 1], or in [0, 255] with a maximum of ``_FLOAT_LEVELS`` or more; values beyond by
      less than half an 8-bit level are clipped.
    - 16-bit color is cut to its upper 8 bits, by Pillow.

    Args:
        image: Of any mode and at its current frame; it is loaded, and otherwise not changed.

    Returns:
        sRGB in [0, 255], uint8, shape (H, W, 3), contiguous and writable.

    Raises:
        ImageReadError: If the pixels cannot be loaded, are more than ``MAX_PIXELS``, or lie in none of these ranges.
    """
    return _convert(image, str(getattr(image, "filename", "")) or "image")


def is_gray(rgb: np.ndarray) -> bool:
    """Whether an image shows no color: a spread of at most ``GRAY_SPREAD`` in a share of ``GRAY_SHARE`` of its pixels.

    Args:
        rgb: sRGB in [0, 255], uint8, shape (H, W, 3).

    Raises:
        ValueError: If ``rgb`` has another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 of shape (H, W, 3), got {rgb.dtype} of shape {rgb.shape}; use read_rgb")
    height, width = rgb.shape[:2]
    allowed = (1 - GRAY_SHARE) * height * width
    colored = 0
    rows = max(1, _STRIP_PIXELS // 16 // max(1, width))  # small, so that a colored image is known by its first rows
    for top in range(0, height, rows):
        r, g, b = np.moveaxis(rgb[top : top + rows], 2, 0)
        spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
        colored += int(np.count_nonzero(spread > GRAY_SPREAD))
        if colored > allowed:
            return False
    return True


def _open(stream: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Read the header of an image file."""
    start = stream.read(64)
    stream.seek(0)
    if not start:
        raise ImageReadError(f"{name}: is empty (0 bytes)")
    reader = _reader(start)
    if reader is None:
        raise ImageReadError(
            f"{name}: is no image by its content; expected JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000, got a file "
            f"that starts with {start[:8]!r}"
        )
    with _decoding(name, reader.format):
        if reader is PngImageFile:
            try:
                pixels, info = png.plain_png(stream)
            except OverflowError as error:
                raise ImageReadError(f"{name}: {error}") from error
            image: ImageFile.ImageFile = PngImageFile(pixels, "")
            image.info |= dict[Any, Any](info)
            return image
        colors: dict[Any, Any] = _box_colors(stream) if reader in (AvifImageFile, Jpeg2KImageFile) else {}
        stream.seek(0)
        # Without a file name Pillow does not map the file into memory, where a file that another process shortens
        # meanwhile would end this one.
        image = reader(stream, "")
        image.info = colors | image.info
        return image


def _reader(start: bytes) -> type[ImageFile.ImageFile] | None:
    """What reads a file with these first bytes."""
    for magic, reader in _READERS:
        if start.startswith(magic) and (reader is not WebPImageFile or start[8:12] == b"WEBP"):
            return reader
    brands = start[8 : int.from_bytes(start[:4], "big")]
    if start[4:8] == b"ftyp" and any(brands[at : at + 4] in _AVIF_BRANDS for at in range(0, len(brands), 4)):
        return AvifImageFile
    return None


@contextlib.contextmanager
def _decoding(name: str, kind: str | None) -> Iterator[None]:
    """Turn whatever a decoder raises into an ``ImageReadError``."""
    try:
        yield
    except ImageReadError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{name}: is too large; expected at most {MAX_PIXELS:,} pixels ({error})") from error
    except MemoryError as error:
        raise ImageReadError(f"{name}: does not fit into memory") from error
    except Exception as error:  # on damaged bytes Pillow raises about every built-in error, not only OSError
        reason = str(error) or type(error).__name__
        raise ImageReadError(
            f"{name}: is truncated, damaged or of an unsupported kind of {kind or 'image'} ({reason})"
        ) from error


_limit_lock = threading.Lock()
_limit_users = 0
_limit_before: int | None = None


@contextlib.contextmanager
def _pillow_limit_raised(image: Image.Image) -> Iterator[None]:
    """Let Pillow load an image of up to ``MAX_PIXELS`` without its warning, which the TIFF reader gives when it loads.

    The limit is one for the process. So it is raised for as long as a thread needs it, and only by images that do.
    """
    global _limit_users, _limit_before
    if image.format != "TIFF":
        yield
        return
    with _limit_lock:
        limit = _limit_before if _limit_users else Image.MAX_IMAGE_PIXELS
        needed = limit is not None and image.width * image.height > limit
        if needed:
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS
            _limit_before = limit
            _limit_users += 1
    try:
        yield
    finally:
        if needed:
            with _limit_lock:
                _limit_users -= 1
                if _limit_users == 0:
                    Image.MAX_IMAGE_PIXELS = _limit_before


def _convert(image: Image.Image, name: str) -> np.ndarray:
    """``to_rgb_array``, with the name that its errors give."""
    width, height, left, top = image.info.get("canvas", (*image.size, 0, 0))
    if width * height == 0:
        raise ImageReadError(f"{name}: has no pixels ({width} x {height}); expected at least one")
    if width * height > MAX_PIXELS:
        raise ImageReadError(
            f"{name}: has {width * height:,} pixels ({width} x {height}); expected at most {MAX_PIXELS:,}, so make it "
            "smaller first"
        )
    with _decoding(name, image.format), _pillow_limit_raised(image):
        info = _color_info(image)
        if image.format == "TIFF":
            _orientation(image)  # Pillow turns TIFF as it loads; from here on it does not look for this in XMP
        image.load()
        orientation = _orientation(image)  # once loaded: PNG may hold it after the pixels, and TIFF is upright by then
        if "canvas" not in image.info:
            width, height = image.size  # of TIFF, upright by now
        covered = getattr(image, "dispose_extent", None) if image.format == "GIF" and image.tell() == 0 else None
        if covered and covered != (0, 0, width, height):
            left, top = covered[:2]
            image = image.crop(covered)
        white = _white_level(image, name)
        space, transform = _color_space(image, info)

        upright = np.full((width, height, 3) if orientation >= 5 else (height, width, 3), 255, np.uint8)
        stored = _as_stored(upright, orientation)[top : top + image.height, left : left + image.width]
        for rows, strip in _strips(image):
            stored[rows] = _strip_to_rgb(strip, space, transform, white)
        return upright


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Cut an image into bands of whole rows, together with the rows of each."""
    width, height = image.size
    step = max(1, _STRIP_PIXELS // width)
    if step >= height:
        yield slice(0, height), image
        return
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield slice(top, bottom), image.crop((0, top, width, bottom))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, from 1 (upright) to 8."""
    aside = {key: image.info.pop(key) for key in _BESIDE_EXIF if key in image.info}
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata fails in as many ways as damaged pixels, and is no reason to lose the image
        return 1
    finally:
        image.info.update(aside)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """View of an upright image, shape (H, W, 3), with rows and columns as an image of that orientation stores them."""
    swapped = upright.swapaxes(0, 1)
    views = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: swapped,
        6: swapped[::-1],
        7: swapped[::-1, ::-1],
        8: swapped[:, ::-1],
    }
    return views[orientation]


def _white_level(image: Image.Image, name: str) -> float | None:
    """White of a gray image of more than 8 bits, negative if that value is black and 0 white; None for other images."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        # Pillow leaves 12-bit values as they are.
        white = 4095 if tags.get(_TIFF_BITS_PER_SAMPLE) in (12, (12,)) else 65535
    elif image.mode in ("I", "F"):
        extremes = [(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in _strips(image))]
        low, high = np.min(extremes), np.max(extremes)  # of which NaN is one if any pixel is
        if not np.isfinite([low, high]).all():
            raise ImageReadError(f"{name}: has pixels that are NaN or infinite; expected finite values")
        slack = 1 / 510 if image.mode == "F" else 0
        ranges = (1, 255) if image.mode == "F" else (255, 65535)
        fitting = [top for top in ranges if -slack * top <= low and high <= (1 + slack) * top]
        if not fitting or (fitting[0] == 255 and image.mode == "F" and high < _FLOAT_LEVELS):
            expected = " or ".join(f"[0, {top}]" for top in ranges)
            raise ImageReadError(f"{name}: has values from {low:g} to {high:g}; expected {expected}")
        white = fitting[0]
    else:
        return None
    # Pillow inverts such images only up to 8 bits.
    return -white if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO else white


def _color_info(image: Image.Image) -> Mapping[Any, Any]:
    """What the file says of its colors. Pillow does not keep all of it, so a file that it opened is looked at again."""
    read = {"PNG": lambda stream: png.plain_png(stream)[1], "AVIF": _box_colors, "JPEG2000": _box_colors}.get(
        image.format or ""
    )
    if read is None or not isinstance(image, ImageFile.ImageFile) or "cicp" in image.info:
        return image.info
    try:
        if image.fp is None or image.format == "AVIF":  # closed, or replaced by pixels
            with open(image.filename, "rb") as stream:
                return {**read(stream), **image.info}
        place = image.fp.tell()
        try:
            return {**read(image.fp), **image.info}
        finally:
            image.fp.seek(place)
    except Exception:  # the file may be gone or another one, while the pixels are there
        return image.info


def _box_colors(stream: BinaryIO) -> dict[str, Any]:
    """The color space that the box colr of AVIF or JPEG 2000 gives, in the form of ``Image.info``.

    AVIF numbers it as cICP of PNG does, but the curves of cameras, or none, count as that of sRGB, as in Chromium.
    """
    stream.seek(0)
    head = stream.read(_COLR_WITHIN)
    info: dict[str, Any] = {"cicp": None}
    if (at := head.find(b"colrnclx")) >= 0:
        primaries, curve = (int.from_bytes(head[at + start : at + start + 2], "big") for start in (8, 10))
        info["cicp"] = (1 if primaries == 2 else primaries, 13 if curve in (1, 2, 6, 11, 14, 15) else curve, 0, 1)
    if (at := head.find(b"colr\2")) >= 4:  # ISO/IEC 15444-1, I.5.3.3
        info["icc_profile"] = head[at + 7 : at - 4 + int.from_bytes(head[at - 4 : at], "big")]
    return info


def _color_space(image: Image.Image, info: Mapping[str, Any]) -> tuple[str, ImageCms.ImageCmsTransform | png.ToSrgb | None]:
    """Pillow mode to bring the pixels to, and the transform from there to sRGB; None where Pillow's conversion does."""
    profile = info.get("icc_profile")
    if info.get("cicp") and not (profile and image.format == "AVIF"):  # where the profile decides
        with contextlib.suppress(KeyError):  # a color space that nobody knows: what else the file says decides
            return "RGB", png.from_cicp(info["cicp"], info.get("peak", 0))
    if image.mode in ("CMYK", "LAB"):
        space = image.mode
    elif image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16"):
        space = "L"
    else:
        space = "RGB"

    if "srgb" not in info and "gamma" in info and not _is_profile(profile):
        return "RGB", png.from_gamma(info["gamma"], info.get("chromaticity"))
    if not isinstance(profile, bytes):
        return space, None
    # ICC.1:2022, table 15: the header holds the color model of the profile at bytes 16 to 19.
    profile_space = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}.get(profile[16:20])
    if space == "L" and profile_space == "RGB":  # a color photograph that was made gray and kept its profile
        space = "RGB"
    return space, _srgb_transform(profile, space) if profile_space == space else None


def _is_profile(profile: object) -> bool:
    if not isinstance(profile, bytes):
        return False
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError):
        return False
    return True


@functools.lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Transform from a profile to sRGB; None if it changes nothing or the profile is broken.

    Kept, since a folder of photographs holds few profiles and to build one takes longer than to read a small image.
    Threads may share it: a transform is not changed by its use.
    """
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode != "RGB":
        return transform
    # The many profiles that are sRGB, known by what they do: names mislead, "Linear sRGB" is one.
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, 256, 3)
    result = np.asarray(transform.apply(Image.fromarray(probe)))
    return None if np.abs(result.astype(int) - probe).max() <= 1 else transform


def _strip_to_rgb(
    strip: Image.Image, space: str, transform: ImageCms.ImageCmsTransform | png.ToSrgb | None, white: float | None
) -> np.ndarray:
    """sRGB of a part of an image, uint8, shape (H, W, 3); the arguments as their functions above return them."""
    alpha = None
    if white is not None:
        values = np.asarray(strip)
        if "transparency" in strip.info:
            alpha = np.where(values == strip.info["transparency"], 0, 255).astype(np.uint8)
        strip = Image.fromarray(_to_8_bits(values, white))
    elif space in ("L", "RGB") and strip.has_transparency_data:
        key = strip.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:  # of a 16-bit file, of whose pixels Pillow keeps the upper 8 bits
            strip = strip.copy()
            strip.info["transparency"] = tuple(value >> 8 for value in key)
        strip = strip.convert("RGBA")
        alpha = np.asarray(strip.getchannel("A"))
        if space == "L":
            strip = strip.getchannel("R")
    if strip.mode != space:
        strip = strip.convert(space)
    if transform is not None:
        strip = transform.apply(strip)
    rgb = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    if alpha is None or alpha.min() == 255:
        return rgb
    alpha = alpha[..., None].astype(np.uint16)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)  # at most 65152, so 16 bits do


def _to_8_bits(values: np.ndarray, white: float) -> np.ndarray:
    scaled = values * np.float32(255 / abs(white))
    if white < 0:
        scaled = 255 - scaled
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
