"""Bars are shown to people, not in logs and recorded notebooks; times are taken by stage."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from instahide_nb.core.progress import Stopwatch, duration, progress

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


def test_a_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch.stage(name):
            time.sleep(0.02)
    with pytest.raises(ZeroDivisionError), watch.stage("c"):
        raise ZeroDivisionError
    assert list(watch.seconds) == ["a", "b", "c"]
    assert watch.seconds["a"] >= 0.04
    assert watch.seconds["b"] >= 0.02


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.04, "7.0 s"), (59.6, "1 min 0 s"), (91.2, "1 min 31 s"), (10920, "3 h 2 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
