"""Bring an image to the size that the networks see, in NumPy and Pillow, level for level as ``models.preprocessing`` does.

What torch computes lies so often at the border of two 8-bit levels, where the size of an image and that of the result have a
common divisor, that the rounding of single additions decides, and a few levels move a score by 1e-3. So the image is resized
by Pillow, which is precise, and each value so near a border that torch may be beyond it is computed once more in the arithmetic
of torch: in its order, in float32, with the fused multiplications and additions that it uses on CPUs with AVX2.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

_STRIP_PIXELS = 1 << 16  # pixels worked on at a time; they stay in the cache of a core
_DOUBT = 1e-5  # 8-bit levels of error for each pixel of the longer side: torch knows places in float32
_FLOATS = np.arange(256, dtype=np.float32) / np.float32(255)
_AT_ONCE = 1 << 12  # values computed in the arithmetic of torch at a time


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a square: box average by a whole factor, then antialiased bilinear.

    Args:
        pixels: sRGB, uint8, shape (H, W, 3).
        size: Side of the result, in pixels.

    Returns:
        sRGB, uint8, shape (size, size, 3).
    """
    factor = max(1, min(pixels.shape[:2]) // (2 * size))
    if factor > 1:
        averages = box_average(pixels, factor)
        planes = [Image.fromarray(np.ascontiguousarray(averages[..., channel])) for channel in range(3)]
    else:
        planes = [plane.convert("F") for plane in Image.fromarray(pixels).split()]
    values = np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes], 2)
    levels = np.rint(values)
    doubtful = np.argwhere(abs(values - levels) > 0.5 - _DOUBT * max(planes[0].size))
    for start in range(0, len(doubtful), _AT_ONCE):
        places = tuple(doubtful[start : start + _AT_ONCE].T)
        levels[places] = np.rint(_as_torch(pixels, factor, size, *places) * np.float32(255))
    return levels.clip(0, 255).astype(np.uint8)


def box_average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average an image over boxes of ``factor`` x ``factor`` pixels; boxes at the right and the lower edge may be smaller.

    Args:
        pixels: uint8, shape (H, W, 3).
        factor: Side of a box, in pixels.

    Returns:
        float32 in [0, 255], shape (H / factor, W / factor, 3), rounded up.
    """
    height, width = pixels.shape[:2]
    sums = np.empty((-(-height // factor), -(-width // factor), 3), np.float32)
    rows = max(1, _STRIP_PIXELS // (width * factor))
    for top in range(0, len(sums), rows):
        strip = pixels[top * factor : (top + rows) * factor]
        sums[top : top + rows] = _sums(_sums(strip, factor).swapaxes(0, 1), factor).swapaxes(0, 1)
    return sums / _lengths(height, factor)[:, None, None] / _lengths(width, factor)[:, None]


def _sums(values: np.ndarray, factor: int) -> np.ndarray:
    """Sums of ``factor`` entries each along the first axis."""
    sums = values[::factor].astype(np.uint32)
    for offset in range(1, factor):
        entries = values[offset::factor]
        sums[: len(entries)] += entries
    return sums


def _lengths(side: int, factor: int) -> np.ndarray:
    """How many pixels each box has along a side, float32."""
    lengths = np.full(-(-side // factor), factor, np.float32)
    lengths[-1] -= len(lengths) * factor - side
    return lengths


def _as_torch(
    pixels: np.ndarray, factor: int, size: int, rows: np.ndarray, columns: np.ndarray, channels: np.ndarray
) -> np.ndarray:
    """Values of the resized image at N places, to the bit as torch computes them, float32 in [0, 1], shape (N,)."""
    height, width = (-(-side // factor) for side in pixels.shape[:2])
    first_row, row_weights, row_taps = (table[rows] for table in _weights(height, size))
    first_column, column_weights, column_taps = (table[columns] for table in _weights(width, size))
    # all that a place reads, (N, rows, columns); beyond the edge, where weights are zero and unused, the last ones again
    sources = (
        np.minimum(first_row[:, None] + np.arange(row_weights.shape[1]), height - 1)[:, :, None],
        np.minimum(first_column[:, None] + np.arange(column_weights.shape[1]), width - 1)[:, None, :],
    )
    averages = _average_as_torch(pixels, factor, *sources, channels[:, None, None])
    along_rows = _weighted_as_torch(averages, column_weights[:, None], column_taps[:, None])
    return _weighted_as_torch(along_rows, row_weights, row_taps)


def _average_as_torch(
    pixels: np.ndarray, factor: int, rows: np.ndarray, columns: np.ndarray, channels: np.ndarray
) -> np.ndarray:
    """Averages over boxes, each given by its row, column and channel among all boxes, in float32 and from left to right."""
    if factor == 1:
        return _FLOATS[pixels[rows, columns, channels]]
    height, width = pixels.shape[:2]
    shape = np.broadcast_shapes(rows.shape, columns.shape, channels.shape)
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for below in range(factor):
        for right in range(factor):
            y, x = rows * factor + below, columns * factor + right
            inside = (y < height) & (x < width)
            values = _FLOATS[pixels[np.minimum(y, height - 1), np.minimum(x, width - 1), channels]]
            total = total + np.where(inside, values, np.float32(0))
            count += inside
    return total / count


def _weighted_as_torch(values: np.ndarray, weights: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Weighted sums along the last axis, of which the first ``taps`` entries count.

    The compiler of torch takes the products after the first in fours and adds them one by one; those that are left over are
    multiplied and added in one step, which rounds once.
    """
    in_fours = (taps - 1) // 4 * 4
    total = values[..., 0] * weights[..., 0]
    for tap in range(1, values.shape[-1]):
        value, weight = values[..., tap], weights[..., tap]
        fused = (total.astype(np.float64) + value.astype(np.float64) * weight.astype(np.float64)).astype(np.float32)
        total = np.where(tap < taps, np.where(tap <= in_fours, total + value * weight, fused), total)
    return total


@lru_cache(maxsize=64)
def _weights(side: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each of ``size`` pixels reads of ``side`` pixels: the first one, the weights, float32 (size, T), and how many."""
    scale = np.float32(side) / np.float32(size)
    support = max(scale, np.float32(1))
    inverse = np.float32(1) / support
    center = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5))
    first = np.maximum(((center - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    end = np.minimum(((center + support).astype(np.float64) + 0.5).astype(np.int64), side)
    taps = end - first
    number = np.arange(taps.max())
    distance = (first[:, None] + number).astype(np.float32) - center[:, None]
    distance = abs((distance.astype(np.float64) + 0.5) * inverse).astype(np.float32)
    weights = np.where(number < taps[:, None], np.maximum(np.float32(1) - distance, np.float32(0)), np.float32(0))
    total = np.zeros(size, np.float32)
    for column in weights.T:
        total = total + column
    return first, weights / total[:, None], taps
