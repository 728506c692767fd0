"""Time and memory of every stage, against what one would use instead: ``make bench``, or ``bench.py --quick``.

Writes ``runs/bench/bench.json`` and ``runs/bench/bench.md``. Every case runs in a process of its own; within it each
candidate runs once a round, five rounds, and medians and ratios of rounds are given. ``--docs`` also writes the tables
into ``docs/benchmarks.md``, between its markers, and keeps the figures beside it. ``--only`` measures some cases
anew and keeps the others' figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth
from cases import CASES
from measuring import machine, peak_mib
from report import markdown, over_bounds, replace_between_markers

ROOT = Path(__file__).resolve().parents[1]
STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "gen_data": growth.make_challenge,
    "unmask": growth.unmask,
    "evaluate": growth.score_attack,
    "prng-state": growth.prng_state,
}


def main() -> int:
    """Measure what was asked for."""
    options = _options()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.in_process:
        _measure_here(options)
        return 0
    result: dict[str, Any] = {"machine": machine(), "quick": options.quick, "cases": {}, "growth": {}}
    known = out / "bench.json"
    if options.only and known.exists():
        earlier = json.loads(known.read_text())
        if earlier["quick"] == options.quick:
            result = earlier | {"machine": result["machine"]}
    chosen = options.only or [*CASES, "growth"]
    for name in (name for name in CASES if name in chosen):
        result["cases"][name] = _in_a_process(options, name)
    if "growth" in chosen:
        sizes = options.sizes or ([1250] if options.quick else growth.SIZES)
        for n in sizes:
            wanted = [stage for stage in STAGES if stage != "prng-state" or n == growth.PUBLISHED]
            found = {stage: _in_a_process(options, f"{stage}:{n}") for stage in wanted}
            result["growth"][str(n)] = found
        result["growth"] = dict(sorted(result["growth"].items(), key=lambda item: int(item[0])))
    known.write_text(json.dumps(result, indent=2, sort_keys=False) + "\n")
    text = markdown(result)
    (out / "bench.md").write_text(text)
    print(text)
    if options.docs:
        replace_between_markers(ROOT / "docs" / "benchmarks.md", text)
        shutil.copyfile(known, ROOT / "docs" / "benchmarks.json")
    failed = [name for name, case in result["cases"].items() if "failed" in case]
    over = over_bounds(result["growth"])
    print("".join(f"{name}: more memory than its bound\n" for name in over), end="", file=sys.stderr)
    return 1 if failed or over else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: a minute or two")
    parser.add_argument("--only", action="append", choices=[*CASES, "growth"], help="may be repeated")
    parser.add_argument("--sizes", type=int, nargs="+", help="encryptions, for growth")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.add_argument("--in-process", metavar="CASE", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(options: argparse.Namespace, name: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--in-process", name, "--out", str(options.out)]
    start = time.perf_counter()
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    done = subprocess.run(
        words + ["--quick"] * options.quick,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{name} failed: {why}", file=sys.stderr)
        return {"failed": why}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure_here(options: argparse.Namespace) -> None:
    runs = 2 if options.quick else 5
    stage, _, size = options.in_process.partition(":")
    if size:
        found = STAGES[stage](options.out, int(size), runs)
    else:
        found = CASES[stage](options.quick, runs) | {"peak_mib": peak_mib()}
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
