"""Files that are either whole or absent: atomic writing, careful reading, and their sha256.

Everything that a run leaves behind goes through here. A file is written under a temporary name in the same
folder, flushed to the disk and renamed, so that a run killed at any moment leaves no half of a file. Reading
never unpickles, and what is wrong with a file becomes one line that names it.

One run at a time in a folder, and nothing left over from a run that was killed.

The lock belongs to the file ``RUN/.lock`` and ends with the last process that holds it. A notebook's kernel is given
it too: when the command is killed, its kernel may live a moment longer, and the next run waits for that.

The log file of a run, and the line at a terminal that shows that a notebook is at work.

``RUN/log/`` can be read by its owner only: a partial notebook in it shows the parameters, the seed among them. The
log itself names no seed and no key.

What notebooks cost: time, memory and the machine, in ``RUN/resources.json``, which is never hashed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import processor_count

_LARGEST_ARRAY = 8 * 2**30  # bytes; a header that promises more is not believed
_LARGEST_HEADER = 16 * 2**10
_LARGEST_JSON = 64 * 2**20


def _write(path: Path, fill: Callable[[IO[bytes]], object], mode: int) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: cannot be written ({_why(error)}); choose another folder") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: cannot be written ({_why(error)}); free space or choose another folder"
            ) from None
        raise


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def make_folder(path: Path | str, *, secret: bool = False) -> Path:
    """Create a folder (and its parents); a secret one is readable by its owner only.

    Raises
    ------
    InputError
        When the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if secret:
            folder.chmod(0o700)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be made ({_why(error)}); choose another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written (permission denied); choose another folder")
    return folder


def write_bytes(path: Path | str, data: bytes, *, secret: bool = False) -> None:
    """Write `data` so that the file is whole or absent; `secret` makes it readable by its owner only."""
    _write(Path(path), lambda stream: stream.write(data), 0o600 if secret else 0o644)


def save_array(path: Path | str, array: npt.NDArray[Any], *, secret: bool = False) -> None:
    """Save an array as `.npy`, whole or absent.

    The bytes depend on dtype, shape and values alone: the array is written in C order and little-endian.
    """
    ordered = np.asarray(array, order="C")  # ascontiguousarray would make a single number one-dimensional
    if ordered.dtype.hasobject:
        raise TypeError(f"{path}: arrays of Python objects are never saved")
    ordered = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    _write(
        Path(path), lambda stream: np.save(stream, ordered, allow_pickle=False), 0o600 if secret else 0o644
    )


def load_array(
    path: Path | str, *, dtype: npt.DTypeLike | None = None, shape: tuple[int | None, ...] | None = None
) -> npt.NDArray[Any]:
    """Load a `.npy` file without unpickling, and check what it holds.

    Parameters
    ----------
    path : Path or str
        The file.
    dtype : dtype, optional
        The dtype that the array must have (byte order aside).
    shape : tuple of int or None, optional
        The shape that it must have; None in a place means any length.

    Raises
    ------
    InputError
        When the file is missing, empty, truncated, pickled, or of another dtype or shape.
    """
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            array = _read_npy(file, stream)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a folder; name the .npy file in it") from None
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be read ({_why(error)})") from None
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise InputError(f"{file}: holds {array.dtype}; {np.dtype(dtype)} is expected")
    if shape is not None and (
        array.ndim != len(shape)
        or any(want is not None and want != have for want, have in zip(shape, array.shape, strict=True))
    ):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise InputError(f"{file}: has shape {array.shape}; {wanted} is expected")
    return array


def _read_npy(file: Path, stream: IO[bytes]) -> npt.NDArray[Any]:
    size = os.fstat(stream.fileno()).st_size
    if size == 0:
        raise InputError(f"{file}: is empty; make or fetch it again")
    try:
        # From a copy of the file's start: numpy would set aside as much memory as a header says that it is long.
        head = io.BytesIO(stream.read(_LARGEST_HEADER))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of Python 2's way to write whole numbers, which is read all the same
            version = np.lib.format.read_magic(head)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
            else:
                raise ValueError(f"format version {version}")
    except Exception:
        # The header is text that numpy parses; a hostile one can raise nearly anything.
        raise InputError(f"{file}: is not a .npy file; write it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(f"{file}: holds pickled Python objects, which are never loaded; save plain numbers")
    if (
        dtype.names is not None
        or dtype.subdtype is not None
        or dtype.kind not in "biufU"
        or not dtype.itemsize
    ):
        raise InputError(f"{file}: holds {dtype}; an array of plain numbers is expected")
    count = 1
    for length in shape:
        count *= int(length)
    needed = count * dtype.itemsize
    # An axis of length 0 makes any other length weigh nothing, so lengths are bounded one by one too.
    if (
        len(shape) > 32
        or any(not 0 <= int(length) <= _LARGEST_ARRAY for length in shape)
        or needed > _LARGEST_ARRAY
    ):
        raise InputError(f"{file}: its header promises shape {shape}; make or fetch it again")
    present = size - head.tell()
    if present != needed:
        raise InputError(
            f"{file}: is truncated or has bytes too many ({present} of {needed} bytes of data); "
            "make or fetch it again"
        )
    stream.seek(head.tell())
    buffer = bytearray(needed)
    if stream.readinto(buffer) != needed:  # type: ignore[attr-defined]
        raise InputError(f"{file}: could not be read to its end; make or fetch it again")
    data = np.frombuffer(buffer, dtype)
    lengths = tuple(int(length) for length in shape)
    array = data.reshape(lengths[::-1]).T if fortran else data.reshape(lengths)
    return np.asarray(array.astype(dtype.newbyteorder("="), copy=False), order="C")


def write_json(path: Path | str, content: object, *, secret: bool = False) -> None:
    """Write JSON with sorted keys, two spaces of indent and a newline at the end; whole or absent."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), secret=secret)


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        When the file is missing, too large, not JSON, or not an object.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{file}: is larger than 64 MiB; such a file is not ours")
        content = json.loads(file.read_bytes().decode())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({_why(error)})") from None
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{file}: is not JSON; make or fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no JSON object; make or fetch it again")
    return content


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hex."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_why(error)})") from None


def sha256_array(array: npt.NDArray[Any]) -> str:
    """The sha256 of an array: of its dtype, its shape and its values in C order.

    Examples
    --------
    >>> import numpy as np
    >>> sha256_array(np.zeros(3, np.uint8))[:16]
    '13c97f3e613d907c'
    >>> sha256_array(np.zeros((3, 1), np.uint8))[:16] == sha256_array(np.zeros(3, np.uint8))[:16]
    False
    """
    ordered = np.asarray(array, order="C")
    ordered = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{ordered.dtype.str} {array.shape}\n".encode())
    digest.update(ordered.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


_FOLDERS = ("release", "secret", "attack", "evaluate", "log")
_PATIENCE = 60.0  # seconds that the kernel of a killed run is given to notice and end


@contextmanager
def locked(run: Path) -> Iterator[int]:
    """Hold the run's folder; a second run in it says so and stops.

    Parameters
    ----------
    run : Path
        The run's folder; it must exist.

    Yields
    ------
    int
        The lock's file descriptor; a process that inherits it holds the lock too.

    Raises
    ------
    InputError
        When another run is at work in the folder.
    """
    try:
        handle = open(run / ".lock", "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{run / '.lock'}: cannot be written ({error.strerror}); choose --out") from None
    with handle:
        _take(handle, run)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle.fileno()


def _take(handle: IO[str], run: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            handle.seek(0)
            owner = handle.read().strip()
        if _alive(owner) or time.monotonic() > end:
            raise InputError(
                f"{run}: another run is at work in this folder; wait for it or choose --out"
            ) from None
        time.sleep(0.1)


def _alive(owner: str) -> bool:
    """Whether the process that wrote its number lives; True where nothing can be told.

    Examples
    --------
    >>> _alive(str(os.getpid())), _alive("")
    (True, True)
    """
    if not owner.isdigit():
        return True
    try:
        os.kill(int(owner), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_leftovers(run: Path) -> list[str]:
    """Delete temporary files that a killed run left; only in the folders that a run makes.

    Returns
    -------
    list of str
        Their paths within the run.
    """
    found = list(run.glob(".*.part"))
    for name in _FOLDERS:
        found += (run / name).rglob(".*.part")
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return sorted(path.relative_to(run).as_posix() for path in found)


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


RESOURCES = "resources.json"


@dataclass(frozen=True)
class Usage:
    """What one notebook cost.

    Attributes
    ----------
    seconds : float
        Wall time, the start of its process included.
    processor_seconds : float or None
        Time on all processors together; None where the system does not tell.
    peak_mib : int or None
        The most memory that its process held at once (resident), in MiB; None where the system does not tell.
    machine : str
        See :func:`machine_line`.
    """

    seconds: float
    processor_seconds: float | None
    peak_mib: int | None
    machine: str


def processor_name() -> str:
    """The processor's name as its maker writes it, without marks and spaces to spare."""
    name = platform.processor()
    about = Path("/proc/cpuinfo")
    if about.exists():
        found = re.search(r"^model name\s*: (.*)$", about.read_text(errors="replace"), re.MULTILINE)
        name = found[1] if found else name
    return " ".join(re.sub(r"\((R|TM|tm)\)", "", name).split()) or "unknown processor"


def machine_line() -> str:
    """The machine in words: processor, how many of them this process may use, memory, system, Python and numpy."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor_count()} x {processor_name()}, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, numpy {version('numpy')}"
    )


def usage_of(process: int | None) -> tuple[float | None, int | None]:
    """Processor seconds and peak memory (MiB) of a running process, so far; None for what the system does not tell.

    The peak is what Linux keeps as VmHWM. What the process's children used is not counted.
    """
    import psutil

    try:
        times = psutil.Process(process).cpu_times()
        used: float | None = round(times.user + times.system, 3)
    except psutil.Error:
        used = None
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
    except OSError:
        return used, None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return used, round(int(found[1]) / 1024) if found else None


def note_usage(run: Path, stage: str, usage: Usage, known: Iterable[str]) -> None:
    """Write a stage's cost into a run's ``resources.json``, and leave out stages that are not `known` any more."""
    stages = {
        name: asdict(entry) for name, entry in read_usage(run / RESOURCES).items() if name in set(known)
    }
    write_json(run / RESOURCES, {"stages": stages | {stage: asdict(usage)}})


def read_usage(path: Path) -> dict[str, Usage]:
    """The cost of each stage; nothing where the file is missing or damaged, since no result depends on it."""
    try:
        stages = read_json(path).get("stages")
        return {name: _usage(entry) for name, entry in stages.items()} if isinstance(stages, dict) else {}
    except (InputError, TypeError):
        return {}


def _usage(entry: Any) -> Usage:
    found = Usage(**entry)
    numbers = (found.seconds, found.processor_seconds or 0.0, found.peak_mib or 0)
    if not all(isinstance(x, int | float) and x >= 0 for x in numbers) or not isinstance(found.machine, str):
        raise TypeError("not numbers and a text")
    return found
