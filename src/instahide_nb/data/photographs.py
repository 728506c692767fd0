"""Photographs on disk: found, measured before they are decoded, decoded, cropped and reduced."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file

__all__ = [
    "MAX_MEGAPIXELS",
    "Photograph",
    "centre_square",
    "digest",
    "image_files",
    "open_photograph",
    "reduce_area",
]

MAX_MEGAPIXELS = 64
"""A larger image is refused by its header, before a pixel is decoded (64 megapixels are 192 MB in memory)."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # above that limit only

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class Photograph:
    """A photograph, or a rectangle of one, that has been measured but not yet decoded.

    Attributes
    ----------
    name : str
        What the crop table calls it: the path inside its folder, and the rectangle where there is one.
    path : Path
        The file.
    width, height : int
        Its size in pixels, after the camera's orientation mark is obeyed.
    corner : tuple of int
        x and y of the rectangle's upper left corner in the file's image; (0, 0) for a whole photograph.
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

    def read(self) -> npt.NDArray[np.uint8]:
        """Decode it: uint8 RGB of shape (height, width, 3)."""
        pixels = _decode(self.path)
        x, y = self.corner
        if pixels.shape[0] < y + self.height or pixels.shape[1] < x + self.width:
            raise InputError(f"{self.path}: changed while it was being read; run again")
        return np.ascontiguousarray(pixels[y : y + self.height, x : x + self.width])


def open_photograph(path: Path, name: str | None = None) -> Photograph:
    """Measure an image file from its header alone.

    Raises
    ------
    InputError
        When it is no image of 8 bits a channel, or larger than `MAX_MEGAPIXELS`.

    Examples
    --------
    >>> from instahide_nb.data.embedded import photograph_path
    >>> cat = open_photograph(photograph_path("chelsea.png"))
    >>> cat.width, cat.height, cat.read().shape
    (451, 300, (300, 451, 3))
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            _check(path, image)
            if image.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None
    return Photograph(name if name is not None else path.name, path, width, height)


def _check(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise InputError(
            f"{path}: is {width} x {height} pixels; images of up to {MAX_MEGAPIXELS} megapixels are read: "
            "reduce it or take it out"
        )
    if image.mode not in _EIGHT_BIT:
        raise InputError(f"{path}: has pixels of kind {image.mode}; save it with 8 bits a channel")


def _unreadable(path: Path, error: Exception) -> InputError:
    # Decoders raise nearly anything on a damaged file: OSError, SyntaxError, ValueError, struct.error ...
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{path}: cannot be read ({error.strerror}); check the path")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"{path}: is too large; images of up to {MAX_MEGAPIXELS} megapixels are read: "
            "reduce it or take it out"
        )
    return InputError(f"{path}: is not a readable image, or is cut short; fetch it again or take it out")


def _decode(path: Path) -> npt.NDArray[np.uint8]:
    try:
        # From memory: a file that shrinks while it is decoded gives an error, not a fault.
        with Image.open(io.BytesIO(path.read_bytes()), formats=_FORMATS) as image:
            _check(path, image)
            upright = ImageOps.exif_transpose(image)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and below, hidden ones left out, sorted by their path inside it."""
    found = (
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def digest(photographs: Iterable[Photograph]) -> str:
    """The sha256 of photographs: of their names, rectangles and files' bytes, in the order given."""
    files: dict[Path, str] = {}
    total = hashlib.sha256()
    for photo in photographs:
        if photo.path not in files:
            files[photo.path] = sha256_file(photo.path)
        total.update(
            f"{files[photo.path]} {photo.corner} {photo.width} {photo.height} {photo.name}\n".encode()
        )
    return total.hexdigest()


def centre_square(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The largest square in the middle of an image (h, w, 3).

    Examples
    --------
    >>> centre_square(np.zeros((30, 45, 3), np.uint8)).shape
    (30, 30, 3)
    """
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    return image[y : y + side, x : x + side]


def reduce_area(image: npt.NDArray[np.uint8], size: int | Sequence[int]) -> npt.NDArray[np.uint8]:
    """Reduce an image by area interpolation, each new pixel the mean of those that it covers.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, 3)
        At least as large as `size`.
    size : int or (int, int)
        The new side, or height and width.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The same on every machine and OpenCV version tried, unlike cubic or linear interpolation.

    Examples
    --------
    >>> checks = np.tile(np.uint8([[0, 200], [200, 0]]), (4, 4))[..., None].repeat(3, axis=2)
    >>> reduce_area(checks, 4)[0, 0].tolist()
    [100, 100, 100]
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[0] < height or image.shape[1] < width:
        raise ValueError(f"an image of {image.shape[:2]} cannot be reduced to {(height, width)}")
    reduced = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, dtype=np.uint8)
