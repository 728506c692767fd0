"""The log file of a run, and the line at a terminal that shows that a notebook is at work.

``RUN/log/`` can be read by its owner only: a partial notebook in it shows the parameters, the seed among them. The
log itself names no seed and no key.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from instahide_nb.storage import make_folder

__all__ = ["Messages", "Watch", "bar_width", "counting", "logged", "logger", "unwatched"]

logger = logging.getLogger("instahide_nb.run")
"""Takes what happens in a run: INFO for stages, DEBUG for what ``-v`` shows, WARNING for notebooks' stderr."""


class _UtcFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)


@contextmanager
def logged(run: Path, *, verbose: TextIO | None = None) -> Iterator[Path]:
    """Write what happens to a new file ``RUN/log/TIME.log``, owner only.

    Parameters
    ----------
    run : Path
        The run's folder.
    verbose : text stream, optional
        Takes the same lines, without their times.

    Yields
    ------
    Path
        The log file.
    """
    folder = make_folder(run / "log", secret=True)
    path, descriptor = _new_file(folder)
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    handlers: list[logging.Handler] = [_QuietHandler(stream)]
    handlers[0].setFormatter(_UtcFormatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    if verbose is not None:
        handlers.append(logging.StreamHandler(verbose))
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield path
    except BaseException as error:
        logger.error("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(OSError):
            stream.close()


def _new_file(folder: Path) -> tuple[Path, int]:
    """A file named after the time, with a number where another run began in the same second."""
    start = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    for number in itertools.count(1):
        path = folder / (f"{start}.log" if number == 1 else f"{start}-{number}.log")
        with contextlib.suppress(FileExistsError):
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    raise AssertionError  # numbers do not end


class _QuietHandler(logging.StreamHandler[TextIO]):
    """A log that cannot be written (a full disk) is no reason to stop, nor to fill the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Messages:
    """What a notebook writes to standard error: whole lines go to the log, a progress bar's last state is kept.

    Parameters
    ----------
    stage : str
        Named in the log.

    Attributes
    ----------
    bar : str
        The last state of the bar that is being drawn; empty when there is none.

    Examples
    --------
    >>> messages = Messages("attack")
    >>> messages.write("\\runmask:  40%|####")
    18
    >>> messages.bar
    'unmask:  40%|####'
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar = ""
        self._open = ""

    def write(self, text: str) -> int:
        """Take the next piece of the stream; the number of characters taken."""
        *lines, self._open = (self._open + text).split("\n")
        for line in lines:
            last = line.rpartition("\r")[2].strip()
            if last:
                logger.warning("%s: %s", self.stage, last)
        self._open = self._open[-4096:]
        self.bar = self._open.rpartition("\r")[2].strip()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


Watch = Callable[[str, Messages], AbstractContextManager[None]]
"""Shows a stage while it runs."""


@contextmanager
def unwatched(label: str, messages: Messages) -> Iterator[None]:
    """Show nothing: for logs, tests and programs."""
    yield


def _columns() -> int:
    return shutil.get_terminal_size().columns


def bar_width() -> int:
    """How wide a bar may be beside the stage and its seconds."""
    return max(20, _columns() - 37)


@contextmanager
def counting(label: str, messages: Messages, stream: TextIO | None = None) -> Iterator[None]:
    """Keep one line at a terminal: the stage, the seconds so far, and the bar of the work inside.

    Parameters
    ----------
    label : str
        The stage.
    messages : Messages
        Where the bar is taken from.
    stream : text stream, optional
        The terminal; standard output by default. The line is wiped out at the end.
    """
    terminal = stream or sys.stdout
    done = threading.Event()
    start = time.monotonic()

    def draw() -> None:
        while True:
            text = f"{label:<24} {time.monotonic() - start:6.0f} s  {messages.bar}".rstrip()
            terminal.write(f"\r\x1b[K{text[: _columns() - 1]}")
            terminal.flush()
            if done.wait(0.5):
                return

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        terminal.write("\r\x1b[K")
        terminal.flush()
