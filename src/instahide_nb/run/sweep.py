"""Dask workers: those of a scheduler that is named, or processes of this machine, which listen on loopback only.

Sweep files: which runs a YAML file of axes asks for, each checked before the first one starts.

A file names a preset, what is changed of it for all runs (``parameters``), and lists of values (``axes``), of which
every combination is a run; ``repeats: R`` makes each run R times, with R seeds in a row. Every parameter of
``gen_data`` and ``attack`` can be an axis, under the name that ``-p`` takes.

One run of a sweep, on a worker: the three notebooks through papermill in a process of their own.

A process for each run, because papermill changes the working directory and because a run may then use threads, memory
or a crash of its own without harm to the Dask worker. The process ends with its worker: it reads from a pipe that
breaks when the worker dies. Another worker then takes the run up at its last whole stage.

The tables of a sweep: results without times, and times apart, each as CSV and as Parquet.

The table of results depends on the sweep file and the package alone: rows come in the order of the file, numbers
are written in full, and nothing in it tells when, where or by how many workers a run was done.

The figure of a sweep: a metric against one axis, with a line or a group of bars for each value of another.

Sweeps: many runs of the three notebooks on Dask workers, and one table of what came out.

Each run is a row. The workers are processes of this machine unless a scheduler is named; what they share with this
process is a folder. A run that finished is recognised by its hashes and never repeated; a worker that dies loses
only the stage it was at.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import re
import resource
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from instahide_nb import __version__
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, read_json, write_bytes, write_json
from instahide_nb.core.params import AttackParams, GenDataParams, read_yaml
from instahide_nb.core.progress import progress
from instahide_nb.core.runs import locked
from instahide_nb.core.threads import thread_count
from instahide_nb.data.sources import source_kind
from instahide_nb.evaluate.metrics import METRICS
from instahide_nb.run.pipeline import Plan, home, make_plan, presets
from instahide_nb.show import plots as figures

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


_KEYS = ("preset", "parameters", "axes", "repeats", "figure")
_MOST_RUNS = 10_000
_LARGEST = 2**20  # bytes
_NAMES = {"gen_data": GenDataParams.names(), "attack": AttackParams.names()}
_ALL_NAMES = {name for names in _NAMES.values() for name in names}
_OWN = {"out_dir", "release_dir", "key"}  # set by the sweep: folders by run, keys from seeds


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes
    ----------
    identity : str
        sha256 of all parameters as written, and of the package's version. The folder of the run is named after it.
    label : str
        The values of the axes, for people.
    preset, method, overrides : str, str, dict
        What :func:`instahide_nb.run.pipeline.make_plan` takes.
    parameters : dict
        Every parameter, for the table; of a source outside the package only its kind.
    """

    identity: str
    label: str
    preset: str
    method: str
    overrides: dict[str, Any]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class SweepFigure:
    """What the figure shows: the metric `y` against the axis `x`, a line for each value of the axis `lines`."""

    x: str
    y: str = "max_ssim"
    lines: str = "method"


@dataclass(frozen=True)
class SweepFile:
    """A sweep: its runs, in the order of the table."""

    path: Path
    runs: tuple[SweepRun, ...]
    figure: SweepFigure | None


def load_sweep(path: Path | str) -> SweepFile:
    """Read and check a sweep file.

    Raises
    ------
    InputError
        When it is no such file, or a run that it asks for cannot be: names the axis, and the run.
    """
    file = Path(path)
    content = _read(file)
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"a sweep has {', '.join(_KEYS)}; other names go below parameters or axes"
            )
            raise InputError(f"{file}: {key}: no such entry; {hint}")
    preset = content.get("preset", "tiny")
    if not isinstance(preset, str) or preset not in presets():
        raise InputError(f"{file}: preset: {preset!r} is not known; choose {', '.join(presets())}")
    fixed, axes = (_mapping(file, content, name) for name in ("parameters", "axes"))
    for kind, names in (("parameter", fixed), ("axis", axes)):
        for name in names:
            _check_name(file, kind, name)
    for name in fixed:
        if name in axes:
            raise InputError(f"{file}: axis {name}: is fixed below parameters too; take one of them away")
        if isinstance(fixed[name], list | dict):
            raise InputError(f"{file}: parameter {name}: takes one value; lists go below axes")
    for name, values in axes.items():
        _check_axis(file, name, values)
    repeats = content.get("repeats", 1)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise InputError(f"{file}: repeats: {repeats!r} is not a number of times; give 1 or more")
    if "repeats" in content and {"seed", "gen_data.seed"} & axes.keys():
        raise InputError(f"{file}: axis seed: repeats chooses the seeds; take one of them away")
    count = repeats
    for values in axes.values():
        count *= len(values)
    if count > _MOST_RUNS:
        raise InputError(f"{file}: axes: {count} runs; at most {_MOST_RUNS} are accepted")
    figure = _figure(file, content.get("figure"), axes)
    runs = tuple(_runs(file, preset, fixed, axes, repeats))
    seen: dict[str, str] = {}
    for run in runs:
        if run.identity in seen:
            raise InputError(f"{file}: axes: the runs {seen[run.identity]} and {run.label} are the same")
        seen[run.identity] = run.label
    return SweepFile(file, runs, figure)


def _read(file: Path) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name given twice, of which YAML keeps the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"{file}: {name}: is given twice; take one of them away")
            return super().construct_mapping(node, deep)

    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file}: is larger than 1 MiB; a sweep file is not")
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        shipped = sorted(p.stem for p in (home() / "params" / "sweeps").glob("*.yaml"))
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); params/sweeps holds {', '.join(shipped)}"
        ) from None
    except InputError:
        raise
    except Exception:  # beside YAMLError, PyYAML lets through what int(), date() and dict lookups raise
        raise InputError(f"{file}: is not YAML; write preset, axes and so on as in params/sweeps") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no sweep; write preset, axes and so on as in params/sweeps")
    return content


def _mapping(file: Path, content: Mapping[Any, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"{file}: {name}: is {type(value).__name__}; write one 'name: value' a line below it"
        )
    return {str(key): entry for key, entry in value.items()}


def _check_name(file: Path, kind: str, name: str) -> None:
    head, _, tail = name.rpartition(".")
    known = set(_NAMES.get(head, ())) if head else _ALL_NAMES
    if tail in _OWN:
        raise InputError(f"{file}: {kind} {name}: is set by the sweep itself; take it away")
    if tail not in known:
        near = difflib.get_close_matches(tail, sorted(_ALL_NAMES - _OWN), 1)
        hint = f"did you mean {near[0]}?" if near else "the parameters are those of params/PRESET/*.yaml"
        raise InputError(f"{file}: {kind} {name}: no such parameter; {hint}")


def _check_axis(file: Path, name: str, values: object) -> None:
    if not isinstance(values, list):
        raise InputError(f"{file}: axis {name}: is no list; write [{values}], or move it below parameters")
    if not values:
        raise InputError(f"{file}: axis {name}: is empty; give its values")
    for place, value in enumerate(values):
        if isinstance(value, list | dict) or value is None:
            raise InputError(
                f"{file}: axis {name}: value {place + 1} is no plain value; give numbers or text"
            )
        if value in values[:place]:
            raise InputError(f"{file}: axis {name}: {value!r} is there twice; take one of them away")


def _figure(file: Path, content: object, axes: Mapping[str, Any]) -> SweepFigure | None:
    if content is None:
        return None
    names = ("x", "y", "lines")
    if not isinstance(content, dict) or not set(content) <= set(names) or "x" not in content:
        raise InputError(f"{file}: figure: takes x, y and lines, of which x must be given")
    for name in ("x", "lines"):
        if name in content and content[name] not in axes:
            raise InputError(
                f"{file}: figure: {name} is {content[name]!r}; choose an axis: {', '.join(axes)}"
            )
    if content.get("y", METRICS[0]) not in METRICS:
        raise InputError(f"{file}: figure: y is {content['y']!r}; choose {', '.join(METRICS)}")
    return SweepFigure(**content)


def _runs(
    file: Path, preset: str, fixed: Mapping[str, Any], axes: Mapping[str, list[Any]], repeats: int
) -> Iterator[SweepRun]:
    base = {name: read_yaml(home() / "params" / preset / f"{name}.yaml") for name in _NAMES}
    first = fixed.get("gen_data.seed", fixed.get("seed", base["gen_data"]["seed"]))
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for repeat in range(repeats):
            overrides = dict(fixed) | chosen
            shown = dict(chosen)
            if repeats > 1:
                if not isinstance(first, int):
                    raise InputError(
                        f"{file}: repeats: the seed {first!r} cannot be counted on; give a number"
                    )
                overrides.pop("gen_data.seed", None)
                overrides["seed"] = shown["seed"] = first + repeat
            label = " ".join(f"{name}={value}" for name, value in shown.items()) or preset
            yield _run(file, preset, overrides, axes, label, base)


def _run(
    file: Path,
    preset: str,
    overrides: dict[str, Any],
    axes: Mapping[str, Any],
    label: str,
    base: Mapping[str, Mapping[str, Any]],
) -> SweepRun:
    method = overrides.pop("attack.method", overrides.pop("method", base["attack"]["method"]))
    if not isinstance(method, str):
        raise InputError(f"{file}: axis method: {method!r} is no text; give the name of an attack")
    try:
        plan = make_plan(preset, [method], ".", overrides)
        if plan.gen_data.seed == "entropy":
            raise InputError("seed: entropy would draw another challenge each time; give numbers")
        if plan.gen_data.rng == "chacha20":
            # A key for each seed, so that a sweep of the mended generator can be repeated as well.
            overrides["key"] = hashlib.sha256(
                f"instahide-nb sweep, seed {plan.gen_data.seed}".encode()
            ).hexdigest()
            plan = make_plan(preset, [method], ".", overrides)
    except InputError as error:
        raise InputError(_blame(file, str(error), axes, label)) from None
    written = _as_written(plan, overrides, base)
    text = json.dumps({"version": __version__, "preset": preset, **written}, sort_keys=True)
    parameters = {"preset": preset} | {name: value for name, value in written.items() if name != "key"}
    for name in ("private_source", "public_source", "attack.public_source"):
        keyword = str(parameters[name])
        parameters[name] = keyword if keyword.startswith("embedded") else source_kind(keyword)
    return SweepRun(hashlib.sha256(text.encode()).hexdigest(), label, preset, method, overrides, parameters)


def _as_written(
    plan: Plan, overrides: Mapping[str, Any], base: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Every parameter by its name in the table; sources as the file has them, not as paths of this machine."""
    attack = plan.attacks[0][0].as_dict()
    written = {name: value for name, value in plan.gen_data.as_dict().items() if name != "out_dir"}
    written |= {name: attack[name] for name in ("method", "seed_start", "seed_stop")}
    written["attack.n_public"] = attack["n_public"]

    def source(notebook: str, name: str) -> Any:
        return overrides.get(f"{notebook}.{name}", overrides.get(name, base[notebook][name]))

    written["private_source"] = source("gen_data", "private_source")
    written["public_source"] = source("gen_data", "public_source")
    written["attack.public_source"] = source("attack", "public_source")
    return written


def _blame(file: Path, message: str, axes: Mapping[str, Any], label: str) -> str:
    """The message with the axis named, where a value of one is at fault."""
    head, colon, rest = message.removeprefix("-p ").partition(":")
    for name in head.split(", ") if colon else []:
        for axis in axes:
            if name in (axis, axis.rpartition(".")[2]):
                return f"{file}: axis {axis}:{rest} (run {label})"
    return f"{file}: {message} (run {label})"


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
            [sys.executable, "-m", "instahide_nb.run.sweep"],
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
    from instahide_nb.run.manifest import compare, read_manifest

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


def _work(task: Mapping[str, Any]) -> dict[str, Any]:
    from instahide_nb.run.pipeline import NotebookError, make_plan, reproduce

    folder = Path(task["folder"])
    # A worker that was given up may still be at it: wait for its end, then go on with what it left.
    with locked(folder, ".sweep-lock", wait=True):
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
    from instahide_nb.run.manifest import read_manifest

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
        row = _work(task)
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


_ARRAYS = ("encryption", "label", "recovered", "assignment", "decryption")
_STAGES = ("gen_data", "attack", "evaluate")

Outcome = Mapping[str, Any]
Row = dict[str, Any]


def result_rows(runs: Sequence[SweepRun], outcomes: Sequence[Outcome]) -> list[Row]:
    """One row a run: parameters, metrics, hashes, and the error of a run that failed.

    Parameters
    ----------
    runs : sequence of SweepRun
    outcomes : sequence of mapping
        What :func:`instahide_nb.run.sweep.run_task` returned for each.
    """
    rows = []
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), 1):
        metrics, hashes = outcome.get("metrics", {}), outcome.get("sha256", {})
        row: Row = {"run": number, "id": run.identity[:12], **run.parameters}
        row |= {name: metrics.get(name) for name in (*METRICS, *(f"{m}_signed" for m in METRICS))}
        row["recovered_generator"] = outcome.get("recovered_generator")
        row |= {f"sha256_{name}": hashes.get(name) for name in _ARRAYS}
        row["error"] = outcome.get("error")
        rows.append(row)
    return rows


def time_rows(runs: Sequence[SweepRun], outcomes: Sequence[Outcome]) -> list[Row]:
    """One row a run: worker, peak memory, seconds of each notebook and of each stage of the attack.

    A stage that an earlier, interrupted attempt had finished has no time.
    """
    stages = list(dict.fromkeys(name for outcome in outcomes for name in outcome.get("attack_seconds", {})))
    rows = []
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), 1):
        row: Row = {"run": number, "id": run.identity[:12], "worker": outcome.get("worker")}
        row["peak_mib"] = outcome.get("peak_mib")
        seconds, inside = outcome.get("seconds", {}), outcome.get("attack_seconds", {})
        row |= {f"{stage}_s": seconds.get(stage) for stage in _STAGES}
        row |= {f"attack_{stage}_s": inside.get(stage) for stage in stages}
        rows.append(row)
    return rows


def to_csv(rows: Sequence[Row]) -> bytes:
    """Rows as CSV: a line of names, floats in full, nothing for what is missing.

    Examples
    --------
    >>> to_csv([{"run": 1, "max_ssim": 0.1, "found": True}, {"run": 2, "max_ssim": None, "found": None}])
    b'run,max_ssim,found\\n1,0.1,true\\n2,,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([str(v).lower() if isinstance(v, bool) else v for v in row.values()])
    return text.getvalue().encode()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Rows as Parquet; the bytes follow from the rows and the version of pyarrow."""
    import pyarrow
    import pyarrow.parquet

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = pyarrow.table(
        {name: pyarrow.array(values, _type(name, values)) for name, values in columns.items()}
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _type(name: str, values: Sequence[Any]) -> Any:
    """The column's type, also where every run failed and all values are missing."""
    import pyarrow

    known = [value for value in values if value is not None]
    if name == "recovered_generator" or (known and all(isinstance(value, bool) for value in known)):
        return pyarrow.bool_()
    if name.endswith("_s") or name.removesuffix("_signed") in METRICS:
        return pyarrow.float64()
    if known and all(isinstance(value, int) for value in known):
        return pyarrow.int64()
    return pyarrow.float64() if known and all(isinstance(v, int | float) for v in known) else pyarrow.string()


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Write ``NAME.csv`` and ``NAME.parquet``."""
    write_bytes(folder / f"{name}.csv", to_csv(rows))
    write_bytes(folder / f"{name}.parquet", to_parquet(rows))


_DPI = 150
_TITLES = {
    "k": "images mixed, k",
    "encryptions_per_image": "encryptions per private image",
    "n_private": "private images",
    "max_ssim": "Max_SSIM",
    "mean_ssim": "Mean_SSIM",
    "min_l2": "Min_L2",
    "max_l2": "Max_L2",
    "mean_l2": "Mean_L2",
}

Series = dict[str, dict[Any, list[float]]]


def score_series(rows: Sequence[Mapping[str, Any]], wanted: SweepFigure) -> Series:
    """For each value of the axis of lines and each of x, the scores of its runs; failed runs are left out.

    Examples
    --------
    >>> rows = [{"k": 2, "method": "unmask", "max_ssim": 0.9}, {"k": 4, "method": "unmask", "max_ssim": None}]
    >>> score_series(rows, SweepFigure("k"))
    {'unmask': {2: [0.9]}}
    """
    x, lines = (name if name in rows[0] else name.rpartition(".")[2] for name in (wanted.x, wanted.lines))
    title = "" if lines in ("method", "scheme", "rng") else f"{_TITLES.get(lines, lines)} = "
    series: Series = {}
    for row in rows:
        if row[wanted.y] is not None:
            series.setdefault(f"{title}{row[lines]}", {}).setdefault(row[x], []).append(row[wanted.y])
    return series


def score_bars(series: Series, *, xlabel: str, ylabel: str, width: float = 6.0) -> Figure:
    """Groups of bars for an axis of names: means, with a line from the worst to the best of repeated runs."""
    names = list(dict.fromkeys(name for scores in series.values() for name in scores))
    with figures.style():
        figure = Figure(figsize=(width, 0.5 * width), layout="constrained")
        axis = figure.add_subplot()
        breadth = 0.8 / len(series)
        for place, (label, scores) in enumerate(series.items()):
            own = [name for name in names if name in scores]
            at = np.array([names.index(name) for name in own]) + (place - (len(series) - 1) / 2) * breadth
            mean = np.array([math.fsum(scores[name]) / len(scores[name]) for name in own])
            reach = [[m - min(scores[n]), max(scores[n]) - m] for m, n in zip(mean, own, strict=True)]
            color = figures.OKABE_ITO[place % len(figures.OKABE_ITO)]
            axis.bar(at, mean, 0.94 * breadth, label=label, color=color, yerr=np.array(reach).T, capsize=2)
            for where, value in zip(at, mean, strict=True):
                axis.annotate(f"{value:.2f}", (where, max(value, 0) + 0.01), ha="center", fontsize=7)
        axis.set_xticks(range(len(names)), [str(name) for name in names])
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save_sweep_figure(rows: Sequence[Mapping[str, Any]], wanted: SweepFigure, path: Path) -> None:
    """Draw the figure of a sweep's table and save it as PNG."""
    series = score_series(rows, wanted)
    xlabel, ylabel = (_TITLES.get(name, name) for name in (wanted.x, wanted.y))
    if all(isinstance(x, int | float) for scores in series.values() for x in scores):
        figure = figures.quality_curve(series, xlabel=xlabel, ylabel=ylabel)
    else:
        figure = score_bars(series, xlabel=xlabel, ylabel=ylabel)
    buffer = io.BytesIO()
    with figures.style():
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


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
        See :mod:`instahide_nb.run.sweep`.
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
        pass

        save_sweep_figure(rows, sweep.figure, folder / "figure.png")
    failed = [
        f"run {row['run']} ({run.label}): {row['error']} (log: {folder / 'runs' / row['id'] / 'log'})"
        for run, row in zip(sweep.runs, rows, strict=True)
        if row["error"] is not None
    ]
    return SweepResult(folder, rows, failed)
