"""Runs of the notebooks' cells in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forked_runs import run_cells, small_plan

from instahide_nb.run import pipeline


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Notebooks run in this process."""
    monkeypatch.setattr(pipeline, "execute", run_cells)
    return monkeypatch


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, decrypted as the mean public image; to be read only."""
    run = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "execute", run_cells)
        pipeline.reproduce(small_plan(run), lambda line: None)
    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run beside it, so that the paths of its sources are the same."""
    return Path(shutil.copytree(finished, finished.parent / tmp_path.name))
