"""Runs without Jupyter: the notebooks' cells in this process, or in one that forks from it and can be killed.

The pipeline, its lock and manifest, the notebooks' code and every hashed file are those of a real run; papermill and
the kernel are left out, since they take most of the time.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import write_bytes
from instahide_nb.core.runs import Usage
from instahide_nb.run import pipeline
from instahide_nb.show import plots


def small(folder: Path) -> dict[str, Any]:
    """Parameters of a challenge of 120 encryptions, of noise images that are put into the folder."""
    private, public = folder / "private.npz", folder / "public.npz"
    if not public.exists():
        images = np.random.default_rng(7).integers(0, 256, (24, 16, 16, 3), np.uint8)
        np.savez(private, images=images[:8], labels=np.arange(8) % 3)
        np.savez(public, images=images[8:])
    sources = {"private_source": str(private), "public_source": str(public)}
    return {"seed": 3141592653, "n_private": 8, "n_public": 16, "encryptions_per_image": 15} | sources


def attack(release: Any, public: Any) -> AttackResult:
    """Answers with the mean public image."""
    image = on_the_grid(public.mean(axis=0) / 127.5 - 1)
    n = len(release.encryption)
    recovered = np.repeat(image[None], release.info.n_private, axis=0)
    unknown = np.full((n, release.info.private_per_row), -1)
    return AttackResult("mean", recovered, unknown, np.repeat(image[None], n, axis=0), "O(1)")


def lost(release: Any, public: Any) -> AttackResult:
    """Does not find the generator, unless the environment says that it does."""
    if "FOUND" in os.environ:
        return attack(release, public)
    return AttackResult.not_found("lost", "O(1)", "nothing there", release=release, seconds={}, details={})


def run_cells(notebook: str, parameters: Mapping[str, Any], output: Path, *, cwd: Path, **others: object) -> Usage:
    """What :func:`instahide_nb.run.notebooks.execute` does, in this process."""
    book = json.loads((pipeline.home() / "notebooks" / f"{notebook}.ipynb").read_text())
    names: dict[str, Any] = {}
    output = output.resolve()
    here = Path.cwd()
    os.chdir(cwd)
    try:
        for cell in book["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
                if "parameters" in cell["metadata"].get("tags", []):
                    names.update(parameters)
    finally:
        os.chdir(here)
    write_bytes(output, json.dumps(book).encode(), secret=notebook == "gen_data")
    return Usage(seconds=0, processor_seconds=None, peak_mib=None, machine="this process")


def small_plan(run: Path, *methods: str, **changes: object) -> pipeline.Plan:
    """A run of :func:`small`, by default with :func:`attack`."""
    return pipeline.make_plan("tiny", methods or ["forked_runs:attack"], run, small(run.parent) | changes)


def start(folder: Path, sources: Path, method: str, out: str = "run", **changes: Any) -> subprocess.Popen[str]:
    """Start ``instahide-nb reproduce`` in `folder`, with the modules beside the tests."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-m", "instahide_nb.run.cli", "reproduce", "--preset", "tiny", "--out", out]
    words += ["--method", method, *(f"-p{name}={value}" for name, value in small(sources).items())]
    return subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def forked(run: Path, *, kill_after: float | None = None, limit: int | None = None) -> tuple[int, str]:
    """:func:`small_plan` in a process that forks from this one; exit code (negative: the signal) and error.

    It is killed after so many seconds; no file may grow beyond `limit` bytes. Plots (never hashed) are left out.
    """
    plan, (read, write) = small_plan(run), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = io.StringIO()  # pytest's own files may be too large to grow
            for name in vars(plots):
                if name.endswith(("_histogram", "_plot")):
                    setattr(plots, name, lambda *values, **options: Figure(figsize=(0.1, 0.1)))
            pipeline.execute = run_cells
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            pipeline.reproduce(plan)
            code = 0
        except InputError as error:
            os.write(write, str(error).encode())
            code = 2
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write)
    end = time.monotonic() + (3600 if kill_after is None else kill_after)
    while time.monotonic() < end and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)  # nobody has waited for it yet, so the number is still its own
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(read) as said:
        return code, said.read()
