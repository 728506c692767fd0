"""The folder of a run: its lock, its log, and the cost of its notebooks.

The lock on ``RUN/.lock`` ends with the last process that holds it. A notebook's kernel inherits it and may end a moment
after a killed command; the next run waits for it. Only the owner can read ``RUN/log/``, since a partial notebook in it
shows the seed. The log itself contains no seed and no key. ``RUN/resources.json`` is never hashed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import psutil
from pydantic import Field

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, one_line, read_json, write_json
from instahide_nb.core.params import Record
from instahide_nb.core.threads import processor_count

_FOLDERS = ("release", "secret", "attack", "evaluate", "log")
_PATIENCE = 60.0  # seconds to wait for the kernel of a killed run


@contextmanager
def locked(run: Path, name: str = ".lock", *, wait: bool = False) -> Iterator[int]:
    """Lock a folder and yield the lock's file descriptor. If it is locked, wait (if `wait`) or raise InputError."""
    with one_line(run / name, "written", "choose --out"):
        handle = open(run / name, "a+")  # noqa: SIM115 - closed below
    end = time.monotonic() + _PATIENCE
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except OSError:
                handle.seek(0)
                owner = handle.read()
                if not owner.isdecimal() or psutil.pid_exists(int(owner)) or time.monotonic() > end:
                    busy = "another run is at work in this folder; wait for it or choose --out"
                    raise InputError(f"{run}: {busy}") from None
                time.sleep(0.1)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle.fileno()


def remove_leftovers(run: Path) -> list[str]:
    """Delete the temporary files of a killed run, and return their paths within the run."""
    found = [*run.glob(".*.part"), *(path for name in _FOLDERS for path in (run / name).rglob(".*.part"))]
    for path in found:
        path.unlink(missing_ok=True)
    return sorted(path.relative_to(run).as_posix() for path in found)


logger = logging.getLogger("instahide_nb.run")
logger.setLevel(logging.DEBUG)  # INFO: stages; WARNING: stderr of notebooks; DEBUG: the rest of ``-v``


class _Handler(logging.StreamHandler[TextIO]):
    """A log that cannot be written (a full disk) neither stops the run nor fills the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def logged(run: Path, *, verbose: TextIO | None = None) -> Iterator[Path]:
    """Log to a new file in ``RUN/log/``, named by the time; `verbose` gets the same lines without times."""
    start = time.strftime("%Y-%m-%dT%H%M%SZ-", time.gmtime())
    descriptor, path = tempfile.mkstemp(".log", start, make_folder(run / "log", secret=True))
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    handlers = [_Handler(stream)] + ([_Handler(verbose)] if verbose else [])
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handlers[0].setFormatter(formatter)
    logger.handlers += handlers
    try:
        yield Path(path)
    except BaseException as error:
        logger.error("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            stream.close()


class Messages:
    """A notebook's standard error: whole lines go to the log, `bar` is the last state of a progress bar."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar = ""
        self._open = ""

    def write(self, text: str) -> int:
        """Receive the next piece of the stream."""
        *lines, self._open = (self._open + text).split("\n")
        for line in lines:
            last = line.rpartition("\r")[2].strip()
            if last:
                logger.warning("%s: %s", self.stage, last)
        self._open = self._open[-4096:]
        self.bar = self._open.rpartition("\r")[2].strip()
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


@contextmanager
def counting(label: str, messages: Messages) -> Iterator[None]:
    """Show one line at a terminal, until the end: the stage, the seconds so far, and the progress bar inside it."""
    terminal, start, done = sys.stdout, time.monotonic(), threading.Event()

    def draw() -> None:
        while True:
            line = f"{label:<24} {time.monotonic() - start:6.0f} s  {messages.bar}".rstrip()
            terminal.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
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


RESOURCES = "resources.json"


class Usage(Record):
    """The cost of one notebook; None if the system does not report it."""

    seconds: float = Field(ge=0, description="wall time, including the start of its process")
    processor_seconds: float | None = Field(ge=0, description="time on all processors together")
    peak_mib: int | None = Field(ge=0, description="the most resident memory that its process held at once")
    machine: str


def machine_line() -> str:
    """One line about the machine: processors that this process may use, memory, system, Python and numpy."""
    name = platform.processor()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.M)
        name = found[1] if found else name
    name = " ".join(re.sub(r"\((R|TM|tm)\)", "", name).split()) or "unknown processor"
    return (
        f"{processor_count()} x {name}, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, numpy {version('numpy')}"
    )


def usage_of(process: int) -> tuple[float | None, int | None]:
    """Processor seconds and peak memory (MiB; Linux's VmHWM) of a running process, without its children."""
    used = peak = None
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(process).cpu_times()
        used = round(times.user + times.system, 3)
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M):
            peak = round(int(found[1]) / 1024)
    return used, peak


def note_usage(run: Path, stage: str, usage: Usage, known: Iterable[str]) -> None:
    """Write a stage's cost into ``resources.json``, and remove stages that are no longer `known`."""
    stages = read_usage(run / RESOURCES)
    kept = {name: stages[name].as_dict() for name in set(known) & stages.keys()}
    write_json(run / RESOURCES, {"stages": kept | {stage: usage.as_dict()}})


def read_usage(path: Path) -> dict[str, Usage]:
    """The cost of each stage; empty if the file is missing or damaged, since no result depends on it."""
    try:
        return {name: Usage(**entry) for name, entry in read_json(path)["stages"].items()}
    except (InputError, TypeError, AttributeError, KeyError):
        return {}
