"""Numba kernels on several threads, with results that do not depend on how many there are.

A kernel ``kernel(low, high, *arguments)`` works on rows (or pixels) low .. high-1 and writes only its own part of
its outputs. Plain ``nogil`` kernels in a thread pool compile several times faster than numba's own
parallel functions, and cannot turn a sum into a parallel reduction behind one's back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

__all__ = ["in_blocks", "thread_count"]


def thread_count() -> int:
    """Threads to use: ``NUMBA_NUM_THREADS`` where it is set, else the processors this process may use.

    Examples
    --------
    >>> thread_count() >= 1
    True
    """
    wish = os.environ.get("NUMBA_NUM_THREADS", "")
    if wish.isdigit() and int(wish) > 0:
        return int(wish)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads of this process, kept: to start them anew for each kernel took longer than many kernels do."""
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def in_blocks(kernel: Callable[..., None], count: int, *arguments: Any, block: int | None = None) -> None:
    """Run ``kernel(low, high, *arguments)`` over 0 .. count-1 in blocks, several at a time.

    Parameters
    ----------
    kernel : callable
        Releases the interpreter lock, and writes only what belongs to its block.
    count : int
    block : int, optional
        Length of a block; left out, each thread gets about four.

    Examples
    --------
    >>> seen = []
    >>> in_blocks(lambda low, high: seen.append(high - low), 10, block=4)
    >>> sorted(seen)
    [2, 4, 4]
    """
    threads = thread_count()
    size = block or max(1, -(-count // (4 * threads)))
    parts = [(low, min(low + size, count)) for low in range(0, count, size)]
    if threads == 1 or len(parts) <= 1:
        for low, high in parts:
            kernel(low, high, *arguments)
        return
    kernel(*parts[0], *arguments)  # compiles once, before several threads ask for it
    for job in [_pool(threads).submit(kernel, low, high, *arguments) for low, high in parts[1:]]:
        job.result()
