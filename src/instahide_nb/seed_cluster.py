"""The scan of ``prng-seed`` over Dask workers: parts of the range in ascending order, the lowest verified seed kept.

Only labels are sent to the workers. The answer is that of a scan on one machine: a part is given up only when a lower
one has found a seed.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instahide_nb.dask_cluster import about, check_options, open_cluster
from instahide_nb.errors import InputError
from instahide_nb.release import Release, load_release

__all__ = ["lowest_seed", "scan_release"]

_PART = 1 << 26  # seeds: some seconds of one processor

Scan = Callable[[Release, int, int, int | None], int | None]


def scan_release(
    release_dir: Path | str,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> int | None:
    """Scan seeds for the lowest that makes all labels of a release.

    Parameters
    ----------
    release_dir : Path or str
        Its folder.
    seed_start, seed_stop : int
        The range, within 0 .. 2**32.
    scheduler, workers, say
        See :func:`instahide_nb.dask_cluster.open_cluster`.

    Returns
    -------
    int or None

    Raises
    ------
    InputError
        When the release cannot be read or names another generator, the range is none, or the scheduler or a worker
        will not do.
    """
    check_options(scheduler, workers)
    if not 0 <= seed_start < seed_stop <= 2**32:
        raise InputError(
            f"seed_start, seed_stop: {seed_start} .. {seed_stop} is no range within 0 .. {2**32}"
        )
    release = load_release(release_dir)
    if release.info.rng != "mt19937":
        raise InputError(
            f"{release_dir}: names the generator {release.info.rng}; it has no 32-bit seed to scan"
        )
    release = dataclasses.replace(release, encryption=release.encryption[:0])
    parts = -(-(seed_stop - seed_start) // _PART)
    with open_cluster(scheduler, workers, parts, say) as (client, threads):
        return lowest_seed(client, release, seed_start, seed_stop, threads=threads, say=say)


def lowest_seed(
    client: Any,
    release: Release,
    start: int,
    stop: int,
    *,
    threads: int | None = 1,
    part: int = _PART,
    scan: Scan | None = None,
    say: Callable[[str], None] = print,
) -> int | None:
    """Scan start .. stop-1 in parts and return the lowest seed that any of them finds.

    Parameters
    ----------
    client : distributed.Client
    release : Release
    start, stop : int
    threads : int or None
        Threads of a task; None where the worker knows.
    part : int
        Seeds a task.
    scan : callable, optional
        ``scan(release, first, last, threads)`` on a worker; by default that of ``prng-seed``.
    say : callable
        Takes a line for each part that ends.
    """
    import distributed

    begin = time.monotonic()
    edges = range(start, stop, part)
    # With each task, not scattered once: what lies on a worker is lost with it.
    futures = [
        client.submit(
            scan or _scan,
            release,
            first,
            min(first + part, stop),
            threads,
            pure=False,
            priority=-number,
            retries=1,
        )
        for number, first in enumerate(edges)
    ]
    place = {future.key: number for number, future in enumerate(futures)}
    found: dict[int, int] = {}
    open_parts, wanted = set(range(len(futures))), len(futures)
    with _says_where_to_go_on(edges, open_parts, found, say):
        for future in distributed.as_completed(futures, loop=client.loop):
            number = place[future.key]
            if number > min(found, default=len(futures)):
                continue  # given up, or of no interest
            if future.status != "finished":
                raise future.exception() or RuntimeError("the scheduler gave the scan up; run it again")
            seed = future.result()
            if seed is None:
                open_parts.discard(number)
            else:
                found[number] = seed
                wanted = number + 1
                client.cancel(futures[number + 1 :])
                open_parts.discard(number)
                say(f"seed {seed} makes all labels; lower ones are still looked at")
            done = wanted - sum(1 for p in open_parts if p < wanted)
            left = (time.monotonic() - begin) / done * (wanted - done)
            say(f"[{done}/{wanted}] seeds below {min(edges[number] + part, stop)}; {about(left)}")
            if done == wanted:
                break
    return found[min(found)] if found else None


@contextmanager
def _says_where_to_go_on(
    edges: range, open_parts: set[int], found: dict[int, int], say: Callable[[str], None]
) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if open_parts:
            first = edges[min(open_parts)]
            say(
                f"interrupted: seeds {edges.start} .. {first - 1} are done; --seed-start {first} goes on there"
            )
        if found:
            say(f"the lowest seed so far: {found[min(found)]}")
        raise


def _scan(release: Release, first: int, last: int, threads: int | None) -> int | None:
    import numba

    from instahide_nb.attack.generator.prng_seed import find_seed

    wish = threads or int(
        os.environ.get("NUMBA_NUM_THREADS", 1)
    )  # without a wish, a task is one thread's work
    numba.set_num_threads(min(wish, numba.config.NUMBA_NUM_THREADS))
    outcome, _ = find_seed(release, first, last)
    if outcome is None:
        raise InputError("label.npy: no label of the first epoch shows the ratio of two coefficients")
    return outcome.seed
