"""What notebooks cost: time, memory and the machine, in ``RUN/resources.json``, which is never hashed."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from instahide_nb.errors import InputError
from instahide_nb.storage import read_json, write_json

__all__ = ["RESOURCES", "Usage", "machine_line", "note_usage", "processor_name", "read_usage", "usage_of"]

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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} x {processor_name()}, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
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
