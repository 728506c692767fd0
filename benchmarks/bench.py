"""Time and memory of the package, as ratios measured in one run: ``make bench``.

``python benchmarks/bench.py --quick`` tries everything at small sizes, ``--only CASE`` measures some cases anew, and
``--docs`` writes the tables into ``docs/benchmarks.md``. Results go to ``runs/bench/``.

Every case and every size runs in a process of its own, so that its peak memory is its own. The candidates of a case
take turns: each runs once in every round, after a first call that is not counted. Ratios are taken within a round,
because other work on the machine then meets all candidates alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cases
import growth
import tables

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds")
    parser.add_argument("--only", action="append", choices=[*cases.CASES, "growth"], help="may be repeated")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of encryptions, for growth")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/")
    options = parser.parse_args()
    known = DOCS / "benchmarks.json" if options.docs else options.out / "bench.json"
    runs = 2 if options.quick else 5
    result: dict[str, Any] = {"cases": {}, "growth": {}}
    if options.only and known.exists():
        result = json.loads(known.read_text())
    result |= {"machine": machine(), "quick": options.quick}
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = options.only or [*cases.CASES, "growth"]
    for name, case in cases.CASES.items():
        if name in chosen:
            result["cases"][name] = in_a_process(name, case, options.quick, runs)
    if "growth" in chosen:
        for n in options.sizes or (growth.SIZES[:1] if options.quick else growth.SIZES):
            result["growth"][str(n)] = {
                stage: in_a_process(f"{stage}, {n:,}", measure, options.out, n, runs)
                for stage, measure in growth.STAGES.items()
                if stage != "prng-state" or n == growth.PUBLISHED
            }
    known.write_text(json.dumps(result, indent=2) + "\n")
    text = tables.markdown(result)
    (options.out / "bench.md").write_text(text)
    print(text)
    if options.docs:
        fill_page()
    wrong = tables.failures(result)
    print("".join(f"{line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


def fill_page() -> None:
    """Write the tables of docs/benchmarks.json into docs/benchmarks.md."""
    page, bench = DOCS / "benchmarks.md", json.loads((DOCS / "benchmarks.json").read_text())
    text = tables.between_markers(page.read_text(encoding="utf-8"), tables.markdown(bench))
    page.write_text(text, encoding="utf-8")


def in_a_process(name: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Result of ``measure(*arguments)`` in a new process with its peak memory, or why it failed."""
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            found = pool.submit(_with_memory, measure, *arguments).result()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(found.get("failed", f"{time.perf_counter() - start:.0f} s"), file=sys.stderr)
    return found


def _with_memory(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    found = measure(*arguments)
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # bytes, or KiB
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def machine() -> dict[str, Any]:
    """The machine and the versions that the results belong to."""
    from instahide_nb.core.runs import machine_line

    packages = ("numba", "scipy", "scikit-image", "opencv-contrib-python", "instahide-nb")
    return {
        "machine": machine_line(),
        "threads": os.environ.get("NUMBA_NUM_THREADS", "not limited"),
        **{name: version(name) for name in packages},
        "load at start": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
