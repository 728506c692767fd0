"""Stages that run one after the other: each writes a named file, and the next works with what is read from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from instahide_nb.core.files import load_array, make_folder, save_array

__all__ = ["Stages"]


@dataclass
class Stages:
    """Where the stages leave their files, and how long they take.

    Attributes
    ----------
    folder : Path or None
        Without a folder the arrays stay in memory.
    bar : progress bar
        One step for each stage.
    seconds : dict
        Wall time of each stage, by name; sub-folders add theirs.
    prefix : str
        Put before the names of stages in `seconds`.
    """

    folder: Path | None
    bar: Any
    seconds: dict[str, float] = field(default_factory=dict)
    prefix: str = ""

    def inside(self, name: str) -> Stages:
        """The same for a sub-folder."""
        folder = None if self.folder is None else make_folder(self.folder / name)
        return replace(self, folder=folder, prefix=f"{name}: ")

    def __call__(self, name: str, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Make an array, write it to ``NAME.npy``, and return what is read from there.

        Stages are made anew in each run; a file of an earlier run is replaced.
        """
        with self.timed(name):
            array = make()
            if self.folder is None:
                return array
            path = self.folder / f"{name}.npy"
            save_array(path, array)
            return load_array(path, dtype=array.dtype, shape=array.shape)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the time that the stage takes, and show its name."""
        self.bar.set_postfix_str(self.prefix + name.replace("_", " "))
        begin = time.perf_counter()
        yield
        self.bar.update(1)
        key = self.prefix + name
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - begin
