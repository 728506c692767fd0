"""Sweeps: many runs of the three notebooks on Dask workers, and one table of what came out.

Each run is a row. The workers are processes of this machine unless a scheduler is named; what they share with this
process is a folder. A run that finished is recognised by its hashes and never repeated; a worker that dies loses
only the stage it was at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instahide_nb import __version__
from instahide_nb.dask_cluster import about, check_options, open_cluster
from instahide_nb.errors import InputError
from instahide_nb.progress import progress
from instahide_nb.storage import make_folder, write_bytes
from instahide_nb.sweep_file import SweepFile, SweepRun, load_sweep
from instahide_nb.sweep_run import WorkerError, finished_row, run_task
from instahide_nb.sweep_table import result_rows, time_rows, write_table

__all__ = ["SweepResult", "run_sweep"]

_TOKEN = ".sweep-token"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left.

    Attributes
    ----------
    folder : Path
        Holds ``table.csv``, ``table.parquet``, ``times.csv``, ``times.parquet``, the figure, and ``runs/``.
    rows : list of dict
        The table.
    failed : list of str
        A line for each run that failed.
    """

    folder: Path
    rows: list[dict[str, Any]]
    failed: list[str]


def run_sweep(
    path: Path | str,
    out: Path | str | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> SweepResult:
    """Do the runs of a sweep file that are not there yet, and write its tables and its figure.

    Parameters
    ----------
    path : Path or str
        See :mod:`instahide_nb.sweep_file`.
    out : Path or str, optional
        Folder; ``runs/sweeps/NAME`` by default.
    scheduler : str, optional
        Address of a Dask scheduler; without it, workers are started on this machine.
    workers : int, optional
        How many of those; by default one for each processor, at most one for each run.
    say : callable
        Takes a line for each run that ends.

    Raises
    ------
    InputError
        When the file, the folder, the scheduler or one of its workers will not do.
    """
    check_options(scheduler, workers)
    sweep = load_sweep(path)
    folder = make_folder(Path(out) if out is not None else Path("runs") / "sweeps" / sweep.path.stem)
    places = {run.identity: folder.resolve() / "runs" / run.identity[:12] for run in sweep.runs}
    outcomes: dict[str, dict[str, Any]] = {}
    for run in progress(sweep.runs, desc="runs there"):
        row = finished_row(places[run.identity], run.identity)
        if row is not None:
            outcomes[run.identity] = row
    waiting = [run for run in sweep.runs if run.identity not in outcomes]
    say(f"{len(sweep.runs)} runs, {len(outcomes)} finished before")
    if waiting:
        write_bytes(folder / _TOKEN, b"workers of this sweep must see this file\n")
        with open_cluster(scheduler, workers, len(waiting), say) as (client, threads):
            tasks = [_task(run, places[run.identity], folder.resolve() / _TOKEN, threads) for run in waiting]
            for run, outcome in _outcomes(client, waiting, tasks, say):
                outcomes[run.identity] = outcome
    return _write(sweep, folder, [outcomes[run.identity] for run in sweep.runs])


def _task(run: SweepRun, folder: Path, token: Path, threads: int | None) -> dict[str, Any]:
    return {
        "identity": run.identity,
        "preset": run.preset,
        "method": run.method,
        "overrides": run.overrides,
        "folder": str(folder),
        "token": str(token),
        "cwd": os.getcwd(),
        "version": __version__,
        "threads": threads,
    }


def _outcomes(
    client: Any, runs: Sequence[SweepRun], tasks: Sequence[dict[str, Any]], say: Callable[[str], None]
) -> Iterator[tuple[SweepRun, dict[str, Any]]]:
    """Outcomes as they come in, with a line for each."""
    import distributed

    start = time.monotonic()
    futures = [client.submit(_on_worker, task, pure=False) for task in tasks]
    of_future = {future.key: run for future, run in zip(futures, runs, strict=True)}
    for done, future in enumerate(distributed.as_completed(futures, loop=client.loop), 1):
        run = of_future[future.key]
        outcome = _outcome(future)
        # Runs at work are taken as half done.
        halves = min(sum(client.nthreads().values()), len(runs) - done) / 2
        left = (time.monotonic() - start) / (done + halves) * (len(runs) - done - halves)
        text = f"failed: {outcome['error']}" if "error" in outcome else _score(outcome)
        say(f"[{done}/{len(runs)}] {run.label}: {text}; {about(left) if done < len(runs) else 'done'}")
        yield run, outcome


def _on_worker(task: dict[str, Any]) -> dict[str, Any]:
    import distributed

    address = distributed.get_worker().address
    try:
        return run_task(task | {"worker": address})
    except WorkerError as error:
        return {"refused": f"worker {address} {error}"}


def _outcome(future: Any) -> dict[str, Any]:
    import distributed

    if future.status == "finished":
        outcome = dict(future.result())
        if "refused" in outcome:
            raise InputError(f"--scheduler: {outcome['refused']}")
        return outcome
    error = future.exception() if future.status == "error" else None
    if isinstance(error, distributed.KilledWorker):
        return {"error": "the run took down every worker that tried it; out of memory?"}
    if error is None:
        raise RuntimeError("the scheduler gave the runs up; run the sweep again to go on")
    raise error


def _score(outcome: dict[str, Any]) -> str:
    return f"max_ssim {outcome['metrics']['max_ssim']:.3f}"


def _write(sweep: SweepFile, folder: Path, outcomes: Sequence[dict[str, Any]]) -> SweepResult:
    rows = result_rows(sweep.runs, outcomes)
    write_table(folder, "table", rows)
    write_table(folder, "times", time_rows(sweep.runs, outcomes))
    if sweep.figure is not None and any("metrics" in outcome for outcome in outcomes):
        from instahide_nb.sweep_figure import save_sweep_figure

        save_sweep_figure(rows, sweep.figure, folder / "figure.png")
    failed = [
        f"run {row['run']} ({run.label}): {row['error']} (log: {folder / 'runs' / row['id'] / 'log'})"
        for run, row in zip(sweep.runs, rows, strict=True)
        if row["error"] is not None
    ]
    return SweepResult(folder, rows, failed)
