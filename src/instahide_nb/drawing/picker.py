"""Picking an encryption to look at: a slider in JupyterLab, one fixed picture wherever nobody can move one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.drawing.display import recording, show, write_picture
from instahide_nb.drawing.pictures import png_bytes
from instahide_nb.errors import InputError
from instahide_nb.progress import in_jupyterlab

__all__ = ["pick", "slider"]

Draw = Callable[[int], npt.NDArray[np.uint8]]
"""The picture of one encryption, from its row in the release."""


def pick(draw: Draw, rows: int, path: Path | str, *, row: int = 0) -> None:
    """Show one encryption and, in JupyterLab, let the reader pick another.

    Under papermill and nbval, and where ipywidgets is not installed, this is :func:`show` for `row`. What is written
    and printed is the same with and without a slider.

    Parameters
    ----------
    draw : callable
        Takes a row, returns the picture: (height, width, 3) uint8.
    rows : int
        How many encryptions there are.
    path : Path or str
        The PNG file of `row`; its folder is made.
    row : int
        The encryption that is shown first.

    Raises
    ------
    InputError
        When there is no such row.
    """
    if not 0 <= row < rows:
        raise InputError(f"row: {row} is not among the {rows} encryptions; choose 0 .. {rows - 1}")
    widget = slider(draw, rows, row) if in_jupyterlab() and not recording() else None
    if widget is None:
        show(draw(row), path)
        return
    from IPython.display import display

    write_picture(draw(row), path)
    # Viewers that know no widgets (a file on GitHub, a print) show the picture instead.
    bundle = widget._repr_mimebundle_() | {"image/png": Path(path).read_bytes()}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def slider(draw: Draw, rows: int, row: int = 0) -> Any:
    """A slider and a field for the row, above the picture that follows them; None without ipywidgets.

    Returns
    -------
    ipywidgets.VBox or None
        Its children: a box of slider and field, then the picture.
    """
    try:
        import ipywidgets
    except ImportError:
        return None
    place = ipywidgets.IntSlider(
        row, 0, rows - 1, description="encryption", readout=False, layout=ipywidgets.Layout(width="420px")
    )
    number = ipywidgets.BoundedIntText(row, 0, rows - 1, layout=ipywidgets.Layout(width="90px"))
    picture = ipywidgets.Image(value=png_bytes(draw(row)), format="png", layout={"object_fit": "none"})
    ipywidgets.link((place, "value"), (number, "value"))

    def follow(change: dict[str, Any]) -> None:
        picture.value = png_bytes(draw(change["new"]))

    place.observe(follow, "value")
    return ipywidgets.VBox([ipywidgets.HBox([place, number]), picture])
