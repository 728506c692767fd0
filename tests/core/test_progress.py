"""Bars are shown to people, not in logs and recorded notebooks; times are taken by stage."""

from __future__ import annotations

import io
import sys
import time

import pytest

from instahide_nb.core.progress import Stopwatch, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("where", "environment", "shown"),
    [
        ("terminal", {}, True),
        ("terminal", {"INSTAHIDE_NB_PROGRESS": "0"}, False),
        ("log", {}, False),
        ("log", {"INSTAHIDE_NB_PROGRESS": "1"}, True),
        ("cell", {"JPY_SESSION_NAME": "somewhere/attack.ipynb"}, True),
        ("cell", {}, False),  # papermill
        ("cell", {"JPY_SESSION_NAME": "somewhere/attack.ipynb", "PYTEST_CURRENT_TEST": "nbval"}, False),
        ("cell", {"INSTAHIDE_NB_PROGRESS": "text"}, True),
    ],
)
def test_bars_are_shown_to_people_only(
    where: str, environment: dict[str, str], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INSTAHIDE_NB_PROGRESS", "JPY_SESSION_NAME", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if where == "cell":
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setitem(sys.modules, "tqdm.auto", __import__("tqdm"))
    stream = Terminal() if where == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert sum(progress([1, 2], desc="digging")) == 3
    assert ("digging" in stream.getvalue()) == shown
    assert shown or stream.getvalue() == ""


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
