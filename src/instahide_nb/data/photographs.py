"""Photographs on disk: listed, measured from their headers, decoded, and reduced by exact area means.

Image arrays are uint8 RGB of shape (height, width, 3).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from instahide_nb.core.arrays import UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import one_line
from instahide_nb.core.kernels import kernel

MAX_MEGAPIXELS = 64
"""Larger images are refused from their header (64 megapixels take 192 MB once decoded)."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit above is lower

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_NO_IMAGE = f"is not a readable image of at most {MAX_MEGAPIXELS} megapixels, or is truncated"
_AGAIN = "download it again or remove it"
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class Photograph:
    """A photograph, or a rectangle in one with its upper left corner at `corner` (x, y); not yet decoded.

    `name` is the path inside its folder, and the rectangle. Sizes are those after the EXIF orientation is applied.
    """

    name: str
    path: Path
    width: int
    height: int
    corner: tuple[int, int] = (0, 0)

    @property
    def side(self) -> int:
        """The shorter side, in pixels."""
        return min(self.width, self.height)

    def read(self) -> UInt8:
        """Decode it to RGB, (height, width, 3)."""
        # From memory: a file that shrinks while it is decoded raises an exception, not a bus error.
        with (
            one_line(self.path, advice=_AGAIN, damaged=_NO_IMAGE),
            Image.open(io.BytesIO(self.path.read_bytes()), formats=_FORMATS) as image,
        ):
            _check(self.path, image)
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
        x, y = self.corner
        if pixels.shape[0] < y + self.height or pixels.shape[1] < x + self.width:
            raise InputError(f"{self.path}: changed while it was being read; run again")
        return np.ascontiguousarray(pixels[y : y + self.height, x : x + self.width])


def open_photograph(path: Path, name: str | None = None) -> Photograph:
    """Read the size of an image from its header; an InputError if it is too large or not of 8 bits per channel."""
    with one_line(path, advice=_AGAIN, damaged=_NO_IMAGE), Image.open(path, formats=_FORMATS) as image:
        _check(path, image)
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
    return Photograph(name if name is not None else path.name, path, width, height)


def _check(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        size = f"{width} x {height} pixels, more than {MAX_MEGAPIXELS} megapixels"
        raise InputError(f"{path}: is {size}; reduce or remove it")
    if image.mode not in _EIGHT_BIT:
        raise InputError(f"{path}: has pixels of mode {image.mode}; save it with 8 bits per channel")


def image_files(folder: Path, source: str) -> list[Path]:
    """The image files in a folder and below, sorted by path; an InputError that begins with `source` if none."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file())
    names = [f.relative_to(folder) for f in files]
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not shown:
        raise InputError(f"{source}: {folder} holds no image (JPEG, PNG, BMP, WebP, TIFF or PPM)")
    return [folder / name for name in sorted(shown, key=Path.as_posix)]


def reduce_area(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Reduce an image (h, w, 3) to a height and width: each new pixel is the mean over its area.

    The means are exact ratios of integers, so the result is the same on every machine. Halves are rounded up where
    both sides are halved, and to even elsewhere: for squares this is what OpenCV's ``INTER_AREA`` gives on x86-64.
    """
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        raise ValueError(f"an image of {image.shape[:2]} cannot be reduced to {size}")
    reduced = np.empty((*size, 3), np.uint8)
    _area_means(np.ascontiguousarray(image), reduced)
    return reduced


@kernel
def _area_means(image: UInt8, reduced: UInt8) -> None:
    """reduced[i, j] = round(sum of a_iy b_jx image[y, x] / (H W)), with weights a, b in 1/h, 1/w of a pixel.

    Row y covers [y h, (y+1) h) and row i of the result [i H, (i+1) H), so y overlaps i = y h // H and perhaps i + 1.
    """
    H, W = image.shape[:2]
    h, w = reduced.shape[:2]
    rows = np.zeros((h + 1, W, 3), np.int64)
    for y in range(H):
        i = y * h // H
        first = min(h, (i + 1) * H - y * h)
        for x in range(W):
            for c in range(3):
                rows[i, x, c] += first * image[y, x, c]
                rows[i + 1, x, c] += (h - first) * image[y, x, c]
    half_up = (2 * h, 2 * w) == (H, W)
    sums = np.zeros((w + 1, 3), np.int64)
    for i in range(h):
        sums[:] = 0
        for x in range(W):
            j = x * w // W
            first = min(w, (j + 1) * W - x * w)
            for c in range(3):
                sums[j, c] += first * rows[i, x, c]
                sums[j + 1, c] += (w - first) * rows[i, x, c]
        for j in range(w):
            for c in range(3):
                mean, rest = sums[j, c] // (H * W), sums[j, c] % (H * W)
                up = 2 * rest > H * W or (2 * rest == H * W and (half_up or mean % 2 == 1))
                reduced[i, j, c] = mean + up
