"""Long work shows that it goes on to people, is silent in logs and recorded notebooks, and leaves a log of each run."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from forked_runs import run_cells, small
from typer.testing import CliRunner, Result

from instahide_nb.core.files import Messages, counting, logged
from instahide_nb.core.progress import progress
from instahide_nb.run import pipeline
from instahide_nb.run.cli import app

WORK = "from instahide_nb.core.progress import progress\nfor i in progress(range(3), desc='digging'): pass"


def environment(**changes: str) -> dict[str, str]:
    ours = ("INSTAHIDE_NB_PROGRESS", "PYTEST_CURRENT_TEST", "JPY_SESSION_NAME")
    return {name: value for name, value in os.environ.items() if name not in ours} | changes


def said_at_a_terminal(code: str, **changes: str) -> str:
    """What a program writes to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 80))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment(**changes))
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:  # so Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return text.decode()


def test_a_bar_is_drawn_at_a_terminal_unless_it_is_not_wished() -> None:
    assert "digging: " in said_at_a_terminal(WORK)
    assert said_at_a_terminal(WORK, INSTAHIDE_NB_PROGRESS="0") == ""


def test_nothing_is_drawn_into_a_log() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], env=environment(), capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


@pytest.mark.parametrize(
    ("session", "test", "shown"),
    [("/home/me/attack.ipynb", "", True), ("", "", False), ("/home/me/attack.ipynb", "a test", False)],
    ids=["JupyterLab", "papermill", "nbval"],
)
def test_cells_show_bars_to_people_only(
    session: str, test: str, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    for name, value in (("JPY_SESSION_NAME", session), ("PYTEST_CURRENT_TEST", test)):
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("INSTAHIDE_NB_PROGRESS", raising=False)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "tqdm.auto", __import__("tqdm"))
    assert sum(progress([1, 2], desc="digging")) == 3
    assert ("digging" in stream.getvalue()) == shown


def test_a_line_at_the_terminal_counts_seconds_and_is_wiped_out() -> None:
    terminal, messages = io.StringIO(), Messages("attack")
    messages.write("\runmask:  40%|####")
    with counting("attack unmask", messages, terminal):
        time.sleep(0.05)
    text = terminal.getvalue()
    assert re.search(r"attack unmask +0 s  unmask:  40%\|####", text)
    assert text.endswith("\r\x1b[K")
    assert "\n" not in text


def test_each_run_has_a_log_of_its_own_for_its_owner_only(tmp_path: Path) -> None:
    for number in range(3):
        with logged(tmp_path) as path:
            logging.getLogger("instahide_nb.run").info("run %d", number)
        assert path.read_text().endswith(f"Z INFO run {number}\n")
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "log").iterdir())) == 3
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


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
