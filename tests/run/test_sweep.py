"""Sweeps: what files ask for, tables without times and paths, workers that die, runs that fail."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest
from conftest import Sources

from instahide_nb import __version__
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import write_json
from instahide_nb.evaluate.metrics import METRICS
from instahide_nb.run import sweep
from instahide_nb.run.sweep import load_sweep

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "params" / "sweeps").glob("*.yaml"))

BESIDE = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
"""So that the processes of runs find the modules beside the tests."""

GATED = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from instahide_nb.attacks.result import AttackResult, on_the_grid

GATE = Path(__file__).parent / "gate"

if Path(sys.argv[0]).name == "sweep.py":  # in the process of a run: kernels only where a test looks at them
    from forked_runs import run_cells
    from instahide_nb.run import pipeline

    def execute(notebook, parameters, output, *, real=pipeline.execute, **others):
        k = parameters.get("k") or json.loads((others["cwd"] / "release/release.json").read_text())["k"]
        asked = {"gen_data": k == 2, "attack": k == 5 or not GATE.exists(), "evaluate": False}
        return (real if asked[notebook] else run_cells)(notebook, parameters, output, **others)

    pipeline.execute = execute

def attack(release, public):
    if release.info.k == 5:
        raise RuntimeError("five are\\ntoo many")
    try:
        GATE.touch(exist_ok=False)
    except FileExistsError:
        pass
    else:  # the first one here is at work until it is killed
        part = GATE.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.rename(GATE)
        time.sleep(600)
    image = on_the_grid(public.mean(axis=0) / 127.5 - 1)
    n = len(release.encryption)
    recovered = np.repeat(image[None], release.info.n_private, axis=0)
    return AttackResult("grey", recovered, np.full((n, 2), -1), np.repeat(image[None], n, axis=0), "O(1)")
"""


def runs_of(folder: Path, text: str) -> list[sweep.SweepRun]:
    (folder / "s.yaml").write_text(text)
    return load_sweep(folder / "s.yaml")[0]


# What a file asks for


def test_runs_are_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "parameters: {n_private: 6}\naxes: {k: [4, 2], scheme: [cross, inside]}\nrepeats: 2\n"
    runs = runs_of(tmp_path, text)
    found = [(r.parameters["k"], r.parameters["scheme"], r.parameters["seed"]) for r in runs]
    assert found == [(k, s, seed) for k in (4, 2) for s in ("cross", "inside") for seed in (2020, 2021)]
    assert all(r.parameters["n_private"] == 6 for r in runs)
    assert len({r.identity for r in runs}) == 8


def test_a_run_is_the_same_run_in_a_larger_sweep(tmp_path: Path, sources: Sources) -> None:
    (small,) = runs_of(tmp_path, "axes: {k: [2]}")
    large = runs_of(tmp_path, "parameters: {k: 7}\naxes: {seed: [7, 2020], k: [6, 2]}")
    assert small.identity == large[3].identity
    (other,) = runs_of(tmp_path, "parameters: {seed_stop: 9}\naxes: {k: [2]}")
    assert other.identity != small.identity
    (elsewhere,) = runs_of(tmp_path, f"parameters: {{private_source: {sources.private_path}, n_private: 7}}")
    assert elsewhere.parameters["private_source"] == "npz"
    assert str(sources.private_path) not in json.dumps(elsewhere.parameters), "no path gets into the table"


def test_runs_of_the_secure_generator_can_be_repeated(tmp_path: Path) -> None:
    text = "axes: {rng: [mt19937, chacha20]}\nrepeats: 2\n"
    runs = runs_of(tmp_path, text)
    assert runs == runs_of(tmp_path, text)
    keys = [run.overrides.get("key") for run in runs]
    assert keys[:2] == [None, None]
    assert [len(key) for key in {*keys[2:]}] == [64, 64]
    assert not any("key" in run.parameters for run in runs)


def test_a_variant_is_a_named_set_of_parameters_with_its_own_methods(tmp_path: Path) -> None:
    text = (
        "parameters: {k: 3, n_private: 6}\naxes: {seed: [1, 2]}\nfigure: {x: variant}\nvariants:\n"
        "  - {name: a, methods: [unmask, prng-state], parameters: {k: 2}}\n"
        "  - {name: b, methods: [unmask], parameters: {rng: mt19937-secure-permutations}}\n"
    )
    runs = runs_of(tmp_path, text)
    found = [(r.parameters["variant"], r.method, r.parameters["seed"], r.parameters["k"]) for r in runs]
    assert found == [("a", m, s, 2) for m in ("unmask", "prng-state") for s in (1, 2)] + [
        ("b", "unmask", s, 3) for s in (1, 2)
    ]
    assert runs[0].label == "variant=a method=unmask seed=1"
    (plain,) = runs_of(tmp_path, "parameters: {k: 2, n_private: 6, seed: 1}")
    assert plain.identity == runs[0].identity, "a name is no parameter"
    assert all(len(run.overrides["key"]) == 64 for run in runs[4:])


def test_entropy_in_a_sweep_is_a_key_of_the_seed(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "axes: {seed: [entropy, 5]}\n")
    assert runs == runs_of(tmp_path, "axes: {seed: [entropy, 5]}\n")
    assert [len(run.overrides.get("key", "")) for run in runs] == [64, 0]
    for number, run in enumerate(runs):
        finish(tmp_path, run, 0.5, "a", number)
    table, _ = sweep.make_tables(runs, tmp_path, {})
    table.to_parquet(tmp_path / "t.parquet")
    assert list(pandas.read_parquet(tmp_path / "t.parquet")["seed"]) == ["entropy", "5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {k: [2, 1]}", r"run k=1: k: 1 images"),
        ("axes: {k: []}", r"axes\.k: \[\] is not accepted"),
        ("axes: {k: [2, 3, 2]}", r"axes: the runs k=2 and k=2 are the same"),
        ("axes: {seed: [1, 2]}\nrepeats: 2", r"axes: the runs .* are the same"),
        ("axes: {n_privat: [2]}", r"n_privat: .* did you mean n_private\?"),
        ("axes: {evaluate.name: [a]}", r"evaluate.name: is set by the run"),
        ("variants: [{name: a, methods: []}]", r"methods: \[\] is not accepted"),
        ("variants: [{name: a, methods: [unmask, umask]}]", r"run variant=a method=umask: method: 'umask'"),
        ("variants: [{name: a, methods: [unmask]}, {name: b, methods: [unmask]}]", r"are the same"),
        ("axes: {method: [umask]}", r"method: 'umask' is not known"),
        ("axes: {scheme: [cross, mixup]}", r"run scheme=mixup"),
        ("parameters: {seed: entropy}\nrepeats: 2", r"repeats: the seed is 'entropy'"),
        ("repeats: 10001", r"10001 runs; at most"),
        ("parameters: {k: [2]}", r"parameters\.k: "),
        ("preset: small", r"preset: 'small' is not known; choose challenge, demo, tiny"),
        ("axis: {k: [2]}", r"axis: .*did you mean axes\?"),
        ("axes: {k: [2]}\nfigure: {x: rng}", r"figure: 'rng' is not an axis; choose k"),
        ("axes: {k: [2]}\nfigure: {x: k, y: ssim}", r"figure: y is 'ssim'"),
        ("- 1", r"is not a list of names"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        runs_of(tmp_path, text + "\n")
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}: ")
    assert "\n" not in str(caught.value)


# Tables


def finish(folder: Path, run: sweep.SweepRun, score: float | None, worker: str, seconds: float) -> None:
    """What a run leaves in its folder, as far as tables read it; without a score its generator was not found."""
    place = run.folder(folder)
    for name in ("attack/unmask", "evaluate/unmask"):
        (place / name).mkdir(parents=True, exist_ok=True)
    recovered = {} if score else {"recovered": False}
    write_json(place / "attack/unmask/attack.json", {"seconds": {"textures": seconds}} | recovered)
    if score:
        metrics = {name: score for name in METRICS} | {f"{name}_signed": score for name in METRICS}
        write_json(place / "evaluate/unmask/metrics.json", metrics)
    made = {"parameters": {}, "files": {"release/encryption.npy": "ab"}}
    write_json(place / "manifest.json", {"stages": {"gen_data": made}})
    cost = {"seconds": seconds, "processor_seconds": 1.0, "peak_mib": 3, "machine": "a"}
    write_json(place / "resources.json", {"stages": {"attack/unmask": cost}})
    write_json(place / "sweep.json", {"identity": run.identity, "worker": worker})


def test_both_forms_of_a_table_hold_the_same_values_and_times_are_elsewhere(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "axes: {k: [2, 4, 6]}")
    finish(tmp_path, runs[1], None, "a", 1.0)
    found = []
    for worker, seconds in (("tcp://a", 1.0), ("tcp://b", 2.0)):
        finish(tmp_path, runs[0], 1 / 3, worker, seconds)
        found.append(sweep.make_tables(runs, tmp_path, {runs[2].identity: "one, two"}))
    (table, times), (again, others) = found
    assert sweep.to_csv(table) == sweep.to_csv(again)
    assert [times["attack_s"][0], others["attack_s"][0], others["attack_textures_s"][0]] == [1.0, 2.0, 2.0]
    assert [times["worker"][0], others["worker"][0]] == ["tcp://a", "tcp://b"]
    table.to_parquet(tmp_path / "t.parquet", index=False)
    parquet = pandas.read_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_bytes(sweep.to_csv(table))
    text = rows_of(tmp_path / "t.csv")
    assert list(parquet.columns) == list(text[0])
    assert list(text[0])[:4] == ["run", "id", "preset", "seed"]
    assert float(text[0]["max_ssim"]) == parquet["max_ssim"][0] == 1 / 3
    assert [row["max_ssim"] for row in text[1:]] == ["", ""]
    assert [row["recovered_generator"] for row in text] == ["", "false", ""]
    assert [row["error"] for row in text] == ["", "", "one, two"]
    assert list(parquet["k"]) == [2, 4, 6]


# Runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Path:
    """A folder with an attack that waits at a gate and fails at k = 5, a sweep of two runs and one of the first."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "gated.py").write_text(GATED)
    fixed = {
        "private_source": str(sources.private_path),
        "public_source": str(sources.public_path),
        "n_private": 7,
        "gen_data.n_public": 12,
        "attack.n_public": 12,
        "encryptions_per_image": 2,
        "method": "gated:attack",
    }
    for name, k in (("gated", [2, 5]), ("alone", [2])):
        content = {"parameters": fixed, "axes": {"k": k}, "figure": {"x": "k", "lines": "k"}}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-m", "instahide_nb.run.cli", "sweep", *words], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": BESIDE}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def one_worker(place: Path) -> tuple[Path, int, str, str]:
    """The sweep by a single worker on this machine: folder, exit code, output and errors."""
    (place / "gate").write_text("open")
    process = start(place, "gated.yaml", "--out", "one", "--workers", "1")
    out, err = process.communicate(timeout=300)
    (place / "gate").unlink()
    return place / "one", process.returncode, out, err


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_that_fails_is_a_row_and_an_exit_code(one_worker: tuple[Path, int, str, str]) -> None:
    folder, code, out, err = one_worker
    assert code == 1, err
    (line,) = err.strip().splitlines()
    assert line.startswith("failed: run 2 (k=5): attack: cell")
    assert "dashboard http://127.0.0.1:" in out
    assert "[2/2]" in out
    rows = rows_of(folder / "table.csv")
    assert [row["k"] for row in rows] == ["2", "5"]
    for column in ("max_ssim", "sha256_decryption", "sha256_encryption"):
        assert [bool(row[column]) for row in rows] == [True, False]
    assert "RuntimeError: five are too many" in rows[1]["error"]
    assert str(folder) not in (folder / "table.csv").read_text()
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    times = rows_of(folder / "times.csv")
    assert float(times[0]["gen_data_s"]) > 0
    assert float(times[0]["peak_mib"]) > 20
    assert times[0]["worker"].startswith("tcp://127.0.0.1:")


@contextmanager
def dask(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *words]
    environment, nowhere = os.environ | {"PYTHONPATH": BESIDE}, subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers on this machine."""
    about = folder / "scheduler.json"
    host = ["--host", "127.0.0.1", "--no-dashboard"]
    with dask("scheduler", *host, "--port", "0", "--scheduler-file", str(about)):
        address = str(await_content(about, lambda text: json.loads(text)["address"]))
        worker = ["worker", address, *host, "--nthreads", "1", "--no-nanny"]
        worker += ["--local-directory", str(folder / "scratch")]
        with dask(*worker) as first, dask(*worker) as second:
            yield address, [first, second]


def await_content(path: Path, read: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return read(path.read_text())
        except (OSError, ValueError, KeyError):
            time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def test_a_worker_that_is_killed_leaves_the_table_as_it_is(
    place: Path, one_worker: tuple[Path, int, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    whole = Path(shutil.copytree(one_worker[0], place / "whole"))
    sweep.run_sweep("alone.yaml", whole)
    challenges = shutil.ignore_patterns("attack", "evaluate", "sweep*.json")
    shutil.copytree(one_worker[0] / "runs", place / "two" / "runs", ignore=challenges)
    with cluster(place) as (address, workers):
        sweeping = start(place, "alone.yaml", "--out", "two", "--scheduler", address)
        kernel = psutil.Process(await_content(place / "gate", int))
        above = {parent.pid for parent in kernel.parents()}
        (at_work,) = [worker for worker in workers if worker.pid in above]
        os.kill(at_work.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([kernel], timeout=20)
        assert not alive, "the kernel outlived its worker"
        stdout, stderr = sweeping.communicate(timeout=240)
    assert (sweeping.returncode, stderr) == (0, "")
    assert "[1/1]" in stdout
    for name in ("table.csv", "table.parquet", "figure.png"):
        assert (place / "two" / name).read_bytes() == (whole / name).read_bytes(), name


def test_finished_runs_are_not_repeated_and_damaged_ones_are(
    place: Path, one_worker: tuple[Path, int, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(one_worker[0], place / "copy"))
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHONPATH", BESIDE)
    (place / "gate").touch()
    said: list[str] = []
    files = [path for path in (copy / "runs").rglob("*") if path.is_file()]
    stamps = [path.stat().st_mtime_ns for path in files]
    found = sweep.run_sweep("alone.yaml", copy, say=said.append)
    assert said == ["1 runs, 1 finished before"]
    assert stamps == [path.stat().st_mtime_ns for path in files]
    assert (list(found.table["k"]), found.failed) == ([2], [])

    damaged = copy / "runs" / found.table["id"][0] / "evaluate" / "gated-attack" / "metrics.json"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    again = sweep.run_sweep("alone.yaml", copy, workers=1, say=said.append)
    assert said[1] == "1 runs, 0 finished before"
    assert damaged.read_bytes() == whole
    assert again.table.equals(found.table)
    (place / "gate").unlink()


def test_a_worker_that_cannot_serve_is_named(tmp_path: Path) -> None:
    task = {"version": "0.0.0", "token": str(tmp_path / "token"), "cwd": str(tmp_path)}
    assert "the sweep 0.0.0" in sweep.run_task(task)["refused"]
    assert "folders that all its workers share" in sweep.run_task(task | {"version": __version__})["refused"]


def test_everything_listens_on_this_machine_only() -> None:
    own = psutil.Process()
    with sweep.open_cluster(None, 1, 1, lambda line: None) as (client, _):
        assert client.submit(os.getpid).result() != own.pid
        processes = [own, *own.children(recursive=True)]
        listening = [c.laddr for p in processes for c in p.net_connections() if c.status == "LISTEN"]
    assert len(listening) >= 3
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_options_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("preset: tiny\n")
    with pytest.raises(InputError, match="--workers: 0 is too few"):
        sweep.run_sweep(path, tmp_path / "out", workers=0)
    with pytest.raises(InputError, match="a scheduler has its own workers"):
        sweep.run_sweep(path, tmp_path / "out", workers=1, scheduler="tcp://127.0.0.1:1")
    monkeypatch.setattr(sweep, "_PATIENCE", 1)
    for address in ("tcp://127.0.0.1:1", "nowhere://x"):
        with pytest.raises(InputError, match="cannot be reached") as caught:
            sweep.run_sweep(path, tmp_path / "out", scheduler=address, say=lambda line: None)
        assert "\n" not in str(caught.value)


# What docs/sweeps.md says of the sweeps


def test_findings_are_those_of_the_tables_and_these_of_the_sweeps_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import fill_sweeps as findings

    for path, make in findings.PARTS:
        page = path.read_text(encoding="utf-8")
        assert findings.filled(page, make()) == page, "run `python docs/fill_sweeps.py`"

    for name in (*findings.FINDINGS, "defences"):
        runs, _ = load_sweep(ROOT / "params" / "sweeps" / f"{name}.yaml")
        assert len(findings.read_table(name)) == len(runs)
