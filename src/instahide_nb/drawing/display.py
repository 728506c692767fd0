"""Pictures in notebooks: kept as a file, shown to whoever looks, named by a hash in what is recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.drawing.pictures import write_png
from instahide_nb.storage import make_folder, sha256_array, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["recording", "show", "show_plot", "write_picture"]


def recording() -> bool:
    """True where outputs are recorded or compared (``make notebooks``, nbval): text then stands for the pictures."""
    return "INSTAHIDE_NB_RECORD" in os.environ or "PYTEST_VERSION" in os.environ


def _display(path: Path) -> None:
    if not recording():
        from IPython.display import Image, display

        display(Image(filename=str(path)))  # type: ignore[no-untyped-call]


def write_picture(image: npt.NDArray[np.uint8], path: Path | str, *, exact: bool = True) -> None:
    """Write a picture, and print its size and the hash of its pixels; see :func:`show`."""
    path = Path(path)
    make_folder(path.parent)
    write_png(path, image)
    digest = f", sha256 {sha256_array(image)[:16]}" if exact else ""
    print(f"{path.name}: {image.shape[1]} x {image.shape[0]} pixels{digest}")


def show(image: npt.NDArray[np.uint8], path: Path | str, *, exact: bool = True) -> None:
    """Write a picture, print its size and the hash of its pixels, and show it.

    Parameters
    ----------
    image : (height, width, 3) uint8 array
        RGB.
    path : Path or str
        The PNG file; its folder is made.
    exact : bool
        False for a picture that may differ between machines; no hash is printed then.
    """
    write_picture(image, path, exact=exact)
    _display(Path(path))


def show_plot(figure: Figure, path: Path | str) -> None:
    """Write a plot and show it; no hash, since a plot's letters differ between versions of matplotlib.

    Parameters
    ----------
    figure : matplotlib Figure
        Closed afterwards.
    path : Path or str
        The PNG file; its folder is made.
    """
    import io

    import matplotlib.pyplot as plt

    path = Path(path)
    make_folder(path.parent)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 110, "metadata": {"Software": None}}
    figure.savefig(buffer, format="png", **options)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())
    print(f"{path.name}: a plot")
    _display(path)
