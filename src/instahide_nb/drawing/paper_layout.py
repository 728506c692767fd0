"""How a paper wants its figures: two widths, PNG and PDF, embedded fonts, no dates, a caption beside each.

Fonts are embedded as TrueType. The same numbers and the same versions give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from instahide_nb import figures
from instahide_nb.storage import write_bytes

__all__ = ["WIDTHS", "Draw", "image_table", "save_figure"]

Images = npt.NDArray[np.uint8]
Draw = Callable[[float], Figure]
"""A figure drawn for a width in inches."""

WIDTHS = {"1col": 3.5, "2col": 7.16}
"""Inches: a column and the full width of a page in two-column proceedings."""

_DPI = 300
_NAME, _GAP, _CAPTION = 0.2, 0.03, 0.15  # inches: left of a row, between images, below images


def save_figure(draw: Draw, folder: Path, name: str, caption: str) -> list[Path]:
    """Draw a figure at both widths, and write it as PNG and PDF beside its caption."""
    from instahide_nb import __version__

    written = []
    for suffix, width in WIDTHS.items():
        figure = draw(width)
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            # No date and, in the PNG, no version: the bytes follow from the numbers.
            metadata: dict[str, Any] = (
                {"Software": None} if kind == "png" else {"CreationDate": None, "Title": name}
            )
            with figures.style():
                figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
            written.append(folder / f"{name}-{suffix}.{kind}")
            write_bytes(written[-1], buffer.getvalue())
    written.append(folder / f"{name}.txt")
    made = f"Made by instahide-nb {__version__} with Matplotlib {matplotlib.__version__}."
    write_bytes(written[-1], f"{caption}\n{made}\n".encode())
    return written


def image_table(
    rows: Sequence[tuple[str, Sequence[Images]]], captions: Sequence[Sequence[str]], *, width: float
) -> Figure:
    """Rows of small images with a name at the left, and below the images of a row their captions.

    Parameters
    ----------
    rows : sequence of (str, sequence of uint8 (h, w, 3))
        Name and images of each row.
    captions : sequence of sequence of str
        For each row a text per image, or an empty sequence.
    width : float
        Inches.
    """
    columns = len(rows[0][1])
    height, wide = rows[0][1][0].shape[:2]
    cell = (width - _NAME - (columns - 1) * _GAP) / columns
    tall = cell * height / wide
    below = [_CAPTION if texts else _GAP for texts in captions]
    total = tall * len(rows) + sum(below) + _GAP
    with figures.style():
        figure = Figure(figsize=(width, total), facecolor="white")
        top = total - _GAP
        for (name, images), texts, space in zip(rows, captions, below, strict=True):
            middle = (top - tall / 2) / total
            figure.text(0.35 * _NAME / width, middle, name, fontsize=7, rotation=90, ha="center", va="center")
            for column, image in enumerate(images):
                left = _NAME + column * (cell + _GAP)
                box = (left / width, (top - tall) / total, cell / width, tall / total)
                axis = figure.add_axes(box)
                axis.imshow(
                    image, interpolation="none", aspect="auto"
                )  # a PDF then holds the pixels themselves
                axis.set_axis_off()
                if texts:
                    place = ((left + cell / 2) / width, (top - tall - 0.015) / total)
                    figure.text(*place, texts[column], fontsize=6, ha="center", va="top")
            top -= tall + space
    return figure
