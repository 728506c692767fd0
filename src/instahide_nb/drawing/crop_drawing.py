"""A photograph with its crops outlined, and a crop with its SIFT key points: how public images are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.drawing.lettering import MUTED, draw_text, line_height, text_width
from instahide_nb.drawing.pictures import enlarge
from instahide_nb.errors import InputError
from instahide_nb.images.crop_table import CropTable
from instahide_nb.images.crops import key_points
from instahide_nb.images.photographs import Photograph

__all__ = ["crop_picture"]

UInt8 = npt.NDArray[np.uint8]

_KEPT, _REFUSED = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito
_SPOT = (240, 228, 66)
_LONGEST = 720  # a larger photograph is reduced by a whole factor
_CROP = 400  # a crop is enlarged by the whole factor that brings it nearest below this
_GAP = 20


def crop_picture(
    photographs: Sequence[Photograph], crops: CropTable, *, photograph: int = 0, most: int = 10
) -> UInt8:
    """A photograph with crops outlined on it, and beside it the first kept crop with its key points.

    Parameters
    ----------
    photographs : sequence of Photograph
        Those that the crops were drawn from.
    crops : CropTable
        The crops; kept ones are outlined in blue, refused ones in vermilion.
    photograph : int
        Which photograph. When it has no kept crop, the next that has one is taken.
    most : int
        How many of its crops are outlined at most.

    Returns
    -------
    uint8 (height, width, 3)

    Raises
    ------
    InputError
        When no crop at all was kept.
    """
    kept = np.flatnonzero(crops.kept)
    if not kept.size:
        raise InputError("crops: none was kept; lower min_keypoints or choose other photographs")
    away = (crops.photo[kept] - photograph) % len(photographs)
    shown = int(crops.photo[kept[np.argmin(away)]])
    mine = np.flatnonzero(crops.photo == shown)
    first = mine[crops.kept[mine]][0]
    chosen = np.unique(np.append(mine[:most], first))
    pixels = photographs[shown].read()

    left = _outlined(pixels, crops, chosen, int(first))
    x, y, side = (int(value) for value in crops.box[first])
    right = _spotted(pixels[y : y + side, x : x + side])

    captions = (
        f"{len(chosen)} crops: {int(crops.kept[chosen].sum())} kept, {int((~crops.kept[chosen]).sum())} refused",
        f"{side} x {side} pixels, {int(crops.keypoints[first])} key points",
    )
    sides = tuple(zip((left, right), captions, strict=True))
    widths = [max(image.shape[1], text_width(text, "body")) for image, text in sides]
    top = _GAP + line_height("body") + 6
    tall = max(left.shape[0], right.shape[0])
    canvas = np.full((top + tall + _GAP, sum(widths) + 3 * _GAP, 3), 255, np.uint8)
    corner = _GAP
    for (image, text), width in zip(sides, widths, strict=True):
        draw_text(canvas, text, corner, _GAP, colour=MUTED)
        canvas[top : top + image.shape[0], corner : corner + image.shape[1]] = image
        corner += width + _GAP
    return canvas


def _outlined(pixels: UInt8, crops: CropTable, chosen: npt.NDArray[np.int64], first: int) -> UInt8:
    """The photograph, reduced where it is large, with its crops' outlines; kept ones lie on top, `first` is thicker."""
    factor = -(-max(pixels.shape[:2]) // _LONGEST)
    height, width = (length // factor for length in pixels.shape[:2])
    reduced = cv2.resize(
        pixels[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA
    )
    picture = np.array(reduced, np.uint8)
    order = sorted(chosen.tolist(), key=lambda row: (row == first, bool(crops.kept[row]), row))
    for row in order:
        x, y, side = (int(value) // factor for value in crops.box[row])
        thick = 4 if row == first else 2
        # A white line inside the coloured one keeps the outline visible on any ground.
        _frame(picture, x, y, side, thick, _KEPT if crops.kept[row] else _REFUSED)
        _frame(picture, x + thick, y + thick, side - 2 * thick, 1, (255, 255, 255))
    return picture


def _frame(picture: UInt8, x: int, y: int, side: int, thick: int, colour: tuple[int, int, int]) -> None:
    box = picture[y : y + side, x : x + side]
    for edge in (box[:thick], box[-thick:], box[:, :thick], box[:, -thick:]):
        edge[...] = colour


def _spotted(crop: UInt8) -> UInt8:
    """The crop enlarged, with a circle of each key point's diameter around it."""
    factor = max(1, _CROP // len(crop))
    picture = enlarge(crop, factor)
    row, column = np.ogrid[: picture.shape[0], : picture.shape[1]]
    for x, y, size in key_points(crop):
        # In half pixels, so that all is integer; the middle of pixel 0 is half a pixel from the edge.
        centre_x, centre_y = (int((float(value) + 0.5) * factor * 2) for value in (x, y))
        radius = max(3 * factor, int(float(size) * factor))
        distance = (2 * column + 1 - centre_x) ** 2 + (2 * row + 1 - centre_y) ** 2
        for width, colour in ((3, (32, 33, 36)), (1, _SPOT)):
            ring = (distance >= (radius - width) ** 2) & (distance <= (radius + width) ** 2)
            picture[ring] = colour
    return picture
