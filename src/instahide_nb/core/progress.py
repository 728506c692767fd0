"""Progress bars: shown to people, silent in logs, tests and batch runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["in_jupyterlab", "progress"]


def in_jupyterlab() -> bool:
    """True in a notebook that a person works in.

    papermill and nbval run cells too, but nobody watches; only a Jupyter server names the session.
    """
    return (
        "ipykernel" in sys.modules
        and "JPY_SESSION_NAME" in os.environ
        and "PYTEST_CURRENT_TEST" not in os.environ
    )


def _shown() -> bool:
    """True at a terminal and in a JupyterLab cell that a person runs."""
    wish = os.environ.get("INSTAHIDE_NB_PROGRESS")
    if wish is not None:
        return wish not in ("", "0")
    return in_jupyterlab() if "ipykernel" in sys.modules else sys.stderr.isatty()


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "it",
    scaled: bool = False,
) -> Any:
    """A tqdm bar over `iterable`, or a bar to be advanced by hand with ``.update(n)``.

    Nothing is printed when standard error is not a terminal, nor under papermill or nbval, so that logs and
    recorded notebooks hold no times. ``INSTAHIDE_NB_PROGRESS=0`` or ``1`` decides by force; ``text`` draws bars of
    characters in a notebook's process too, for ``instahide-nb`` to show at a terminal.

    Parameters
    ----------
    iterable : iterable, optional
        What to go through; leave out for a bar that is advanced by hand.
    total : float, optional
        How many units the work has, when `iterable` has no length.
    desc, unit : str
        Text before the bar, and the name of one unit.
    scaled : bool
        Write large numbers with k, M or G.

    Returns
    -------
    tqdm.tqdm
        An iterable and a context manager.

    Examples
    --------
    >>> sum(progress([1, 2, 3], desc="adding"))
    6
    """
    if "ipykernel" in sys.modules and os.environ.get("INSTAHIDE_NB_PROGRESS") != "text":
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=scaled,
        leave=False,
        disable=not _shown(),
        file=sys.stderr,
    )
