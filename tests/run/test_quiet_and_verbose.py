"""What a run prints: nothing, one line per stage, or the lines of its log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked_runs import run_cells, small
from typer.testing import CliRunner, Result

from instahide_nb.run import pipeline
from instahide_nb.run.cli import app


def test_quiet_and_verbose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "execute", run_cells)
    monkeypatch.chdir(tmp_path)
    parameters = small(tmp_path)
    words = [
        "reproduce",
        "--preset",
        "tiny",
        "--out",
        str(tmp_path / "run"),
        "--method",
        "forked_runs:attack",
    ]
    words += [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    logs: list[Path] = []

    def reproduce(*more: str) -> tuple[Result, str]:
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        (log,) = set((tmp_path / "run/log").glob("*.log")) - set(logs)
        logs.append(log)
        return result, log.read_text()

    # What the cells print goes to this process here, and to the notebook otherwise; so everything is made first.
    reproduce()
    quiet, _ = reproduce("-q")
    assert quiet.output == ""
    usual, text = reproduce()
    assert usual.stderr == ""
    stages = [line.split()[0].partition("/")[0] for line in usual.stdout.splitlines()[:3]]
    assert stages == ["gen_data", "attack", "evaluate"]
    verbose, text = reproduce("-v")
    assert verbose.stdout == usual.stdout
    lines = [re.sub(r"^\S+ [A-Z]+ ", "", line) for line in text.splitlines()]
    assert verbose.stderr.splitlines() == lines
    assert any(re.search("[0-9a-f]{16}", line) for line in lines), "hashes are shown"
    for log in logs:
        assert str(parameters["seed"]) not in log.read_text()
