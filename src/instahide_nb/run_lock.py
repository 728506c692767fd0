"""One run at a time in a folder, and nothing left over from a run that was killed.

The lock belongs to the file ``RUN/.lock`` and ends with the last process that holds it. A notebook's kernel is given
it too: when the command is killed, its kernel may live a moment longer, and the next run waits for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from instahide_nb.errors import InputError

__all__ = ["locked", "remove_leftovers"]

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
