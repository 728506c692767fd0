"""Progress bars for people, silent in logs, tests and batch runs; wall time per stage; times in words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def in_jupyterlab() -> bool:
    """True in a notebook that a person works in; papermill and nbval set no JPY_SESSION_NAME."""
    return "ipykernel" in sys.modules and "JPY_SESSION_NAME" in os.environ and "PYTEST_CURRENT_TEST" not in os.environ


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "it",
    scaled: bool = False,
) -> Any:  # tqdm.tqdm
    """A tqdm bar over `iterable`, or without one a bar to advance by hand with ``.update(n)``.

    It is shown at a terminal and in a JupyterLab cell that a person runs. ``INSTAHIDE_NB_PROGRESS=0`` never shows it,
    ``1`` always; ``text`` always draws it with characters, so that ``instahide-nb`` can show a notebook's bar at a
    terminal. `scaled` writes large numbers with k, M or G.
    """
    cell, wish = "ipykernel" in sys.modules, os.environ.get("INSTAHIDE_NB_PROGRESS")
    if cell and wish != "text":
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    watched = in_jupyterlab() if cell else sys.stderr.isatty()
    shown = watched if wish is None else wish not in ("", "0")
    looks = {"leave": False, "disable": not shown, "file": sys.stderr}
    return tqdm(iterable, total=total, desc=desc, unit=unit, unit_scale=scaled, **looks)


class Stopwatch:
    """Wall time per stage, in the dict `seconds`; the times of a repeated stage are added up.

    `report` is called with the name of each stage as it begins. `bar` shows the name, and advances when the stage ends.
    """

    def __init__(self, report: Callable[[str], object] | None = None, bar: Any = None) -> None:
        self.seconds: dict[str, float] = {}
        self._report, self.bar = report, bar

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to stage `name`."""
        if self._report is not None:
            self._report(name)
        if self.bar is not None:
            self.bar.set_postfix_str(name.replace("_", " "))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        if self.bar is not None:
            self.bar.update(1)


def duration(seconds: float) -> str:
    """A time in words: 7.0 s, 1 min 31 s, 3 h 2 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"
