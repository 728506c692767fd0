"""Pictures as uint8 arrays: from values to pixels, enlarged without inventing any, and written as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError
from instahide_nb.storage import write_bytes

__all__ = ["absolute_pixels", "enlarge", "png_bytes", "to_pixels", "write_png"]

UInt8 = npt.NDArray[np.uint8]


def to_pixels(images: npt.NDArray[Any]) -> UInt8:
    """8-bit pixels of images in [-1, 1], to the nearest; values beyond are clipped, uint8 images returned as they are.

    Examples
    --------
    >>> to_pixels(np.array([-1.0, 0.0, 1.0, 1.2]))
    array([  0, 128, 255, 255], dtype=uint8)
    """
    if images.dtype == np.uint8:
        return images
    return np.clip(np.floor((images.astype(np.float64) + 1) * 127.5 + 0.5), 0, 255).astype(np.uint8)


def absolute_pixels(images: npt.NDArray[np.floating]) -> UInt8:
    """8-bit pixels of ``|x|``: 0 is black and 1 is white. This is all of an encryption that the sign mask leaves.

    Examples
    --------
    >>> absolute_pixels(np.array([-1.0, 0.0, 0.5]))
    array([255,   0, 128], dtype=uint8)
    """
    return np.clip(np.floor(np.abs(images.astype(np.float64)) * 255 + 0.5), 0, 255).astype(np.uint8)


def enlarge(image: UInt8, factor: int) -> UInt8:
    """Each pixel of (h, w, 3) becomes a square of `factor` by `factor`."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def png_bytes(image: UInt8) -> bytes:
    """An RGB or grey uint8 image as PNG.

    The pixels are the same everywhere; the bytes can differ with the version of the compressor. So a picture's
    hash is taken of its pixels.

    Raises
    ------
    InputError
        When the array is not uint8 of shape (h, w) or (h, w, 3).
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(f"picture: {image.dtype} {image.shape}; uint8 (h, w) or (h, w, 3) is expected")
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    encoded: bytes = data.tobytes()
    return encoded


def write_png(path: Path | str, image: UInt8) -> None:
    """Write :func:`png_bytes` to a file that is whole or absent."""
    write_bytes(path, png_bytes(image))
