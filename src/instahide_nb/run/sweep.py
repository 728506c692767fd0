"""Sweeps: many runs of the three notebooks on Dask workers, and one table of their results.

A sweep file (YAML) has a preset, changes to it for all runs (``parameters``) and lists of values (``axes``), which
override ``parameters``. Each combination is a run, repeated with R consecutive seeds by ``repeats: R``. ``variants``
lists named sets of parameters, each with its own ``methods``. Names are those of ``-p``.

Workers share the sweep's folder with this process. Each run has its own process, because papermill changes the working
directory; it ends with its worker. A complete run is recognised by its hashes and not repeated; a run whose worker died
resumes after its last complete stage. ``table.csv`` and ``table.parquet`` depend only on the sweep file and the
package; ``times.csv`` and ``times.parquet`` have times, memory and workers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from instahide_nb import __version__
from instahide_nb.core.errors import InputError, naming
from instahide_nb.core.files import make_folder, read_json, write_bytes, write_json
from instahide_nb.core.params import GenDataParams, Record, read_yaml
from instahide_nb.core.progress import duration
from instahide_nb.core.runs import RESOURCES, locked, read_usage
from instahide_nb.core.threads import thread_count
from instahide_nb.data.sources import source_kind
from instahide_nb.evaluate.metrics import METRICS
from instahide_nb.run.manifest import compare, read_manifest
from instahide_nb.run.notebooks import NotebookError
from instahide_nb.run.pipeline import make_plan, method_slug, preset_values, reproduce
from instahide_nb.show import plots

if TYPE_CHECKING:
    from pandas import DataFrame

_MOST_RUNS = 10_000
_Value = bool | int | float | str


class SweepFigure(Record):
    """The figure of a sweep: a metric against an axis, with one line per value of another axis."""

    x: str
    y: str = METRICS[0]
    lines: str = "method"


class SweepVariant(Record):
    """A named set of parameters, and the methods to run on it."""

    name: str
    methods: list[str] = Field(min_length=1)
    parameters: dict[str, _Value] = Field({})


class SweepFile(Record):
    """A sweep file as written."""

    preset: str = "tiny"
    parameters: dict[str, _Value] = Field({})
    axes: dict[str, Annotated[list[_Value], Field(min_length=1)]] = Field({})
    variants: list[SweepVariant] = Field([])
    repeats: int = Field(1, ge=1)
    figure: SweepFigure | None = None


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    identity: str  # sha256 of all parameters as written and of the package's version; names the run's folder
    label: str  # the values of the axes; the variant
    preset: str
    method: str
    overrides: dict[str, Any]  # for make_plan
    parameters: dict[str, Any]  # all of them, for the table; of a source outside the package only its kind

    def folder(self, sweep: Path) -> Path:
        """The run's folder, in that of the sweep."""
        return sweep.resolve() / "runs" / self.identity[:12]


class SweepResult(NamedTuple):
    """What `run_sweep` returns."""

    folder: Path
    table: DataFrame  # one row per run
    failed: list[str]  # one line per failed run


def load_sweep(path: Path | str) -> tuple[list[SweepRun], SweepFigure | None]:
    """Read a sweep file and check every run; returns the runs in the order of the table, and the figure."""
    content = read_yaml(path, nested=True)
    with naming(path):
        file = SweepFile(**content)
        axes = [*file.axes, *(["variant", "method"] if file.variants else [])]
        figure, count = file.figure, file.repeats * math.prod(map(len, file.axes.values()))
        count *= sum(len(variant.methods) for variant in file.variants) or 1
        preset_values(file.preset)
        if count > _MOST_RUNS:
            raise InputError(f"axes: {count} runs; at most {_MOST_RUNS} are accepted")
        for name in {figure.x, figure.lines} - {*axes, "method"} if figure else ():
            raise InputError(f"figure: {name!r} is not an axis; choose {', '.join(axes)}")
        if figure and figure.y not in METRICS:
            raise InputError(f"figure: y is {figure.y!r}; choose {', '.join(METRICS)}")
        runs: dict[str, SweepRun] = {}
        for run in _runs(file):
            if (same := runs.setdefault(run.identity, run)) is not run:
                raise InputError(f"axes: the runs {same.label} and {run.label} are the same")
    return list(runs.values()), figure


def _runs(file: SweepFile) -> Iterator[SweepRun]:
    """The runs of a file: the product of its factors, each a list of parameters to set together."""
    sets: Any = [{"variant": v.name, "method": m, "set": v.parameters} for v in file.variants for m in v.methods]
    factors = [sets or [{}], *([{name: v} for v in values] for name, values in file.axes.items())]
    for parts in itertools.product(*factors):
        shown = {name: value for part in parts for name, value in part.items()}
        fixed = file.parameters | shown.pop("set", {})
        for repeat in range(file.repeats):
            try:
                yield _run(file.preset, fixed, shown, repeat if file.repeats > 1 else None)
            except InputError as error:
                label = _label(shown, file.preset)
                raise InputError(f"run {label}: {str(error).removeprefix('-p ')}") from None


def _label(shown: Mapping[str, Any], preset: str) -> str:
    return " ".join(f"{name}={value}" for name, value in shown.items()) or preset


def _run(preset: str, fixed: Mapping[str, Any], shown: dict[str, Any], repeat: int | None) -> SweepRun:
    overrides = {**fixed, **shown}
    variant = {"variant": overrides.pop("variant")} if "variant" in shown else {}
    method = overrides.pop("attack.method", overrides.pop("method", None))
    values = preset_values(preset, overrides)
    method = values["attack"]["method"] if method is None else method
    if repeat is not None:
        first = values["gen_data"]["seed"]
        if not isinstance(first, int):
            raise InputError(f"repeats: the seed is {first!r}; give a number to count from")
        shown, overrides = shown | {"seed": first + repeat}, overrides | {"seed": first + repeat}
    plan = make_plan(preset, [method], ".", overrides)
    seed, drawn = plan.gen_data.seed, plan.gen_data.rng != "mt19937" or plan.gen_data.seed == "entropy"
    if drawn and not plan.gen_data.key:  # a key of the seed, so that runs can be repeated
        seed = preset_values(preset)["gen_data"]["seed"] if seed == "entropy" else seed
        overrides["key"] = hashlib.sha256(f"instahide-nb sweep, seed {seed}".encode()).hexdigest()
        plan = make_plan(preset, [method], ".", overrides)
    attack = plan.attacks[0][0].as_dict()
    written = {name: value for name, value in plan.gen_data.as_dict().items() if name != "out_dir"}
    written |= {name: attack[name] for name in ("method", "seed_start", "seed_stop")}
    written["attack.n_public"] = attack["n_public"]
    # Sources as written, not as the absolute paths that the plan has.
    written |= {name: values["gen_data"][name] for name in ("private_source", "public_source")}
    written["attack.public_source"] = values["attack"]["public_source"]
    usual = GenDataParams().as_dict()  # defaults do not count, so that a new parameter does not change the identity
    named = {name: value for name, value in written.items() if name not in usual or value != usual[name]}
    text = json.dumps({"version": __version__, "preset": preset, **named}, sort_keys=True)
    parameters = {"preset": preset, **variant} | {
        name: source_kind(value) if name.endswith("_source") and not value.startswith("embedded") else value
        for name, value in written.items()
        if name != "key"
    }
    identity = hashlib.sha256(text.encode()).hexdigest()
    return SweepRun(identity, _label(shown, preset), preset, method, overrides, parameters)


# One run: run_task on a worker, _main in the run's own process.

_ROW, _ERROR, _TOKEN = "sweep.json", "sweep-error.json", ".sweep-token"
_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def run_task(task: Mapping[str, Any]) -> dict[str, str]:
    """Do one run on a Dask worker; the answer has ``error`` if it failed, ``refused`` if the worker cannot do it."""
    if task["version"] != __version__:
        return {"refused": f"has instahide-nb {__version__}, the sweep {task['version']}; install the same"}
    if not Path(task["token"]).is_file() or not Path(task["cwd"]).is_dir():
        return {"refused": f"does not see {task['token']}; a sweep needs folders that all its workers share"}
    folder = make_folder(task["folder"])
    (folder / _ERROR).unlink(missing_ok=True)
    # A cluster has one run per slot, so one thread each unless the sweep or the worker sets another number.
    threads = str(task["threads"] or os.environ.get("NUMBA_NUM_THREADS") or 1)
    environment = os.environ | dict.fromkeys(_THREADS, threads) | {"INSTAHIDE_NB_PROGRESS": "0"}
    command = [sys.executable, "-m", "instahide_nb.run.sweep"]
    with open(make_folder(folder / "log", secret=True) / "worker.log", "ab") as log:
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
        with subprocess.Popen(command, cwd=task["cwd"], env=environment, start_new_session=True, **streams) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(dict(task)).encode() + b"\n")  # not an argument: it may hold a key
            process.stdin.flush()
            code = process.wait()
    if code == 0:
        return {}
    if (folder / _ERROR).is_file():
        return {"error": str(read_json(folder / _ERROR)["error"])}
    how = f"signal {-code}; out of memory?" if code < 0 else f"exit code {code}"
    return {"error": f"the run's process ended with {how}"}


def _main() -> None:
    """Do the run in the first line of standard input, a pipe that is open while the worker lives."""
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, code = Path(task["folder"]), 0
    try:
        # The process of a lost worker may still run: wait for its end.
        with locked(folder, ".sweep-lock", wait=True):
            if not is_complete(folder, task["identity"]):
                reproduce(make_plan(task["preset"], [task["method"]], folder, task["overrides"]))
                write_json(folder / _ROW, {"identity": task["identity"], "worker": task["worker"]})
    except Exception as error:
        text, code = " ".join(str(error).split()), 1
        if not isinstance(error, InputError | NotebookError):
            traceback.print_exc()
            text = f"{type(error).__name__}: {text}"
        # Errors in the table must not depend on the sweep's folder.
        text = re.sub(r"\s*\(partial notebook: [^)]*\)$", "", text).replace(str(folder), "RUN")
        write_json(folder / _ERROR, {"error": text})
    sys.stdout.flush()
    os._exit(code)  # not through interpreter shutdown: the thread still waits on standard input


def _end_with_parent() -> None:
    import psutil

    sys.stdin.buffer.read()  # returns when the worker is gone
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


def is_complete(folder: Path, identity: str) -> bool:
    """Whether a folder holds this run, complete and unchanged."""
    try:
        same = read_json(folder / _ROW).get("identity") == identity
        return same and not compare(folder, read_manifest(folder).files())
    except InputError:
        return False


# The whole sweep

_PATIENCE = 15  # seconds to reach a scheduler


@contextmanager
def open_cluster(
    scheduler: str | None, workers: int | None, waiting: int, say: Callable[[str], None]
) -> Iterator[tuple[Any, int | None]]:
    """A client of a scheduler, or of at most `waiting` workers started here; and the number of threads per run."""
    import distributed

    def introduce(client: Any, what: str) -> None:  # with the page that needs no bokeh
        say(f"{what}; dashboard {str(client.dashboard_link).removesuffix('/status')}/info/main/workers.html")

    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            why = f"cannot be reached ({str(error).splitlines()[0]}); start one with dask scheduler"
            raise InputError(f"--scheduler: {scheduler} {why}") from None
        with client:
            introduce(client, f"scheduler {scheduler}, {len(client.nthreads())} workers")
            if not client.nthreads():
                say(f"no worker yet; start some with: dask worker {scheduler}")
            yield client, None
        return
    processors = thread_count()
    count = workers or min(processors, waiting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if the dashboard's port is taken, it uses another one
        cluster = distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            silence_logs=logging.CRITICAL,
            memory_limit=0,  # runs are processes beside the workers
        )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        introduce(client, f"{count} worker{'s' if count > 1 else ''} on this machine")
        yield client, max(1, processors // count)


def _on_worker(task: dict[str, Any]) -> dict[str, str]:
    import distributed

    worker = distributed.get_worker().address
    return run_task(task | {"worker": worker}) | {"worker": worker}


def _answer(future: Any) -> dict[str, str]:
    import distributed

    error = future.exception() if future.status == "error" else None
    if isinstance(error, distributed.KilledWorker):
        return {"error": "every worker that tried this run was killed; out of memory?"}
    if future.status != "finished":
        raise error or RuntimeError("the scheduler dropped the runs; run the sweep again to continue")
    answer = dict(future.result())
    if "refused" in answer:
        raise InputError(f"--scheduler: worker {answer['worker']} {answer['refused']}")
    return answer


def run_sweep(
    path: Path | str,
    out: Path | str | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> SweepResult:
    """Do the runs of a sweep file that are not complete yet, and write its tables and its figure.

    Results go to `out`, by default ``runs/sweeps/NAME``. `scheduler` is the address of a Dask scheduler; without it,
    `workers` (by default one per processor) are started on this machine. `say` receives one line per run that ends.
    """
    for name in ("distributed", "pandas", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"sweep: {name} is not installed; pip install 'instahide-nb[sweep]'")
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is too few; give 1 or more")
    if scheduler is not None and workers is not None:
        raise InputError("--workers: a scheduler has its own workers; leave out one of the two options")
    import distributed

    runs, figure = load_sweep(path)
    folder = make_folder(Path(out) if out is not None else Path("runs") / "sweeps" / Path(path).stem)
    waiting = [run for run in runs if not is_complete(run.folder(folder), run.identity)]
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} finished before")
    errors: dict[str, str] = {}
    if waiting:
        write_bytes(folder / _TOKEN, b"workers of this sweep must see this file\n")
        shared = {"token": str(folder.resolve() / _TOKEN), "cwd": os.getcwd(), "version": __version__}
        with open_cluster(scheduler, workers, len(waiting), say) as (client, threads):
            start, submitted = time.monotonic(), {}
            for run in waiting:
                asked = {name: getattr(run, name) for name in ("identity", "preset", "method", "overrides")}
                task = shared | asked | {"folder": str(run.folder(folder)), "threads": threads}
                submitted[client.submit(_on_worker, task, pure=False)] = run
            for done, future in enumerate(distributed.as_completed(list(submitted), loop=client.loop), 1):
                run, answer = submitted[future], _answer(future)
                if "error" in answer:
                    errors[run.identity] = answer["error"]
                left = duration((time.monotonic() - start) / done * (len(waiting) - done))
                text = f"failed: {answer['error']}" if "error" in answer else "done"
                say(f"[{done}/{len(waiting)}] {run.label}: {text}; about {left} left")
    table, times = make_tables(runs, folder, errors)
    for name, frame in (("table", table), ("times", times)):
        write_bytes(folder / f"{name}.csv", to_csv(frame))
        write_bytes(folder / f"{name}.parquet", frame.to_parquet(index=False, compression="zstd"))
    if figure is not None and table[figure.y].notna().any():
        x, lines = (name if name in table else name.rpartition(".")[2] for name in (figure.x, figure.lines))
        picture = plots.sweep_plot(table, x, y=figure.y, lines=lines)
        write_bytes(folder / "figure.png", plots.figure_bytes(picture, dpi=150))
    lost = [(number, run) for number, run in enumerate(runs, 1) if run.identity in errors]
    failed = [f"run {n} ({r.label}): {errors[r.identity]} (log: {r.folder(folder) / 'log'})" for n, r in lost]
    return SweepResult(folder, table, failed)


_ARRAYS = ("encryption", "label", "recovered", "assignment", "decryption")
_TYPES: dict[str, Any] = dict.fromkeys([*METRICS, *(f"{name}_signed" for name in METRICS)], "float64")
_TYPES |= {"recovered_generator": "boolean", **{f"sha256_{name}": "string" for name in _ARRAYS}, "error": "string"}


def make_tables(runs: Sequence[SweepRun], sweep: Path, errors: Mapping[str, str]) -> tuple[DataFrame, DataFrame]:
    """The results and the times of the runs in the folder `sweep`; `errors` of failed runs, by identity."""
    import pandas

    results, times = [], []
    for number, run in enumerate(runs, 1):
        key: dict[str, Any] = {"run": number, "id": run.identity[:12]}
        values: dict[str, Any] = {"error": errors.get(run.identity)}
        spent: dict[str, Any] = {"worker": None, "peak_mib": None, "gen_data_s": None, "attack_s": None}
        if run.identity not in errors:
            folder, name = run.folder(sweep), method_slug(run.method)
            attack, scores = read_json(folder / "attack" / name / "attack.json"), folder / "evaluate" / name
            values |= read_json(scores / "metrics.json") if (scores / "metrics.json").is_file() else {}
            values["recovered_generator"] = attack.get("recovered")
            values |= {f"sha256_{Path(f).stem}": d for f, d in read_manifest(folder).files().items()}
            usage = read_usage(folder / RESOURCES)
            spent["worker"] = read_json(folder / _ROW).get("worker")
            spent["peak_mib"] = max((stage.peak_mib or 0 for stage in usage.values()), default=None)
            spent |= {f"{stage.partition('/')[0]}_s": cost.seconds for stage, cost in usage.items()}
            spent |= {f"attack_{stage}_s": seconds for stage, seconds in attack.get("seconds", {}).items()}
        results.append(key | run.parameters | values)
        times.append(key | spent)
    mixed = any(isinstance(run.parameters["seed"], str) for run in runs)  # "entropy" beside numbers
    table = pandas.DataFrame(results).reindex(columns=["run", "id", *runs[0].parameters, *_TYPES])
    return table.astype(_TYPES | ({"seed": str} if mixed else {})), pandas.DataFrame(times)


def to_csv(frame: DataFrame) -> bytes:
    """A table as CSV: floats with all digits, ``true`` and ``false``, missing values empty."""
    flags = {name: frame[name].map({True: "true", False: "false"}) for name in frame.select_dtypes("boolean")}
    return str(frame.assign(**flags).to_csv(index=False, lineterminator="\n")).encode()


if __name__ == "__main__":
    _main()
