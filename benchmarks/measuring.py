"""How things are measured here: rounds in which every candidate runs once, medians, peak memory of a process."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["fitted_exponent", "machine", "median", "peak_mib", "ratio", "rounds"]

Seconds = dict[str, list[float]]


def rounds(
    candidates: Mapping[str, Callable[[], object]], runs: int, *, most_seconds: float = float("inf")
) -> Seconds:
    """Wall time of each candidate in each round; a first call of each is not counted.

    Parameters
    ----------
    candidates : mapping of str to callable
        All run once in each round, one after the other, so that what else the machine does meets all of them.
    runs : int
        Rounds.
    most_seconds : float
        No round is begun after this, save the first.
    """
    for run in candidates.values():
        run()
    start = time.perf_counter()
    seconds: Seconds = {name: [] for name in candidates}
    for number in range(runs):
        if number and time.perf_counter() - start > most_seconds:
            break
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def median(values: list[float]) -> float:
    """The median of a candidate's times."""
    return statistics.median(values)


def ratio(seconds: Seconds, above: str, below: str) -> float:
    """How many times longer `above` took than `below`: the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def fitted_exponent(sizes: list[float], values: list[float]) -> float:
    """The exponent p of values ~ sizes**p, by least squares on logarithms.

    Examples
    --------
    >>> round(fitted_exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def peak_mib() -> float:
    """Most memory that this process has held so far, in MiB."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def machine() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    names = ("numpy", "numba", "scipy", "scikit-image", "opencv-contrib-python", "instahide-nb")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "processors used": affinity,
        "threads": os.environ.get("NUMBA_NUM_THREADS", "not limited"),
        "memory (GiB)": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "load at start": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
