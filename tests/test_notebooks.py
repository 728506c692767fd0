"""The committed notebooks: run again by nbval, every output compared; and what they may hold."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
ORDER = ("gen_data", "attack", "evaluate")


def test_committed_outputs_are_what_the_notebooks_print(tmp_path: Path) -> None:
    """The plain command, on a copy: it finds the notebooks in alphabetical order, and conftest.py there sorts them."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns("runs"))
    shutil.copy(NOTEBOOKS.parent / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbval", "notebooks/"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    cells = sum(c.cell_type == "code" for name in ORDER for c in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells)
    assert f"{cells} passed" in done.stdout


def never_run(book: nbformat.NotebookNode) -> list[int]:
    """Code cells without an execution count: nbval would compare nothing of them and pass."""
    return [i for i, c in enumerate(book.cells) if c.cell_type == "code" and not c.execution_count]


def test_there_are_three_and_they_hold_their_pictures_and_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in NOTEBOOKS.glob("*.ipynb")}
    assert sizes.keys() == set(ORDER)
    assert 500_000 < sum(sizes.values()) < 3_000_000


@pytest.mark.parametrize("name", ORDER)
def test_shape_of_a_notebook(name: str) -> None:
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    book = nbformat.reads(text, 4)
    nbformat.validate(book)
    opening = book.cells[0].source
    for heading in ("What you'll do", "What you'll learn", "What you'll need"):
        assert heading in opening
    assert "## What comes next" in book.cells[-1].source
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert never_run(book) == []
    assert [cell.metadata.get("tags") for cell in codes].count(["parameters"]) == 1
    assert codes[0].metadata.tags == ["parameters"]
    for cell in codes:
        assert len(cell.source.splitlines()) <= 25
        for node in ast.walk(ast.parse(cell.source)):
            algorithm = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While | ast.Lambda)
            assert not algorithm, "it belongs in src"
        for output, below in zip_longest(cell.outputs, cell.outputs[1:]):
            if output.output_type == "display_data":
                assert output.data.keys() == {"image/png", "text/plain"}
                assert output.metadata["image/png"]["alt"] == output.data["text/plain"], "a picture in words"
                line = r"\w+\.png: (\d+ x \d+ pixels|a plot)"
                assert re.match(line, below.text), "nbval compares this line"
            else:
                assert (output.output_type, output.name) == ("stream", "stdout")
    assert set(json.loads(text)["metadata"]) == {"kernelspec", "language_info"}


def test_the_workspace_of_make_lab_opens_the_three_notebooks() -> None:
    workspace = json.loads((NOTEBOOKS / "jupyterlab-workspace.json").read_text())
    tabs = workspace["data"]["layout-restorer:data"]["main"]["dock"]["widgets"]
    assert tabs == [f"notebook:notebooks/{name}.ipynb" for name in ORDER]
    for tab in tabs:
        assert (NOTEBOOKS.parent / workspace["data"][tab]["data"]["path"]).is_file()
    recipe = (NOTEBOOKS.parent / "Makefile").read_text()
    assert f"/lab/workspaces/{workspace['metadata']['id']} " in recipe
