"""The cases in which a run is to give the same bits, and a table of them: ``make same-bits``, ``make test-oldest``.

Each case varies several things at once, so that every value occurs in some case and few runs are enough. A case runs
in a process and a folder of its own; what it changes is then looked for inside that process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy._core import _multiarray_umath as umath

from instahide_nb.run.manifest import expected

SCRIPT = Path(__file__).with_name("case_digests.py")
DISPATCHED = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
"""The processor features, by numpy's own names, that it would use here beyond its baseline."""
AVX512 = [name for name in DISPATCHED if name.startswith(("X86_V4", "AVX512"))]
HAS = {
    "x86-64": platform.machine() in ("x86_64", "AMD64"),
    "AVX2": any(umath.__cpu_features__.get(name) for name in ("X86_V3", "AVX2")),
    "AVX-512": bool(AVX512),
}
"""What cases need of a processor, and whether this one has it."""


@dataclass(frozen=True)
class Case:
    """One way to run."""

    name: str
    changes: dict[str, str] = field(default_factory=dict)  # environment variables
    seen: dict[str, Any] = field(default_factory=dict)  # what the process then says of itself (case_digests.py)
    needs: str = ""  # what a machine must have to run it, of `HAS`

    def impossible(self) -> str:
        """Why this machine cannot run the case; empty when it can."""
        return f"this processor has no {self.needs}" if self.needs and not HAS[self.needs] else ""


CASES = (
    Case("as it is", {}, {"numpy features": DISPATCHED}),
    # The least that a machine may be: no vector units beyond the baseline, one thread, another place.
    Case(
        "plain",
        {
            "NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED),
            "NUMBA_CPU_NAME": "generic",
            "NUMBA_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OPENBLAS_CORETYPE": "Nehalem",
            "OPENCV_CPU_DISABLE": "AVX,AVX2,FP16,AVX512-SKX",
            "PYTHONHASHSEED": "1",
            "LC_ALL": "C",
            "TZ": "Asia/Kathmandu",
        },
        {
            "numpy features": [],
            "numba processor": "generic",
            "threads": 1,
            "openblas": "Nehalem",
            "time zone": "+0545",
            "opencv without": ["*AVX", "*AVX2", "*FP16", "*AVX512-SKX"],
        },
        needs="x86-64",
    ),
    # More threads than cores, and what a processor without AVX-512 would take.
    Case(
        "haswell",
        {
            "NPY_DISABLE_CPU_FEATURES": " ".join(AVX512),
            "NUMBA_NUM_THREADS": "4",
            "OPENBLAS_NUM_THREADS": "4",
            "OPENBLAS_CORETYPE": "Haswell",
            "OPENCV_CPU_DISABLE": "AVX512-SKX",
            "PYTHONHASHSEED": "2",
            "LC_ALL": "C.UTF-8",
            "TZ": "America/St_Johns",
        },
        {
            "numpy features": [name for name in DISPATCHED if name not in AVX512],
            "threads": 4,
            "openblas": "Haswell",
            "encoding": "UTF-8",
            "opencv without": ["*AVX512-SKX"],
        },
        needs="AVX2",
    ),
    Case(
        "skylakex",
        {
            "NUMBA_NUM_THREADS": "2",
            "OPENBLAS_NUM_THREADS": "2",
            "OPENBLAS_CORETYPE": "SkylakeX",
            "PYTHONHASHSEED": "3",
            "TZ": "Asia/Tokyo",
        },
        {"numpy features": DISPATCHED, "threads": 2, "openblas": "SkylakeX", "time zone": "+0900"},
        needs="AVX-512",
    ),
)


def run_case(
    case: Case, place: Path, preset: str, methods: Sequence[str], python: str = sys.executable, forms: bool = False
) -> dict[str, Any]:
    """What case_digests.py answers in an empty folder `place`, with the kernels of OpenBLAS under ``openblas``."""
    (place / "run").mkdir()
    # Nothing that one case computed serves another; OpenBLAS names its kernel on stderr when it is loaded.
    own = {"INSTAHIDE_NB_CACHE": str(place / "cache"), "OPENBLAS_VERBOSE": "2"}
    words, environment = [python, str(SCRIPT), preset, *methods, *["--forms"] * forms], os.environ | own
    environment.pop("OPENBLAS_NUM_THREADS", None)  # the tests' own
    environment |= case.changes
    done = subprocess.run(words, cwd=place / "run", env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case.name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    kernels = {line.split()[1] for line in done.stderr.splitlines() if line.startswith("Core: ")}
    answer["surroundings"]["openblas"] = " ".join(sorted(kernels))
    return answer


def not_seen(case: Case, surroundings: Mapping[str, Any]) -> list[str]:
    """What a case should have changed and did not, a line each."""
    wanted = dict(case.seen)
    off = wanted.pop("opencv without", [])
    still = [name for name in off if name in surroundings["opencv features"]]
    wrong = [f"opencv still uses {name}" for name in still]
    return wrong + [
        f"{name} is {surroundings[name]!r}, not {value!r}"
        for name, value in wanted.items()
        if surroundings[name] != value
    ]


def faults(found: Mapping[str, Mapping[str, str]], known: Mapping[str, str]) -> list[str]:
    """The files whose hashes differ between the cases, which some case lacks, or which are not the known ones."""
    lines = []
    for name in sorted({name for digests in found.values() for name in digests}):
        hashes = {digests.get(name) for digests in found.values()}
        if len(hashes) > 1:
            lines.append(f"{name}: differs between cases")
        elif name in known and hashes != {known[name]}:
            lines.append(f"{name}: is not the expected {known[name][:8]}")
    return lines


def main() -> int:
    """Run the cases one after the other and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--method", action="append", help="may be repeated; none: only the challenge")
    parser.add_argument("--forms", action="store_true", help="attack releases of other forms too, with unmask")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="all by default")
    parser.add_argument("--other-python", help="an interpreter with other versions: one case more")
    options = parser.parse_args()
    chosen = [(case, sys.executable) for case in CASES if not options.case or case.name in options.case]
    if options.other_python:
        chosen.append((Case("other versions"), str(Path(options.other_python).absolute())))
    found, wrong = {}, []
    for case, python in chosen:
        if case.impossible():
            print(f"{case.name}: not possible here, {case.impossible()}", flush=True)
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            answer = run_case(case, Path(place), options.preset, options.method or [], python, options.forms)
        found[case.name] = answer["digests"]
        wrong += [f"{case.name}: {line}" for line in not_seen(case, answer["surroundings"])]
        print(f"{case.name}: {time.monotonic() - start:.0f} s, {json.dumps(answer['surroundings'])}", flush=True)
    known = expected(options.preset) or {}
    wrong += faults(found, known)
    compared = {name for digests in found.values() for name in digests}
    print(f"{len(found)} cases, {len(compared)} files, {len(compared & known.keys())} of them with an expected hash")
    print("\n".join(wrong or ["The same bits in all."]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
