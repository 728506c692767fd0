"""The tiny run is the same to the last bit whatever the processor's features, kernels, threads and surroundings.

Each case varies several things at once, so that every value occurs in some case and a minute or two is enough.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from numpy._core import _multiarray_umath as umath

from instahide_nb.manifest import expected
from instahide_nb.storage import load_array, sha256_array

SCRIPT = Path(__file__).with_name("tiny_digests.py")
DISPATCHED = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
"""The processor features, by numpy's own names, that it would use here beyond its baseline."""

PLAIN = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED),
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENCV_CPU_DISABLE": "AVX,AVX2,FP16,AVX512-SKX",
    "PYTHONHASHSEED": "1",
    "LC_ALL": "C",
    "TZ": "Asia/Kathmandu",
}
"""The least that a machine may be: no vector units beyond the baseline, one thread, another place."""

OTHER = {
    "NUMBA_NUM_THREADS": "4",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "4",
    "PYTHONHASHSEED": "2",
    "LC_ALL": "C.UTF-8",
    "TZ": "Pacific/Chatham",
}
"""More threads than cores, and another kernel of the linear algebra library."""


@cache
def run(case: str, folder: Path) -> dict[str, Any]:
    """The digests of one case, from a process of its own in a folder of its own."""
    changes = {"plain": PLAIN, "other": OTHER, "as it is": {}}[case]
    place = folder / case.replace(" ", "-")
    place.mkdir()
    environment = os.environ | changes
    if "NUMBA_CPU_NAME" in changes:
        environment["NUMBA_CACHE_DIR"] = str(place / "numba")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bits")


def test_features_were_really_switched_off(folder: Path) -> None:
    assert run("as it is", folder)["features"] == DISPATCHED
    assert run("plain", folder)["features"] == []


@pytest.mark.parametrize("case", ["plain", "other"])
def test_bits_are_the_same(case: str, folder: Path) -> None:
    assert run(case, folder)["digests"] == run("as it is", folder)["digests"]


def test_bits_are_the_expected_ones(folder: Path, tmp_path: Path) -> None:
    """The manifest hashes files, this script arrays; files are made of the arrays of a run kept by the notebooks."""
    known = expected("tiny")
    assert known is not None
    from instahide_nb.attack.registry import run_attack
    from instahide_nb.attack.result import save_result
    from instahide_nb.challenge import build_challenge
    from instahide_nb.manifest import artefact_digest
    from instahide_nb.params import AttackParams, GenDataParams
    from instahide_nb.patches import public_patches

    release, wanted = build_challenge(GenDataParams()).release, AttackParams()
    result = run_attack("unmask", release, public_patches(wanted.public_source, wanted.n_public))
    save_result(tmp_path, result)
    found = run("as it is", folder)["digests"]
    for name in ("decryption", "recovered", "assignment"):
        assert artefact_digest(tmp_path / f"{name}.npy") == known[f"attack/unmask/{name}.npy"]
        assert sha256_array(load_array(tmp_path / f"{name}.npy")) == found[name]
