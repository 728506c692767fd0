"""One run of a sweep, on a worker: the three notebooks through papermill in a process of their own.

A process for each run, because papermill changes the working directory and because a run may then use threads, memory
or a crash of its own without harm to the Dask worker. The process ends with its worker: it reads from a pipe that
breaks when the worker dies. Another worker then takes the run up at its last whole stage.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instahide_nb import __version__
from instahide_nb.errors import InputError
from instahide_nb.storage import make_folder, read_json, write_json

__all__ = ["WorkerError", "finished_row", "run_task"]

ROW = "sweep.json"
_HASHED = ("release/encryption.npy", "release/label.npy")
_HASHED_OF_ATTACK = ("recovered.npy", "assignment.npy", "decryption.npy")
_THREAD_SETTINGS = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


class WorkerError(RuntimeError):
    """A worker cannot serve the sweep: it does not see the folder, or has another version of the package."""


def run_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do one run; called on a Dask worker.

    Parameters
    ----------
    task : mapping
        ``identity``, ``preset``, ``method``, ``overrides``; ``folder`` of the run and ``cwd``, both absolute;
        ``token``, a file of the sweep that the worker must see; ``version`` of the package; ``threads`` or None;
        ``worker``, the address of this one.

    Returns
    -------
    dict
        The row, see :func:`finished_row`; or ``error``, a line, where the run failed.

    Raises
    ------
    WorkerError
        When this worker cannot serve the sweep at all.
    """
    if task["version"] != __version__:
        raise WorkerError(f"has instahide-nb {__version__}, the sweep {task['version']}; install the same")
    if not Path(task["token"]).is_file() or not Path(task["cwd"]).is_dir():
        raise WorkerError(f"does not see {task['token']}; a sweep needs folders that all its workers share")
    folder = make_folder(task["folder"])
    log = make_folder(folder / "log", secret=True) / "worker.log"
    # One thread each, as there are as many runs at a time as the cluster has places, unless the sweep or the worker's
    # owner knows better.
    threads = str(task["threads"] or os.environ.get("NUMBA_NUM_THREADS") or 1)
    environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, threads) | {"INSTAHIDE_NB_PROGRESS": "0"}
    with (
        open(log, "ab") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "instahide_nb.sweep_run"],
            cwd=task["cwd"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(dict(task)).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.read()
        code = process.wait()
    if code == 0:
        return dict(json.loads(answer))
    how = f"signal {-code}; out of memory?" if code < 0 else f"exit code {code}"
    return {"error": f"the run's process ended with {how}"}


def finished_row(folder: Path, identity: str) -> dict[str, Any] | None:
    """The row of a finished run: its identity and the hashes of its files must be as they were.

    Returns
    -------
    dict or None
        ``identity``, ``metrics``, ``recovered_generator``, ``sha256`` by name of array, ``seconds`` by stage,
        ``attack_seconds`` by stage of the attack, ``peak_mib``, ``worker``; None where the run has not finished or a
        file was changed.
    """
    from instahide_nb.manifest import compare, read_manifest

    try:
        row = read_json(folder / ROW)
        stages = read_manifest(folder)["stages"].values()
        if row.get("identity") != identity or compare(
            folder, {k: v for s in stages for k, v in s["files"].items()}
        ):
            return None
    except InputError:
        return None
    return row


def _run(task: Mapping[str, Any]) -> dict[str, Any]:
    from instahide_nb.pipeline import NotebookError, make_plan, reproduce

    folder = Path(task["folder"])
    with open(folder / ".sweep-lock", "w") as handle:
        # A worker that was given up may still be at it: wait for its end, then go on with what it left.
        fcntl.flock(handle, fcntl.LOCK_EX)
        known = finished_row(folder, task["identity"])
        if known is not None:
            return known
        seconds: dict[str, float] = {}
        last = time.perf_counter()

        def note(line: str) -> None:
            nonlocal last
            now = time.perf_counter()
            if not line.endswith("already there"):
                seconds[line.split()[0].partition("/")[0]] = round(now - last, 3)
            last = now

        try:
            plan = make_plan(task["preset"], [task["method"]], folder, task["overrides"])
            reproduce(plan, note)
        except (InputError, NotebookError) as error:
            return {"error": _without_paths(str(error), folder)}
        row = _row(folder, plan.attacks[0][1].name, task["identity"])
        row |= {"seconds": seconds, "worker": task["worker"]}
        write_json(folder / ROW, row)
    return row


def _row(folder: Path, name: str, identity: str) -> dict[str, Any]:
    from instahide_nb.manifest import read_manifest

    about = read_json(folder / "attack" / name / "attack.json")
    stages = read_manifest(folder)["stages"]
    files = {path: digest for stage in stages.values() for path, digest in stage["files"].items()}
    hashed = [*_HASHED, *(f"attack/{name}/{file}" for file in _HASHED_OF_ATTACK)]
    return {
        "identity": identity,
        "metrics": read_json(folder / "evaluate" / name / "metrics.json"),
        "recovered_generator": about.get("recovered"),
        "sha256": {Path(path).stem: files[path] for path in hashed},
        "attack_seconds": about.get("seconds", {}),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }


def _without_paths(message: str, folder: Path) -> str:
    """An error as the table keeps it: the same wherever the sweep's folder lies.

    Examples
    --------
    >>> _without_paths("no /a/b/x.npy (partial notebook: /a/b/log/x.ipynb)", Path("/a/b"))
    'no RUN/x.npy'
    """
    message = re.sub(r"\s*\(partial notebook: [^)]*\)$", "", message)
    return message.replace(str(folder), "RUN")


def _end_with_parent() -> None:
    import psutil

    sys.stdin.buffer.read()  # returns when the worker is gone, or has closed the pipe
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


def _main() -> None:
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = os.dup(1)  # what notebooks or libraries print must not mix with the answer
    os.dup2(2, 1)
    try:
        row = _run(task)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        row = {"error": _without_paths(f"{type(error).__name__}: {text}", Path(task["folder"]))}
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump(row, stream)
    sys.stdout.flush()
    os._exit(0)  # not through interpreter shutdown: the thread still waits on standard input


if __name__ == "__main__":
    _main()
