"""Threads: their number, numba kernels over blocks of rows, and BLAS on one thread.

A kernel ``kernel(low, high, *arguments)`` works on rows (or pixels) low .. high-1 and writes only its own part of
its outputs, so results do not depend on the number of threads. Plain ``nogil`` kernels in a thread pool compile
several times faster than numba's parallel functions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def thread_count() -> int:
    """Threads to use: ``NUMBA_NUM_THREADS`` if it is set, else :func:`processor_count`."""
    wish = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(wish) if wish.isdecimal() and int(wish) > 0 else processor_count()


def processor_count() -> int:
    """Processors that this process may use: its affinity, or the CPU quota of its container if that is smaller."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(affinity, _cpu_quota() or affinity)


@lru_cache
def _cpu_quota() -> int | None:
    """Quota over period of this process's container, rounded up: cgroup v2, else v1; None without a quota."""
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = map(int, " ".join((_CGROUP / name).read_text() for name in names).split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        return -(-quota // period) if quota > 0 else None
    return None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread in the whole process; also a decorator. Enter it before starting threads.

    Threads of OpenBLAS spin while they wait for each other, which on a shared processor costs more than the work.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


_here = threading.local()


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads are kept: starting them takes longer than many kernels."""
    return ThreadPoolExecutor(threads, initializer=setattr, initargs=(_here, "pooled", True))


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def in_blocks(kernel: Callable[..., object], count: int, *arguments: object, block: int | None = None) -> None:
    """Run ``kernel(low, high, *arguments)`` over 0 .. count-1 in blocks, several at a time.

    `kernel` should release the interpreter lock. Without `block` each thread gets about four blocks. A kernel may call
    this function too; its own blocks then run one after the other.
    """
    threads = 1 if getattr(_here, "pooled", False) else thread_count()
    size = block or max(1, -(-count // (4 * threads)))
    parts = [(low, min(low + size, count)) for low in range(0, count, size)]
    if threads == 1 or len(parts) <= 1:
        for low, high in parts:
            kernel(low, high, *arguments)
        return
    kernel(*parts[0], *arguments)  # compiles once, before several threads ask for it
    for job in [_pool(threads).submit(kernel, low, high, *arguments) for low, high in parts[1:]]:
        job.result()
