"""Runs the three notebooks with their own defaults and keeps the outputs in ``notebooks/``: ``make notebooks``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from instahide_nb.core.params import NOTEBOOKS
from instahide_nb.run.pipeline import execute, home

__all__ = ["record"]


def record(folder: Path) -> None:
    """Execute gen_data, attack and evaluate, one after the other in a fresh folder, and write them to `folder`."""
    os.environ["INSTAHIDE_NB_RECORD"] = "1"
    with tempfile.TemporaryDirectory() as work:
        for notebook in NOTEBOOKS:
            execute(notebook, {}, folder / f"{notebook}.ipynb", cwd=Path(work), log=Path(work))
            print(f"recorded: {notebook}.ipynb")


if __name__ == "__main__":
    record(home() / "notebooks")
