"""The folder of a run: one run at a time in it, its log, and what its notebooks cost.

The lock belongs to the file ``RUN/.lock`` and ends with the last process that holds it. A notebook's kernel inherits
it: when the command is killed, its kernel may live a moment longer, and the next run waits for that.

Only the owner can read ``RUN/log/``, since a partial notebook in it shows the parameters, the seed among them. The
log itself names no seed and no key. Times and memory go to ``RUN/resources.json``, which is never hashed.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import IO, TextIO

from pydantic import Field

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, read_json, write_json
from instahide_nb.core.params import Record
from instahide_nb.core.threads import processor_count

_FOLDERS = ("release", "secret", "attack", "evaluate", "log")
_PATIENCE = 60.0  # seconds that the kernel of a killed run is given to end


@contextmanager
def locked(run: Path, name: str = ".lock", *, wait: bool = False) -> Iterator[int]:
    """Hold a folder; a second run in it waits if `wait`, else stops with InputError.

    Yields
    ------
    int
        The lock's file descriptor; a process that inherits it holds the lock too.
    """
    try:
        handle = open(run / name, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{run / name}: cannot be written ({error.strerror}); choose --out") from None
    with handle:
        if wait:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _take(handle, run)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle.fileno()


def _take(handle: IO[str], run: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        handle.seek(0)
        if _alive(handle.read().strip()) or time.monotonic() > end:
            raise InputError(f"{run}: another run is at work in this folder; wait for it or choose --out")
        time.sleep(0.1)


def _alive(owner: str) -> bool:
    """Whether the process of this number lives; True where that cannot be known."""
    try:
        os.kill(int(owner), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True
    return True


def remove_leftovers(run: Path) -> list[str]:
    """Delete the temporary files of a killed run, and return their paths within the run."""
    found = [*run.glob(".*.part"), *(path for name in _FOLDERS for path in (run / name).rglob(".*.part"))]
    for path in found:
        path.unlink(missing_ok=True)
    return sorted(path.relative_to(run).as_posix() for path in found)


logger = logging.getLogger("instahide_nb.run")
"""INFO for stages, DEBUG for what ``-v`` shows, WARNING for what notebooks write to standard error."""

logger.setLevel(logging.DEBUG)


class _QuietHandler(logging.StreamHandler[TextIO]):
    """A log that cannot be written (a full disk) neither stops the run nor fills the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def logged(run: Path, *, verbose: TextIO | None = None) -> Iterator[Path]:
    """Log to a new file in ``RUN/log/``, named by the time; `verbose` gets the same lines without times."""
    start = time.strftime("%Y-%m-%dT%H%M%SZ-", time.gmtime())
    descriptor, path = tempfile.mkstemp(".log", start, make_folder(run / "log", secret=True))
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    handlers: list[logging.Handler] = [_QuietHandler(stream)]
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handlers[0].setFormatter(formatter)
    if verbose is not None:
        handlers.append(logging.StreamHandler(verbose))
    for handler in handlers:
        logger.addHandler(handler)
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
    """A notebook's standard error: whole lines go to the log, `bar` is the last state of a progress bar.

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
        """Take the next piece of the stream."""
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


def unwatched(label: str, messages: Messages) -> AbstractContextManager[None]:
    """Show nothing: for logs, tests and programs."""
    return nullcontext()


def bar_width() -> int:
    """How wide a bar may be beside the stage and its seconds."""
    return max(20, shutil.get_terminal_size().columns - 37)


@contextmanager
def counting(label: str, messages: Messages, stream: TextIO | None = None) -> Iterator[None]:
    """Keep one line at a terminal: the stage, the seconds so far, and the progress bar inside; wiped at the end."""
    terminal = stream or sys.stdout
    done = threading.Event()
    start = time.monotonic()

    def draw(text: str) -> None:
        terminal.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
        terminal.flush()

    def keep_drawing() -> None:
        while True:
            draw(f"{label:<24} {time.monotonic() - start:6.0f} s  {messages.bar}".rstrip())
            if done.wait(0.5):
                return

    thread = threading.Thread(target=keep_drawing, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        draw("")


RESOURCES = "resources.json"


class Usage(Record):
    """What one notebook cost; None where the system does not say.

    Attributes
    ----------
    seconds : float
        Wall time, the start of its process included.
    processor_seconds : float or None
        Time on all processors together.
    peak_mib : int or None
        The most memory that its process held at once (resident), in MiB.
    machine : str
        See :func:`machine_line`.
    """

    seconds: float = Field(ge=0)
    processor_seconds: float | None = Field(ge=0)
    peak_mib: int | None = Field(ge=0)
    machine: str


def machine_line() -> str:
    """The machine in words: processors that this process may use, memory, system, Python and numpy."""
    about = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*: (.*)$", about.read_text(errors="replace"), re.M)
        if about.exists()
        else None
    )
    processor = re.sub(
        r"\((R|TM|tm)\)", "", found[1] if found else platform.processor() or "unknown processor"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor_count()} x {' '.join(processor.split())}, {memory:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, numpy {version('numpy')}"
    )


def usage_of(process: int) -> tuple[float | None, int | None]:
    """Processor seconds and peak memory (MiB; Linux's VmHWM) of a running process, without its children."""
    import psutil

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
    """Write a stage's cost into ``resources.json``; stages that are not `known` any more are left out."""
    stages = read_usage(run / RESOURCES)
    kept = {name: stages[name].as_dict() for name in set(known) & stages.keys()}
    write_json(run / RESOURCES, {"stages": kept | {stage: usage.as_dict()}})


def read_usage(path: Path) -> dict[str, Usage]:
    """The cost of each stage; nothing where the file is missing or damaged, since no result depends on it."""
    try:
        return {name: Usage(**entry) for name, entry in read_json(path)["stages"].items()}
    except (InputError, TypeError, AttributeError, KeyError):
        return {}
