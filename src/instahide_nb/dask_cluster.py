"""Dask workers: those of a scheduler that is named, or processes of this machine, which listen on loopback only."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from instahide_nb.attack.threads import thread_count
from instahide_nb.errors import InputError

__all__ = ["about", "check_options", "open_cluster"]

_PATIENCE = 15  # seconds to reach a scheduler


def check_options(scheduler: str | None, workers: int | None) -> None:
    """Refuse options that exclude each other, and a Python without Dask.

    Raises
    ------
    InputError
    """
    try:
        import distributed  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(f"sweep: {error.name} is not installed; pip install 'instahide-nb[sweep]'") from None
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is too few; give 1 or more")
    if scheduler is not None and workers is not None:
        raise InputError("--workers: a scheduler has its own workers; leave it out, or leave out --scheduler")


@contextmanager
def open_cluster(
    scheduler: str | None, workers: int | None, waiting: int, say: Callable[[str], None]
) -> Iterator[tuple[Any, int | None]]:
    """Connect to a scheduler, or start workers here.

    Parameters
    ----------
    scheduler : str or None
        Its address; None starts workers on this machine.
    workers : int or None
        How many of those; None means one for each processor.
    waiting : int
        How many tasks there are; no more workers are started.
    say : callable
        Takes a line with the dashboard's address.

    Yields
    ------
    client : distributed.Client
    threads : int or None
        How many threads a task may use; None where the worker knows.

    Raises
    ------
    InputError
        When the scheduler does not answer.
    """
    import distributed

    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"--scheduler: {scheduler} cannot be reached ({why}); start one with dask scheduler"
            ) from None
        with client:
            say(f"scheduler {scheduler}, {len(client.nthreads())} workers; dashboard {_dashboard(client)}")
            if not client.nthreads():
                say(f"no worker yet; start some with: dask worker {scheduler}")
            yield client, None
        return
    processors = thread_count()
    count = workers or min(processors, waiting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dashboard's port may be taken; then another one is
        cluster = distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            silence_logs=logging.CRITICAL,
            # Runs are processes beside the workers, whose own memory says nothing about them.
            memory_limit=0,
        )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        say(f"{count} worker{'s' if count > 1 else ''} on this machine; dashboard {_dashboard(client)}")
        yield client, max(1, processors // count)


def _dashboard(client: Any) -> str:
    """The address to look at; without bokeh, Dask serves plain tables at another one."""
    found = str(client.dashboard_link)
    if importlib.util.find_spec("bokeh") is None:
        found = found.removesuffix("/status") + "/info/main/workers.html"
    return found


def about(seconds: float) -> str:
    """Time left, in words.

    Examples
    --------
    >>> about(42), about(400), about(9000)
    ('about 42 s left', 'about 7 min left', 'about 2.5 h left')
    """
    if seconds < 100:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 6000 else f"about {seconds / 3600:.1f} h left"
